"""Files inside instances, running or stopped, by a helper that has the instance's root as its own.

Each instance that is asked for gets one helper, kept some seconds after its last use. Bytes never pass through the
helper: it opens, and the descriptors come here.
"""

import asyncio
import contextlib
import errno
import json
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from corral.api.urls import url
from corral.errors import (
    AlreadyExists,
    Conflict,
    CorralError,
    Forbidden,
    InternalError,
    InvalidRequest,
    NotFound,
    NotSupported,
    Unavailable,
)
from corral.server.context import Context
from corral.server.events.model import Lifecycle
from corral.server.host.programs.zygote import Running, Zygote
from corral.server.host.threads import in_thread
from corral.server.instances import root_volume, running, store
from corral.server.instances.model import Instance
from corral.server.instances.security import idmaps

log = logging.getLogger(__name__)

IDLE_S = 10.0
REQUEST_TIMEOUT_S = 30.0
_MAX_MESSAGE = 262_144
_MAX_FDS = 4


@dataclass(eq=False, slots=True)
class _Server:
    """One helper. `pid` is the init that it was made for, 0 for a stopped instance."""

    channel: socket.socket
    process: Running
    pid: int
    lock: asyncio.Lock
    idle: asyncio.TimerHandle | None = None


class FileServers:
    """The helpers by the id of their instance. One part of the daemon."""

    def __init__(self) -> None:
        self._servers: dict[int, _Server] = {}
        self._sessions: dict[int, set[Running]] = {}

    def find(self, instance_id: int, pid: int) -> _Server | None:
        """The helper of an instance, if it belongs to its present run."""
        server = self._servers.get(instance_id)
        if server is not None and (server.pid != pid or server.process.has_ended):
            self.drop(instance_id, server)
            return None
        return server

    def add(self, instance_id: int, server: _Server) -> None:
        """Keep a helper."""
        self._servers[instance_id] = server
        self.touch(instance_id, server)

    def touch(self, instance_id: int, server: _Server) -> None:
        """Keep a helper for some more seconds."""
        if server.idle is not None:
            server.idle.cancel()
        server.idle = asyncio.get_running_loop().call_later(IDLE_S, self._expire, instance_id, server)

    def _expire(self, instance_id: int, server: _Server) -> None:
        if server.lock.locked():
            self.touch(instance_id, server)
        else:
            self.drop(instance_id, server)

    def drop(self, instance_id: int, server: _Server) -> None:
        """End a helper."""
        if server.idle is not None:
            server.idle.cancel()
        server.process.send_signal(signal.SIGKILL)
        server.process.close()
        server.channel.close()
        if self._servers.get(instance_id) is server:
            del self._servers[instance_id]

    def add_session(self, instance_id: int, process: Running) -> None:
        """Remember an SFTP session until it ends."""
        sessions = self._sessions.setdefault(instance_id, set())
        sessions.add(process)
        process.on_end(lambda: self._session_ended(instance_id, process))

    def _session_ended(self, instance_id: int, process: Running) -> None:
        process.close()
        sessions = self._sessions.get(instance_id, set())
        sessions.discard(process)
        if not sessions:
            self._sessions.pop(instance_id, None)

    def release(self, instance_id: int) -> None:
        """End all that keeps an instance's root in use."""
        server = self._servers.get(instance_id)
        if server is not None:
            self.drop(instance_id, server)
        for process in list(self._sessions.get(instance_id, ())):
            process.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """End all helpers."""
        for instance_id in {*self._servers, *self._sessions}:
            self.release(instance_id)


def release(context: Context, instance_id: int) -> None:
    """End what serves the files of an instance; its starts, ends and deletion call this before they touch the root."""
    context.parts[FileServers].release(instance_id)


async def get_instance(context: Context, project: str, name: str) -> Instance:
    """The instance whose files are asked for."""
    if "/" in name:
        raise InvalidRequest("Invalid instance name")
    instance = await context.db.read(store.get_instance, project, name)
    if not instance.is_container:
        raise NotSupported("Files of virtual machines need an agent inside, which this server does not have yet")
    return instance


async def _enter(context: Context, instance: Instance, protocol: str, channel: int) -> tuple[Running, int]:
    """Start a helper that serves a socket; returns it with the init that it is for (0: stopped)."""
    container = running.find(context, instance)
    if container is not None and container.init_pidfd >= 0:
        idmap = idmaps.of_text(instance.config.get("volatile.idmap.current"))
        pid = container.init_pid
        init = os.dup(container.init_pidfd)
        try:
            zygote = context.parts[Zygote]
            return await zygote.serve_running(protocol, init, channel, userns=idmap is not None), pid
        finally:
            os.close(init)
    async with context.locks.hold("instance verb", instance.id):
        # A verb that was at work may have started the instance: then its stopped root is not what is wanted.
        if running.find(context, instance) is None:
            return await _enter_stopped(context, instance, protocol, channel), 0
    return await _enter(context, instance, protocol, channel)


