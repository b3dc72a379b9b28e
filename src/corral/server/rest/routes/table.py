"""All resources of the API, in the order of its documentation."""

from corral.server.rest.routes import events, internal, operations, root
from corral.server.rest.routing import Routes

ALL: tuple[Routes, ...] = (
    root.routes,
    events.routes,
    operations.routes,
    internal.routes,
)
