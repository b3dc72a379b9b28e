"""The daemon's end of the zygote: runs commands in containers and serves their files (see helper/zygote.py).

The zygote is started with the first request, and again after it died; it dies with the daemon.
"""

import asyncio
import contextlib
import fcntl
import itertools
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import corral
from corral.errors import InternalError, Unavailable

log = logging.getLogger(__name__)

ENTER_TIMEOUT_S = 30.0

_MAX_INLINE = 100_000
_MAX_MESSAGE = 262_144
_MFD_EXEC = 0x10
_CHUNK = 1 << 24
_START = "import sys; sys.path.insert(0, sys.argv[1]); from corral.helper import zygote; zygote.main()"


@dataclass(frozen=True, slots=True)
class ExecRequest:
    """A command for a container. `uid`, `gid` and `groups` are the container's, `owner` is its root on the host.

    `cgroups` are the directories to join. `userns` says whether the container has a user namespace of its own.
    `rlimits` are (resource, soft, hard), `seccomp` the instructions of a filter of system calls, in hexadecimal digits.
    `core_of` is a process whose cores are shared (0: no core scheduling). With `attach` liblxc enters the container, as
    it must for a privileged one.
    """

    argv: Sequence[str]
    env: dict[str, str]
    cgroups: Sequence[str | Path] = ()
    uid: int = 0
    gid: int = 0
    groups: Sequence[int] = ()
    cwd: str = "/"
    tty: bool = False
    userns: bool = True
    owner: tuple[int, int] = (0, 0)
    apparmor: str = ""
    seccomp: str = ""
    core_of: int = 0
    rlimits: Sequence[tuple[int, int, int]] = ()
    attach: "Attach | None" = None


@dataclass(frozen=True, slots=True)
class Attach:
    """Names a privileged container to liblxc, which must set up its commands."""

    lxcpath: str
    name: str
    config: str


@dataclass(eq=False, slots=True)
class Running:
    """A process that the zygote started; `pid` is the host's."""

    pid: int
    pidfd: int
    _status: asyncio.Future[int] = field(repr=False)

    async def wait(self) -> int:
        """The exit code once it ended, negative for a signal. May be called by several tasks."""
        return await asyncio.shield(self._status)

    def on_end(self, call: Callable[[], None]) -> None:
        """Call a function once it ended."""
        self._status.add_done_callback(lambda _: call())

    @property
    def has_ended(self) -> bool:
        """Whether it ended."""
        return self._status.done()

    def send_signal(self, number: int) -> None:
        """Send a signal; one that already ended is no error."""
        if self.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, number)

    def close(self) -> None:
        """Close the descriptor of the process."""
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


def _sealed_copy(program: str) -> int:
    """A copy of a program, in memory, that nobody can change any more; the program itself where that cannot be.

    What executes a container's file is for a moment the host's program, and a script may name that as its interpreter
    (/proc/self/exe): root of a privileged container could then write to it (CVE-2019-5736).
    """
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        copy = os.memfd_create("python", flags | _MFD_EXEC)
    except OSError:
        try:
            copy = os.memfd_create("python", flags)
        except OSError:
            return os.open(program, os.O_RDONLY | os.O_CLOEXEC)
    with open(program, "rb") as source:
        while os.sendfile(copy, source.fileno(), None, _CHUNK):
            pass
    seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fcntl.fcntl(copy, fcntl.F_ADD_SEALS, seals)
    return copy


class _Job:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.entered: asyncio.Future[Running] = loop.create_future()
        self.status: asyncio.Future[int] = loop.create_future()

    def fail(self, error: Exception) -> None:
        for future in (self.entered, self.status):
            if not future.done():
                future.set_exception(error)
                # Nobody has to wait for both.
                future.exception()


