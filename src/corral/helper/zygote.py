"""The zygote: a small process that forks, enters a container and executes a command there, or serves its files.

Started once by the daemon, it loads only what it needs, so a fork costs little, and it is single-threaded, so a fork
is safe. It reads requests from a SEQPACKET socket (JSON, with descriptors) and answers on it:

- `exec`: descriptors pidfd of init, standard input, output, error -> {id, pid} with a pidfd, then {id, status}.
- `attach`: the same for a privileged container, through liblxc (attach).
- `serve`: descriptors pidfd of init or root directory, socket -> the same; the child serves files (files, sftp).
- {id, error, errno} where the container could not be entered.

A status is negative for a signal. Large requests come as a memfd in front of the other descriptors. Nothing may be
imported after the container's root was entered: an import would look for modules inside the container.
"""

import contextlib
import ctypes
import errno
import fcntl
import gc
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
import termios
from typing import Any, NoReturn

from corral.helper import attach, files, sftp
from corral.helper.entering import (
    CLONE_NEW_OTHERS,
    CLONE_NEWNS,
    CLONE_NEWUSER,
    EnterFailed,
    clone_sibling,
    find_unified,
    fork_into,
    join_cgroups,
    leave_keyring,
    libc,
    setns,
    share_cores,
)

EXIT_NOT_EXECUTABLE = 126
EXIT_NOT_FOUND = 127

_PR_SET_DUMPABLE = 4
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_MAX_MESSAGE = 262144
_MAX_FDS = 8
_REPORT = struct.Struct("=iii")
"""The pid to signal, the pid that the zygote waits for, an error number."""
_ALL_FDS = 1 << 20


def run_exec(request: dict[str, Any], fds: list[int], report: int) -> NoReturn:
    """Child: enter the container, leave the sibling that executes, tell the zygote its pid, end."""
    pidfd, stdio = fds[0], fds[1:4]
    try:
        leave_keyring()
        join_cgroups(request["cgroups"], tuple(request["owner"]))
        if request["core_of"]:
            share_cores(request["core_of"])
        proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        setns(pidfd, CLONE_NEWNS | CLONE_NEW_OTHERS | (CLONE_NEWUSER if request["userns"] else 0))
        pid = clone_sibling()
        if pid == 0:
            execute(request, stdio, proc)
        os.write(report, _REPORT.pack(pid, pid, 0))
    except BaseException as error:
        send_failure(report, error)
    finally:
        os._exit(0)


def send_failure(report: int, error: BaseException) -> None:
    """Tell the zygote why there is no pid."""
    number = error.number if isinstance(error, EnterFailed) else getattr(error, "errno", None) or errno.EIO
    os.write(report, _REPORT.pack(-1, -1, number) + str(error).encode(errors="replace")[:4096])


def execute(request: dict[str, Any], stdio: list[int], proc: int) -> NoReturn:
    """Sibling: become the command. Never returns and never raises."""
    code = EXIT_NOT_EXECUTABLE
    try:
        prepare(request, stdio, proc)
        code = try_exec(request["argv"], request["env"])
    except BaseException as error:
        with contextlib.suppress(BaseException):
            os.write(2, f"{error}\n".encode(errors="replace"))
    finally:
        os._exit(code)


def prepare(request: dict[str, Any], stdio: list[int], proc: int) -> None:
    """Session, terminal, standard descriptors, ids, directory, limits, signals."""
    os.setsid()
    if request["tty"]:
        fcntl.ioctl(stdio[0], termios.TIOCSCTTY, 0)
    for number, fd in enumerate(stdio):
        os.dup2(fd, number, inheritable=True)
    if request["apparmor"]:
        confine(proc, request["apparmor"])
    os.closerange(3, _ALL_FDS)
    for kind, soft, hard in request["rlimits"]:
        resource.setrlimit(kind, (soft, hard))
    if request["seccomp"]:
        filter_calls(bytes.fromhex(request["seccomp"]))
    uid, gid = request["uid"], request["gid"]
    os.setgroups(request["groups"])
    os.setresgid(gid, gid, gid)
    # By way of root: only a step from the namespace's root to another user drops the capabilities.
    os.setresuid(0, 0, 0)
    os.setresuid(uid, uid, uid)
    try:
        os.chdir(request["cwd"])
    except OSError:
        os.chdir("/")
    os.umask(0o022)
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


def filter_calls(instructions: bytes) -> None:
    """Have seccomp judge the system calls of the command. It is done as root of the container, who may."""
    program = _Program(len(instructions) // 8, instructions)
    if libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) != 0:
        raise EnterFailed("Filtering system calls", ctypes.get_errno())


def confine(proc: int, profile: str) -> None:
    """Have AppArmor confine the command, through the host's /proc: the container's may be forged."""
    fd = os.open("thread-self/attr/exec", os.O_WRONLY | os.O_CLOEXEC, dir_fd=proc)
    os.write(fd, b"exec " + profile.encode())
    os.close(fd)


def try_exec(argv: list[str], env: dict[str, str]) -> int:
    """Execute by the search path of the environment; returns the exit code for a failure."""
    # Not os.execvpe: it imports modules, which are no longer there.
    name = argv[0]
    if not name:
        return EXIT_NOT_FOUND
    directories = env.get("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").split(":")
    candidates = [name] if "/" in name else [f"{directory or '.'}/{name}" for directory in directories]
    code = EXIT_NOT_FOUND
    for candidate in candidates:
        try:
            os.execve(candidate, argv, env)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            code = EXIT_NOT_EXECUTABLE
    return code


