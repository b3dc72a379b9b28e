"""Websockets as the channels of sessions and migrations, accepted from a client or opened to another server."""

import contextlib

from aiohttp import ClientWebSocketResponse, WSMsgType, web

from corral.server.instances.sessions.channels import Disconnected, Message


class WebsocketChannel:
    """A websocket as a Channel; whoever opened the socket closes it."""

    def __init__(self, socket: web.WebSocketResponse | ClientWebSocketResponse) -> None:
        self._socket = socket

    async def receive(self) -> Message:
        """The next message. Raises Disconnected."""
        message = await self._socket.receive()
        if message.type is WSMsgType.BINARY:
            return Message(message.data)
        if message.type is WSMsgType.TEXT:
            return Message(message.data.encode(), is_text=True)
        raise Disconnected

    async def send(self, data: bytes) -> None:
        """Send bytes. Raises Disconnected."""
        try:
            await self._socket.send_bytes(data)
        except (ConnectionError, RuntimeError) as error:
            raise Disconnected from error

    async def send_end(self) -> None:
        """An empty text frame is the end of a stream for LXD's clients and servers."""
        with contextlib.suppress(ConnectionError, RuntimeError):
            await self._socket.send_str("")
