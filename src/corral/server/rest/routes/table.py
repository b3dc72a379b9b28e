"""All resources of the API, in the order of its documentation."""

from corral.server.rest.routes import (
    certificates,
    cluster,
    events,
    instance_snapshots,
    instance_state,
    instances,
    internal,
    networks,
    operations,
    profiles,
    projects,
    resources,
    root,
    server,
    storage_pools,
    storage_volumes,
    warnings,
)
from corral.server.rest.routing import Routes

ALL: tuple[Routes, ...] = (
    root.routes,
    server.routes,
    projects.routes,
    profiles.routes,
    certificates.routes,
    resources.routes,
    cluster.routes,
    warnings.routes,
    events.routes,
    operations.routes,
    instances.routes,
    instance_state.routes,
    instance_snapshots.routes,
    networks.routes,
    storage_pools.routes,
    storage_volumes.routes,
    internal.routes,
)
