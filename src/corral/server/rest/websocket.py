"""Websockets of the API: accepted from a request, without compression, with LXD's keepalive."""

import asyncio
import contextlib

import msgspec
from aiohttp import WSMsgType, web

from corral.server.background import alongside
from corral.server.events.bus import Listener

KEEPALIVE_S = 10.0
SILENCE_S = 60.0
"""After how long without a sign of life, pongs included, a peer is asked once more; half as long it has for that."""
MAX_MESSAGE = 16 * 1024 * 1024


async def accept(raw: web.BaseRequest, max_message: int = MAX_MESSAGE) -> web.WebSocketResponse:
    """Upgrade a request. aiohttp closes when the peer is gone, though not that of a client which is only slow."""
    socket = web.WebSocketResponse(compress=False, max_msg_size=max_message, heartbeat=SILENCE_S, autoclose=True)
    await socket.prepare(raw)
    return socket


async def keep_alive(socket: web.WebSocketResponse) -> None:
    """Ping without end, so that nothing between the peers takes the connection for idle."""
    with contextlib.suppress(ConnectionError, RuntimeError):
        while True:
            await socket.ping(b"keepalive")
            await asyncio.sleep(KEEPALIVE_S)


async def send_events(
    raw: web.BaseRequest, listener: Listener, max_message: int = MAX_MESSAGE, timeout_s: float | None = None
) -> web.StreamResponse:
    """Upgrade a request and send events as they happen, as text frames of JSON, until one side goes.

    Who does not take an event within `timeout_s` is cut off; `max_message` bounds what is taken from the other side.
    """
    socket = await accept(raw, max_message)
    async with alongside("events", _send(raw, socket, listener, timeout_s), keep_alive(socket)):
        async for message in socket:
            if message.type in (WSMsgType.CLOSE, WSMsgType.ERROR):
                break
    return socket


async def _send(
    raw: web.BaseRequest, socket: web.WebSocketResponse, listener: Listener, timeout_s: float | None
) -> None:
    try:
        while not listener.lost:
            event = await listener.queue.get()
            if event is None:
                break
            async with asyncio.timeout(timeout_s):
                await socket.send_str(msgspec.json.encode(event).decode())
        async with asyncio.timeout(timeout_s):
            await socket.close()
    except ConnectionError:
        pass
    except TimeoutError:
        if raw.transport is not None:
            raw.transport.abort()