async def _enter_stopped(context: Context, instance: Instance, protocol: str, channel: int) -> Running:
    instance = await context.db.read(store.reload, instance.id)
    root = await root_volume.mount(context, instance) / "rootfs"
    idmap = idmaps.of_text(instance.config.get("volatile.last_state.idmap"))
    directory = await in_thread(os.open, root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return await context.parts[Zygote].serve_directory(
            protocol,
            directory,
            channel,
            uid_map=idmap.proc_map(uids=True) if idmap is not None else "",
            gid_map=idmap.proc_map(uids=False) if idmap is not None else "",
        )
    finally:
        os.close(directory)


async def open_sftp(context: Context, instance: Instance, client: socket.socket) -> None:
    """Hand a client's connection to an SFTP server on the instance's files; the caller closes its own end."""
    process, _ = await _enter(context, instance, "sftp", client.fileno())
    context.parts[FileServers].add_session(instance.id, process)


@contextlib.asynccontextmanager
async def _server(context: Context, instance: Instance) -> AsyncIterator[_Server]:
    """The instance's helper, for one request."""
    servers = context.parts[FileServers]
    async with context.locks.hold("instance files", instance.id):
        container = running.find(context, instance)
        server = servers.find(instance.id, container.init_pid if container is not None else 0)
        if server is None:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                with theirs:
                    process, pid = await _enter(context, instance, "files", theirs.fileno())
            except BaseException:
                ours.close()
                raise
            ours.setblocking(False)
            server = _Server(ours, process, pid, asyncio.Lock())
            servers.add(instance.id, server)
    async with server.lock:
        try:
            yield server
        except (OSError, TimeoutError, asyncio.CancelledError):
            # What comes next on that socket would answer somebody else's request.
            servers.drop(instance.id, server)
            raise
        servers.touch(instance.id, server)


async def call(context: Context, instance: Instance, op: str, path: str, **arguments: Any) -> tuple[Any, list[int]]:
    """Ask the helper (operations: helper/files.py) and return its answer with descriptors, which become the caller's.

    Raises NotFound, AlreadyExists, Forbidden, InvalidRequest and so on for what is wrong with the path.
    """
    request = json.dumps({"op": op, "path": path, **arguments}).encode()
    try:
        async with _server(context, instance) as server:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                answer, fds = await _exchange(server.channel, request)
    except TimeoutError:
        raise Unavailable(
            f"No answer from the files of {instance.name} within {REQUEST_TIMEOUT_S:g} s: {path} may lie on a file "
            "system that hangs"
        ) from None
    except OSError as error:
        raise Unavailable(f"The files of {instance.name} are not available: {error}; try again") from error
    if "error" in answer:
        raise explain(answer["errno"], answer["error"], path)
    return answer["ok"], fds


async def _exchange(channel: socket.socket, request: bytes) -> tuple[dict[str, Any], list[int]]:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(channel, request)
    while True:
        try:
            data, fds, _, _ = socket.recv_fds(channel, _MAX_MESSAGE, _MAX_FDS, socket.MSG_CMSG_CLOEXEC)
            break
        except BlockingIOError:
            await _readable(channel)
    if not data:
        raise ConnectionResetError(errno.ECONNRESET, "the helper ended")
    answer: dict[str, Any] = json.loads(data)
    if "memfd" in answer:
        with open(fds.pop(0), "rb") as large:
            answer = json.load(large)
    return answer, fds


async def _readable(channel: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def on_ready() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(channel, on_ready)
    try:
        await ready
    finally:
        loop.remove_reader(channel)


_KINDS: dict[int, type[CorralError]] = {
    errno.ENOENT: NotFound,
    errno.EEXIST: AlreadyExists,
    errno.EACCES: Forbidden,
    errno.EPERM: Forbidden,
    errno.EROFS: Forbidden,
    errno.ENOTEMPTY: Conflict,
    errno.EBUSY: Conflict,
    errno.EISDIR: InvalidRequest,
    errno.ENOTDIR: InvalidRequest,
    errno.EINVAL: InvalidRequest,
    errno.ELOOP: InvalidRequest,
    errno.ENAMETOOLONG: InvalidRequest,
}


def explain(number: int, text: str, path: str) -> CorralError:
    """The error for the user; LXD's clients look for 404 and "not found"."""
    if number == errno.ENOENT:
        return NotFound(f"File {path!r} not found")
    if number == errno.EEXIST:
        return AlreadyExists(f"File {path!r} already exists")
    return _KINDS.get(number, InternalError)(f"{path}: {text}")


def publish(context: Context, instance: Instance, action: str, path: str) -> None:
    """Tell the listeners what was done with a file: retrieved, pushed or deleted."""
    source = url("/1.0/instances", instance.name, project=instance.project)
    context.events.publish(Lifecycle(f"instance-file-{action}", source, instance.project, {"path": path}))