def run_serve(request: dict[str, Any], fds: list[int], report: int) -> NoReturn:
    """Child: enter the file system of an instance and serve it on the passed socket until that closes."""
    place, channel = fds[0], fds[1]
    code = 1
    try:
        if request["running"]:
            setns(place, CLONE_NEWNS | (CLONE_NEWUSER if request["userns"] else 0))
            os.chdir("/")
        else:
            files.enter_root(place, request["uid_map"], request["gid_map"])
        os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        os.umask(0)
        os.close(place)
        os.write(report, _REPORT.pack(os.getpid(), os.getpid(), 0))
        os.close(report)
        (sftp if request["protocol"] == "sftp" else files).serve(channel)
        code = 0
    except BaseException as error:
        with contextlib.suppress(OSError):
            send_failure(report, error)
    finally:
        os._exit(code)


def run_attach(request: dict[str, Any], fds: list[int], report: int) -> NoReturn:
    """Child: have liblxc attach the command, wait for its end and end alike."""
    code = EXIT_NOT_EXECUTABLE
    try:
        os.setsid()
        leave_keyring()
        pid = attach.start(request, fds[1:4], try_exec)
        os.write(report, _REPORT.pack(pid, os.getpid(), 0))
        os.close(report)
        for fd in fds:
            os.close(fd)
        _, status = os.waitpid(pid, 0)
        ended = os.waitstatus_to_exitcode(status)
        code = 128 - ended if ended < 0 else ended
    except BaseException as error:
        with contextlib.suppress(OSError):
            send_failure(report, error)
    finally:
        os._exit(code)


OPERATIONS = {"exec": run_exec, "attach": run_attach, "serve": run_serve}


class Zygote:
    """The loop: requests, reports of children on their way in, ended children."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._running: dict[int, int] = {}
        self._entering: set[int] = set()
        self._reports: dict[int, int] = {}
        self._poll = select.poll()

    def loop(self) -> None:
        """Serve until the daemon is gone."""
        wake, waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(waker)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._poll.register(self._channel, select.POLLIN)
        self._poll.register(wake, select.POLLIN)
        while True:
            for fd, _ in self._poll.poll():
                if fd == wake:
                    with contextlib.suppress(BlockingIOError):
                        os.read(wake, 4096)
                elif fd in self._reports:
                    self._read_report(fd)
                elif not self._receive():
                    return
            self._reap()

    def _receive(self) -> bool:
        message, fds, _, _ = socket.recv_fds(self._channel, _MAX_MESSAGE, _MAX_FDS)
        if not message:
            return False
        request = json.loads(message)
        if "memfd" in request:
            with open(fds.pop(0), "rb") as large:
                request = json.load(large)
        report, reporter = os.pipe2(os.O_CLOEXEC)
        unified = find_unified(request["cgroups"]) if request["op"] == "exec" else None
        pid = fork_into(unified) if unified is not None else None
        if pid is None:
            pid = os.fork()
        elif pid == 0:
            request["cgroups"].remove(unified)
        if pid == 0:
            signal.set_wakeup_fd(-1)
            # A handler would interrupt liblxc's system calls, some of which it does not repeat.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._channel.close()
            os.close(report)
            OPERATIONS[request["op"]](request, fds, reporter)
        os.close(reporter)
        for fd in fds:
            os.close(fd)
        self._entering.add(pid)
        self._reports[report] = request["id"]
        self._poll.register(report, select.POLLIN)
        return True

    def _read_report(self, fd: int) -> None:
        report = os.read(fd, 8192)
        self._poll.unregister(fd)
        os.close(fd)
        number = self._reports.pop(fd)
        pid, child, error = _REPORT.unpack_from(report) if len(report) >= _REPORT.size else (-1, -1, errno.EIO)
        if pid < 0:
            text = report[_REPORT.size :].decode(errors="replace") or "The process ended on its way in"
            self._send({"id": number, "error": text, "errno": error})
            return
        self._entering.discard(child)
        self._running[child] = number
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            # An attached command is its own parent's to collect and may be gone.
            self._send({"id": number, "pid": pid})
            return
        self._send({"id": number, "pid": pid}, [pidfd])
        os.close(pidfd)

    def _reap(self) -> None:
        """Collect the ended children that are known: one that no report named yet must stay, so that its pid does."""
        for pid in (*self._entering, *self._running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if not ended:
                continue
            self._entering.discard(pid)
            number = self._running.pop(pid, None)
            if number is not None:
                self._send({"id": number, "status": os.waitstatus_to_exitcode(status)})

    def _send(self, message: dict[str, Any], fds: list[int] | None = None) -> None:
        with contextlib.suppress(BrokenPipeError):
            socket.send_fds(self._channel, [json.dumps(message).encode()], fds or [])


def main() -> None:
    """Entry point: the last arguments are a descriptor that is not needed any more, and the socket's."""
    os.close(int(sys.argv[-2]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The container's processes must not be able to trace a child of ours on its way in.
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    gc.collect()
    gc.freeze()
    Zygote(socket.socket(fileno=int(sys.argv[-1]))).loop()