class Zygote:
    """The one zygote of a daemon."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._jobs: dict[int, _Job] = {}
        self._numbers = itertools.count(1)
        self._sending = asyncio.Lock()

    def ensure_started(self) -> None:
        """Start the zygote's process unless it runs."""
        if self._channel is not None:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            ours.setblocking(False)
            # The interpreter below a virtual environment: the zygote needs the standard library only.
            python = getattr(sys, "_base_executable", None) or sys.executable
            source = str(Path(corral.__path__[0]).parent)
            sealed = _sealed_copy(python)
            try:
                self._process = subprocess.Popen(
                    [python, "-I", "-S", "-c", _START, source, str(sealed), str(theirs.fileno())],
                    executable=f"/proc/self/fd/{sealed}",
                    pass_fds=[sealed, theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                    env={"PATH": os.defpath},
                    cwd="/",
                )
            finally:
                os.close(sealed)
        self._channel = ours
        asyncio.get_running_loop().add_reader(ours.fileno(), self._on_readable)

    async def exec(self, request: ExecRequest, init_pidfd: int, stdio: tuple[int, int, int]) -> Running:
        """Run a command in the container of `init_pidfd`; the caller keeps and closes its descriptors.

        Raises InternalError where the container cannot be entered. A command that cannot be executed ends with 126
        or 127.
        """
        attach = request.attach
        message = {
            "op": "exec" if attach is None else "attach",
            "argv": list(request.argv),
            "env": request.env,
            "cgroups": [str(path) for path in request.cgroups],
            "uid": request.uid,
            "gid": request.gid,
            "groups": list(request.groups),
            "cwd": request.cwd,
            "tty": request.tty,
            "userns": request.userns,
            "owner": list(request.owner),
            "apparmor": request.apparmor,
            "core_of": request.core_of,
            "rlimits": [list(limit) for limit in request.rlimits],
            "seccomp": request.seccomp,
            "attach": attach and {"lxcpath": attach.lxcpath, "name": attach.name, "config": attach.config},
        }
        return await self._request(message, [init_pidfd, *stdio])

    async def serve_running(self, protocol: str, init_pidfd: int, channel: int, *, userns: bool) -> Running:
        """Serve a running container's files on a socket; `protocol` is files or sftp."""
        message = {"op": "serve", "protocol": protocol, "running": True, "userns": userns}
        return await self._request(message, [init_pidfd, channel])

    async def serve_directory(
        self, protocol: str, directory: int, channel: int, *, uid_map: str = "", gid_map: str = ""
    ) -> Running:
        """Serve a directory as root on a socket, through maps (text of /proc/PID/uid_map) where they are given."""
        message = {"op": "serve", "protocol": protocol, "running": False, "uid_map": uid_map, "gid_map": gid_map}
        return await self._request(message, [directory, channel])

    async def _request(self, message: dict[str, Any], fds: list[int]) -> Running:
        number = next(self._numbers)
        job = _Job(asyncio.get_running_loop())
        try:
            async with asyncio.timeout(ENTER_TIMEOUT_S):
                await self._send(number, job, {"id": number, **message}, fds)
                return await job.entered
        except TimeoutError:
            raise Unavailable(f"The instance could not be entered within {ENTER_TIMEOUT_S:g} s") from None
        except BaseException:
            # Whoever gave up must not leave the command behind.
            job.entered.add_done_callback(_kill_unwanted)
            raise

    async def _send(self, number: int, job: _Job, message: dict[str, Any], fds: list[int]) -> None:
        data = json.dumps(message).encode()
        async with self._sending:
            self.ensure_started()
            self._jobs[number] = job
            if len(data) <= _MAX_INLINE:
                await self._send_packet(data, fds)
                return
            memfd = os.memfd_create("request", os.MFD_CLOEXEC)
            try:
                with open(memfd, "wb", closefd=False) as file:
                    file.write(data)
                os.lseek(memfd, 0, os.SEEK_SET)
                await self._send_packet(b'{"memfd":1}', [memfd, *fds])
            finally:
                os.close(memfd)

    async def _send_packet(self, data: bytes, fds: list[int]) -> None:
        while self._channel is not None:
            try:
                socket.send_fds(self._channel, [data], fds)
                return
            except BlockingIOError:
                await asyncio.sleep(0.001)
            except (BrokenPipeError, ConnectionError) as error:
                self._lost(str(error))
            except OSError as error:
                raise InternalError(f"Failed to enter the instance: {error}") from error
        raise Unavailable("The process that enters containers died; try again")

    def _on_readable(self) -> None:
        while self._channel is not None:
            try:
                data, fds, _, _ = socket.recv_fds(self._channel, _MAX_MESSAGE, 4, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                return
            except OSError as error:
                self._lost(str(error))
                return
            if not data:
                self._lost("it ended")
                return
            self._on_message(json.loads(data), fds)

    def _on_message(self, message: dict[str, Any], fds: list[int]) -> None:
        number: int = message["id"]
        job = self._jobs.get(number)
        if job is None:
            for fd in fds:
                os.close(fd)
        elif "pid" in message:
            running = Running(message["pid"], fds[0] if fds else -1, job.status)
            if job.entered.cancelled():
                running.send_signal(signal.SIGKILL)
                running.close()
            else:
                job.entered.set_result(running)
        elif "error" in message:
            del self._jobs[number]
            job.fail(InternalError(f"Failed to enter the instance: {message['error']}"))
        else:
            del self._jobs[number]
            job.status.set_result(message["status"])

    def _lost(self, reason: str) -> None:
        """Forget a zygote that is gone; the next request starts another one."""
        if self._channel is None:
            return
        log.error("The process that enters containers is gone: %s", reason)
        self._drop()
        jobs, self._jobs = self._jobs, {}
        for job in jobs.values():
            job.fail(InternalError("The process that enters containers died"))

    def _drop(self) -> None:
        if self._channel is not None:
            asyncio.get_running_loop().remove_reader(self._channel.fileno())
            self._channel.close()
            self._channel = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    async def close(self) -> None:
        """End the zygote; commands that run go on by themselves."""
        self._drop()
        for job in self._jobs.values():
            job.fail(Unavailable("The daemon is shutting down"))
        self._jobs.clear()


def _kill_unwanted(entered: asyncio.Future[Running]) -> None:
    if not entered.cancelled() and entered.exception() is None:
        running = entered.result()
        running.send_signal(signal.SIGKILL)
        running.close()
