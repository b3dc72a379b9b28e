"""The sockets that the API is served on; they come and go while the daemon runs."""

import asyncio
import errno
import grp
import logging
import os
import socket
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from aiohttp import StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import HttpProcessingError

from corral.errors import InvalidRequest, Unavailable
from corral.server.rest import responses
from corral.server.rest.dispatch import Dispatcher
from corral.server.rest.proxy_protocol import Address, ClientAddresses, ProxiedServer

log = logging.getLogger(__name__)

MAX_HEADER = 128 * 1024
"""Bytes of a request line or header field (LXD's clients have sent 100 kB)."""

BACKLOG = 1024
Serve = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
"""Answers one request."""

HANDSHAKE_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 2.0


def bind_unix(path: Path, group: str | None) -> socket.socket:
    """The listening Unix socket, for root and a group. A socket that nobody answers on is replaced."""
    if path.exists() or path.is_symlink():
        probe = socket.socket(socket.AF_UNIX)
        try:
            probe.connect(str(path))
            raise Unavailable(f"Another daemon already listens on {path}")
        except (ConnectionRefusedError, FileNotFoundError, OSError):
            path.unlink(missing_ok=True)
        finally:
            probe.close()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    previous = os.umask(0o177)
    try:
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        if error.errno == errno.ENAMETOOLONG or "too long" in str(error):
            raise InvalidRequest(f"The path of the Unix socket is too long (107 bytes at most): {path}") from error
        raise
    finally:
        os.umask(previous)
    if group is not None:
        try:
            os.chown(path, -1, grp.getgrnam(group).gr_gid)
        except KeyError:
            listener.close()
            path.unlink()
            raise InvalidRequest(f"The group {group!r} of --group does not exist") from None
    path.chmod(0o660)
    listener.listen(BACKLOG)
    return listener


def _on_loop_error(loop: asyncio.AbstractEventLoop, details: dict[str, Any]) -> None:
    """Clients that break off a handshake are no fault of the server's; all else is logged as asyncio does."""
    if isinstance(details.get("exception"), OSError) and "transport creation" in details.get("message", ""):
        log.debug("TLS handshake failed: %r", details["exception"])
        return
    loop.default_exception_handler(details)


def _limited(dispatcher: Serve, paths: frozenset[str]) -> Serve:
    async def serve(raw: web.BaseRequest) -> web.StreamResponse:
        if raw.path not in paths:
            return responses.failed(404, "not found")
        return await dispatcher(raw)

    return serve


class _PlainRequest(web.BaseRequest):
    """A request whose answer does not say which program gives it."""

    async def _prepare_hook(self, response: web.StreamResponse) -> None:
        response.headers.popall("Server", None)


def make_request(
    message: RawRequestMessage,
    payload: StreamReader,
    protocol: web.RequestHandler,
    writer: AbstractStreamWriter,
    task: "asyncio.Task[None]",
) -> web.BaseRequest:
    """The factory of requests for `web.Server`."""
    return _PlainRequest(message, payload, protocol, writer, task, asyncio.get_running_loop())


async def _serve(
    factory: web.Server,
    clients: ClientAddresses,
    tls: ssl.SSLContext | None,
    connection: socket.socket,
    address: Address | None,
) -> None:
    """Serve one connection, of which a proxy may have told whom it is for."""
    transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
        factory,
        connection,
        ssl=tls,
        ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S if tls else None,
        ssl_shutdown_timeout=CLOSE_TIMEOUT_S if tls else None,
    )
    if address is not None:
        clients.put(transport, address)


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """What is no HTTP is answered with 400; anybody can send it, and so fill a log with tracebacks."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


class Listeners:
    """Serves the dispatcher on any number of sockets."""

    def __init__(self, dispatcher: Dispatcher, clients: ClientAddresses | None = None) -> None:
        self._dispatcher = dispatcher
        self._clients = clients or ClientAddresses()
        self._runners: dict[tuple[Serve, frozenset[str]], web.ServerRunner] = {}
        self._servers: dict[str, asyncio.Server | ProxiedServer] = {}
        self._sockets: dict[str, socket.socket] = {}

    async def start(self) -> None:
        """Make ready to serve."""
        asyncio.get_running_loop().set_exception_handler(_on_loop_error)
        logging.getLogger("aiohttp.server").addFilter(_is_worth_a_line)

    async def _factory(self, serve: Serve, paths: frozenset[str]) -> web.Server:
        if (serve, paths) not in self._runners:
            server = web.Server(
                _limited(serve, paths) if paths else serve,
                access_log=None,
                max_line_size=MAX_HEADER,
                max_field_size=MAX_HEADER,
                keepalive_timeout=75,
                auto_decompress=False,
                request_factory=make_request,
            )
            runner = web.ServerRunner(server, shutdown_timeout=2.0)
            await runner.setup()
            self._runners[serve, paths] = runner
        found = self._runners[serve, paths].server
        assert found is not None
        return found

    async def open(
        self,
        name: str,
        listener: socket.socket,
        tls: ssl.SSLContext | None = None,
        paths: frozenset[str] = frozenset(),
        proxies: Callable[[str], bool] | None = None,
        serve: Serve | None = None,
    ) -> None:
        """Serve a listening socket under a name; one that had the name is closed afterwards.

        With `paths` nothing but these is served there, and by `serve` something else than the API. `proxies` says of
        which addresses the header of the PROXY protocol is believed.
        """
        factory = await self._factory(serve or self._dispatcher, paths)
        server: asyncio.Server | ProxiedServer
        if proxies is not None:
            server = ProxiedServer(listener, proxies, partial(_serve, factory, self._clients, tls))
        elif tls is None:
            server = await asyncio.get_running_loop().create_server(factory, sock=listener, backlog=BACKLOG)
        else:
            server = await asyncio.get_running_loop().create_server(
                factory,
                sock=listener,
                ssl=tls,
                backlog=BACKLOG,
                ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S,
                ssl_shutdown_timeout=CLOSE_TIMEOUT_S,
            )
        self.close(name)
        self._servers[name], self._sockets[name] = server, listener.dup()

    def close(self, name: str) -> None:
        """Stop to listen on a socket; what is being served goes on."""
        server = self._servers.pop(name, None)
        if server is not None:
            server.close()
            self._sockets.pop(name).close()

    def duplicate(self, name: str) -> socket.socket:
        """Another descriptor of a socket that is served, to serve it otherwise; no connection is lost over that."""
        return self._sockets[name].dup()

    async def stop(self) -> None:
        """Close all sockets and connections."""
        for name in list(self._servers):
            self.close(name)
        await asyncio.gather(*(runner.cleanup() for runner in self._runners.values()))
