"""Websockets as the byte streams of commands and consoles, files as response bodies, and upgraded raw connections."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import IO

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from corral.errors import InvalidRequest
from corral.server.background import alongside
from corral.server.host.programs import fdio
from corral.server.host.threads import in_thread_abandonable
from corral.server.instances.sessions.channels import Connections
from corral.server.instances.sessions.websockets import WebsocketChannel
from corral.server.rest import websocket

MAX_MESSAGE = 64 * 1024 * 1024
WRITE_SIZE = 512 * 1024
CLOSE_TIMEOUT_S = 2.0
_RELAY_SIZE = 64 * 1024


async def serve_channel(connections: Connections, name: str, raw: web.BaseRequest) -> web.StreamResponse:
    """Upgrade a request and lend it to a session until that ends."""
    connections.claim(name)
    # No deadline for pongs: a client that does not read for a while, as in a pager, is not gone.
    socket = web.WebSocketResponse(compress=False, max_msg_size=MAX_MESSAGE, timeout=CLOSE_TIMEOUT_S)
    await socket.prepare(raw)
    async with alongside("websocket keepalive", websocket.keep_alive(socket)):
        await connections.serve(name, WebsocketChannel(socket))
    with contextlib.suppress(ConnectionError, RuntimeError):
        await socket.close()
    return socket


async def copy_to(raw: web.BaseRequest, file: IO[bytes], size: int) -> int:
    """Have the kernel send a file's first bytes, and return how many; ConnectionResetError where nobody reads."""
    transport = raw.transport
    # asyncio's own error for this is none of those of connections.
    if transport is None or transport.is_closing():
        raise ConnectionResetError("The client has gone")
    return await asyncio.get_running_loop().sendfile(transport, file, 0, size)


async def send_file(raw: web.BaseRequest, fd: int, name: str, headers: Mapping[str, str]) -> web.StreamResponse:
    """Answer with the contents of an open regular file, by sendfile; the descriptor is closed."""
    with open(fd, "rb", buffering=0) as file:
        size = os.fstat(fd).st_size
        response = web.StreamResponse(headers=_file_headers(name, headers))
        response.content_length = size
        await response.prepare(raw)
        transport = raw.transport
        if raw.method == "HEAD" or not size or transport is None:
            await response.write_eof()
            return response
        sent = await copy_to(raw, file, size)
        if sent < size:
            # The file shrank: the promised length cannot be kept, and the client must see that.
            transport.abort()
        await response.write_eof()
        return response


def send_bytes(data: bytes, name: str, headers: Mapping[str, str]) -> web.Response:
    """Answer with some bytes as a file."""
    return web.Response(body=data, headers=_file_headers(name, headers))


def _file_headers(name: str, headers: Mapping[str, str]) -> dict[str, str]:
    safe = "".join(character for character in name if character.isprintable())
    return {
        **headers,
        "Content-Type": "application/octet-stream",
        "Content-Disposition": f"inline;filename={safe}",
    }


async def receive_file(raw: web.BaseRequest, fd: int) -> None:
    """Write the body of a request to the end of an open file; the descriptor is closed."""
    pending = bytearray()
    try:
        await continue_body(raw)
        async for chunk in raw.content.iter_any():
            pending += chunk
            if len(pending) >= WRITE_SIZE:
                await in_thread_abandonable(fdio.write_all, fd, bytes(pending))
                pending.clear()
        await in_thread_abandonable(fdio.write_all, fd, bytes(pending))
    finally:
        os.close(fd)


async def continue_body(raw: web.BaseRequest) -> None:
    """Tell a client that waits for it (`Expect: 100-continue`) to send its body."""
    if raw.headers.get("Expect", "").lower() == "100-continue" and raw.transport is not None:
        raw.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


class Upgraded(web.StreamResponse):
    """Stands for a connection that was taken over: sends nothing."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Nothing is prepared."""
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is written."""


class Sent(Upgraded):
    """Stands for an answer that was sent already; the connection goes on if that lets it."""

    def __init__(self, response: web.StreamResponse) -> None:
        super().__init__()
        self._sent = response

    @property
    def keep_alive(self) -> bool | None:
        return self._sent.keep_alive


class _Ignored(asyncio.Protocol):
    """The protocol of a transport whose socket somebody else uses."""


async def hand_over(raw: web.BaseRequest, protocol: str, take: Callable[[socket.socket], Awaitable[None]]) -> Upgraded:
    """Switch a connection to a raw protocol: `take` gives a duplicate of its socket to who speaks that.

    The 101 is sent once `take` has returned; where it raises, the connection goes on as before and the error is
    answered. What `take` gets it must not use later. A TLS connection is relayed through a socket pair.
    """
    transport = raw.transport
    if not isinstance(transport, asyncio.Transport):
        raise InvalidRequest("The connection cannot be upgraded")
    switch = f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: {protocol}\r\nConnection: Upgrade\r\n\r\n".encode()
    if transport.get_extra_info("ssl_object") is not None:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                await take(theirs)
        except BaseException:
            ours.close()
            raise
        transport.write(switch)
        _relay(transport, ours)
        return Upgraded()
    transport.pause_reading()
    try:
        with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as own:
            # Of both duplicates, but this one reads no more and has only a line to write.
            own.setblocking(True)
            await take(own)
            transport.write(switch)
    except BaseException:
        os.set_blocking(transport.get_extra_info("socket").fileno(), False)
        transport.resume_reading()
        raise
    transport.set_protocol(_Ignored())
    # Closes this descriptor only: whoever took the duplicate keeps the connection.
    transport.close()
    return Upgraded()


def _relay(transport: asyncio.Transport, ours: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
    writer = asyncio.StreamWriter(transport, protocol, reader, loop)
    task = loop.create_task(_relay_both(reader, writer, ours), name="upgraded connection")
    _relays.add(task)
    task.add_done_callback(_relays.discard)


_relays: set[asyncio.Task[None]] = set()


async def _relay_both(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, end: socket.socket) -> None:
    inner_reader, inner_writer = await asyncio.open_connection(sock=end)
    tasks = [
        asyncio.create_task(_copy(reader, inner_writer), name="upgraded connection in"),
        asyncio.create_task(_copy(inner_reader, writer), name="upgraded connection out"),
    ]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        inner_writer.close()
        writer.close()


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await source.read(_RELAY_SIZE):
            sink.write(data)
            await sink.drain()
