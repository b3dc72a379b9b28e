"""The socket that containers see as /dev/lxd/sock: who calls is found out when the connection is made.

What a guest does to its connections (leave them idle, read slowly, send without end) costs nobody else anything:
guest_crowd.py bounds it.
"""

import asyncio
import contextlib
import logging
import resource
import socket
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from aiohttp import web

from corral.server.background import Background
from corral.server.context import Context
from corral.server.host.programs import peers
from corral.server.host.programs.peers import Peer
from corral.server.host.threads import in_thread
from corral.server.instances.guest import guests
from corral.server.instances.guest.guest_events import GuestEvents
from corral.server.instances.inventory import Inventory
from corral.server.instances.running import Running
from corral.server.rest import guest_api
from corral.server.rest.guest_crowd import Connection, Crowd, Guest
from corral.server.rest.guest_identities import Identities
from corral.server.rest.listeners import BACKLOG, make_request
from corral.server.rest.streams import Sent, Upgraded

log = logging.getLogger(__name__)

IDLE_S = 60.0
SWEEP_S = 15.0
ANSWER_TIMEOUT_S = 30.0
"""How long a guest may take to read an answer."""
MAX_HEADER = 16 * 1024
RETRY_S = 0.5
BATCH = 64
SHARE_OF_DESCRIPTORS = 4
"""Guests have at most one in so many of the daemon's descriptors."""

NO_GUEST = "pid not in container?"
NOT_ROOT = "Access denied for non-root user"
TOO_MANY_WATCHERS = "too many connections watch events: end some of them"


@dataclass(frozen=True, slots=True)
class _Caller:
    """Who is at the other end of a connection."""

    peer: Peer
    guest: Guest
    connection: Connection


class _Server(web.Server):
    """The HTTP server, which says when a connection is gone."""

    def __init__(self, listener: "GuestListener") -> None:
        super().__init__(
            listener.serve,
            handler_cancellation=True,
            request_factory=make_request,
            access_log=None,
            max_line_size=MAX_HEADER,
            max_field_size=MAX_HEADER,
            keepalive_timeout=IDLE_S,
            lingering_time=1.0,
            auto_decompress=False,
        )
        self._listener = listener

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        self._listener.forget(handler)


