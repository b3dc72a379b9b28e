"""Websockets of the API: accepted from a request, without compression, with LXD's keepalive."""

from aiohttp import web

KEEPALIVE_S = 10.0
MAX_MESSAGE = 16 * 1024 * 1024


async def accept(raw: web.BaseRequest) -> web.WebSocketResponse:
    """Upgrade a request. aiohttp pings every `KEEPALIVE_S` and closes when the peer is gone."""
    socket = web.WebSocketResponse(compress=False, max_msg_size=MAX_MESSAGE, heartbeat=KEEPALIVE_S, autoclose=True)
    await socket.prepare(raw)
    return socket
