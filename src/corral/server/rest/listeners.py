"""The sockets that the API is served on; they come and go while the daemon runs."""

import errno
import grp
import os
import socket
from pathlib import Path

from aiohttp import web

from corral.errors import InvalidRequest, Unavailable
from corral.server.rest.dispatch import Dispatcher

MAX_HEADER = 128 * 1024
"""Bytes of a request line or header field (LXD's clients have sent 100 kB)."""


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
    listener.listen(1024)
    return listener


class Listeners:
    """Serves the dispatcher on any number of sockets."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        server = web.Server(
            dispatcher,
            access_log=None,
            max_line_size=MAX_HEADER,
            max_field_size=MAX_HEADER,
            keepalive_timeout=75,
            auto_decompress=False,
        )
        self._runner = web.ServerRunner(server, shutdown_timeout=2.0)
        self._sites: dict[str, web.SockSite] = {}

    async def start(self) -> None:
        """Make ready to serve."""
        await self._runner.setup()

    async def open(self, name: str, listener: socket.socket) -> None:
        """Serve a listening socket under a name; one that had the name is closed afterwards."""
        site = web.SockSite(self._runner, listener, backlog=1024)
        await site.start()
        previous = self._sites.get(name)
        self._sites[name] = site
        if previous is not None:
            await previous.stop()

    async def close(self, name: str) -> None:
        """Stop to listen on a socket; what is being served goes on."""
        site = self._sites.pop(name, None)
        if site is not None:
            await site.stop()

    async def stop(self) -> None:
        """Close all sockets and connections."""
        self._sites.clear()
        await self._runner.cleanup()