@dataclass(eq=False)
class GuestListener:
    """Serves the guest API. One part of the daemon."""

    context: Context
    crowd: Crowd = field(default_factory=lambda: Crowd(_share_of_descriptors()))
    _callers: dict[web.RequestHandler, _Caller] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        return guests.directory(self.context.member) / "sock"

    async def start(self) -> None:
        """Listen."""
        self._listener = await in_thread(_bind, self.path)
        self._server = _Server(self)
        self._identities = Identities(self.context.parts[Running])
        background = self.context.parts[Background]
        self._task = background.start("guest API", self._accept())
        background.every(SWEEP_S, "idle guests", self._sweep)

    async def stop(self) -> None:
        """Stop to listen and end the connections."""
        self.context.parts[GuestEvents].close()
        self._task.cancel()
        await asyncio.wait([self._task])
        self._listener.close()
        await in_thread(self.path.unlink, missing_ok=True)
        await self._server.shutdown(2.0)
        self._identities.close()

    async def _sweep(self) -> None:
        self.crowd.dismiss_idle(IDLE_S)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._listener)
            except OSError as error:
                log.warning("Cannot accept a guest's connection: %s", error)
                await asyncio.sleep(RETRY_S)
                continue
            await self._begin_safely(connection)
            # A guest that connects without end fills the queue of all: it is emptied faster than one turn at a time.
            for _ in range(BATCH):
                try:
                    connection, _ = self._listener.accept()
                except OSError:
                    break
                await self._begin_safely(connection)

    async def _begin_safely(self, connection: socket.socket) -> None:
        try:
            await self._begin(connection)
        except OSError as error:
            log.debug("A guest's connection broke off: %s", error)
            connection.close()
        except Exception:
            # The others still want to be served.
            log.exception("A guest's connection could not be served")
            connection.close()

    async def _begin(self, connection: socket.socket) -> None:
        """Serve a connection, if its guest may have one more."""
        peer = peers.get_credentials(connection)
        admitted = self.crowd.admit(self._identities.identify(connection, peer), partial(_end, connection))
        if admitted is None:
            connection.close()
            return
        connection.setblocking(False)
        protocol = self._server()
        self._callers[protocol] = _Caller(peer, *admitted)
        try:
            transport, _ = await asyncio.get_running_loop().connect_accepted_socket(lambda: protocol, connection)
        except BaseException:
            self.forget(protocol)
            raise
        del transport

    def forget(self, protocol: web.RequestHandler) -> None:
        """A connection is gone."""
        caller = self._callers.pop(protocol, None)
        if caller is not None:
            self.crowd.leave(caller.guest, caller.connection)

    async def serve(self, raw: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; what is ours to answer for is logged, and the guest sees no more than that."""
        caller = self._callers.get(raw.protocol)
        if caller is None:
            raise ConnectionResetError("the connection was dismissed")
        self.crowd.touch(caller.connection, is_busy=True)
        try:
            return await self._answer(raw, caller)
        except (ConnectionError, TimeoutError):
            _abort(raw)
            return Upgraded()
        except Exception:
            log.exception("The guest API failed at %s", raw.path)
            return guest_api.refused(500, "internal server error")
        finally:
            self.crowd.touch(caller.connection, is_busy=False)

    async def _answer(self, raw: web.BaseRequest, caller: _Caller) -> web.StreamResponse:
        await asyncio.sleep(caller.guest.allowance.take())
        try:
            found = guest_api.find(raw.rel_url.raw_path)
        except ValueError:
            return guest_api.refused(400, "bad request")
        if found is None:
            return guest_api.refused(404, "404 page not found")
        handler, argument = found
        if handler in guest_api.STREAMS:
            if caller.guest.watchers.locked():
                return guest_api.refused(503, TOO_MANY_WATCHERS)
            async with caller.guest.watchers:
                return await self._ask(raw, caller, handler, argument)
        if handler in guest_api.DOWNLOADS:
            async with caller.guest.downloads:
                return await _sent(raw, await self._ask(raw, caller, handler, argument), None)
        async with caller.guest.requests:
            return await _sent(raw, await self._ask(raw, caller, handler, argument), ANSWER_TIMEOUT_S)

    async def _ask(
        self, raw: web.BaseRequest, caller: _Caller, handler: guest_api.Handler, argument: str
    ) -> web.StreamResponse:
        instance = None
        if caller.guest.instance_id is not None:
            instance = await self.context.parts[Inventory].find(caller.guest.instance_id)
        if instance is None:
            return guest_api.refused(500, NO_GUEST)
        if caller.peer.uid != guests.root_uid(instance):
            return guest_api.refused(401, NOT_ROOT)
        return await guest_api.answer(self.context, instance, raw, handler, argument)


async def _sent(raw: web.BaseRequest, response: web.StreamResponse, timeout_s: float | None) -> web.StreamResponse:
    """Send an answer, while what bounds the guest's requests is still held: an answer in memory counts as long."""
    async with asyncio.timeout(timeout_s):
        await response.prepare(raw)
        await response.write_eof()
    return Sent(response)


def _abort(raw: web.BaseRequest) -> None:
    if raw.transport is not None:
        raw.transport.abort()


def _end(connection: socket.socket) -> None:
    """Have the transport of a connection see its end."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _share_of_descriptors() -> int:
    return max(64, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // SHARE_OF_DESCRIPTORS)


def _bind(path: Path) -> socket.socket:
    """The listening socket, for every user; it takes the place of the last daemon's, which held the same lock."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        listener.bind(str(path))
        path.chmod(0o666)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


async def start(context: Context) -> None:
    """Serve the guests of the containers that run; before others start, which look for the socket when they boot."""
    listener = context.parts.add(GuestListener(context))
    await listener.start()


async def stop(context: Context) -> None:
    """Serve no guests any more."""
    await context.parts[GuestListener].stop()
