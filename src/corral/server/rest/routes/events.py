"""/1.0/events: the websocket of events."""

from aiohttp import web

from corral.errors import InvalidRequest
from corral.server.rest import websocket
from corral.server.rest.request import Request
from corral.server.rest.routing import Routes

routes = Routes("/1.0/events")

TYPES = frozenset({"logging", "operation", "lifecycle"})


@routes.get("")
async def watch_events(request: Request) -> web.StreamResponse:
    """Send events as they happen, as text frames of JSON."""
    words = frozenset(word for word in request.query.get("type", "").split(",") if word) or TYPES
    for word in words - TYPES:
        raise InvalidRequest(f'"{word}" isn\'t a supported event type')
    if request.caller.projects is not None:
        words -= {"logging"}
    project = None if request.all_projects else request.requested_project
    listener = request.context.events.listen(words, project, request.caller.projects)
    try:
        return await websocket.send_events(request.raw, listener)
    finally:
        request.context.events.leave(listener)
