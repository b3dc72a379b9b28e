"""/1.0/events: the websocket of events."""

import asyncio
import contextlib

import msgspec
from aiohttp import WSMsgType, web

from corral.errors import InvalidRequest
from corral.server.events.bus import Listener
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
        socket = await websocket.accept(request.raw)
        sender = asyncio.create_task(_send(socket, listener), name="events")
        try:
            async for message in socket:
                if message.type in (WSMsgType.CLOSE, WSMsgType.ERROR):
                    break
        finally:
            sender.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sender
    finally:
        request.context.events.leave(listener)
    return socket


async def _send(socket: web.WebSocketResponse, listener: Listener) -> None:
    with contextlib.suppress(ConnectionError):
        while not listener.lost:
            event = await listener.queue.get()
            if event is None:
                break
            await socket.send_str(msgspec.json.encode(event).decode())
        await socket.close()
