"""Answers the system calls of one container that its seccomp policy hands over. A process of its own.

Started with a JSON description and outliving the daemon, it listens where liblxc's monitor connects
(`lxc.seccomp.notify.proxy`). The monitor sends one call at a time and waits; each is answered by a child, for all that
has to do with the guest can block: its memory, its file systems. A child that takes too long, or whose caller is gone,
is killed, so that nothing the guest does holds the monitor up. The process ends with the monitor.
"""

import contextlib
import errno
import gc
import json
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from corral.helper.alone import go_on_alone, is_orphan
from corral.helper.intercepted import mounts, nodes, programs, scheduling
from corral.helper.intercepted.caller import Caller, NotOurs
from corral.helper.intercepted.kernel import AT_FDCWD

HEADER = struct.Struct("=QiiHHH2xQ")
"""liblxc's struct seccomp_notify_proxy_msg: reserved, the monitor's and the init's pid, sizes, length of the cookie."""
CALL = struct.Struct("=QIIiIQ6Q")
"""struct seccomp_notif: id, pid, flags; then nr, arch, instruction pointer, arguments."""
ANSWER = struct.Struct("=QqiI")
"""struct seccomp_notif_resp: id, value, error, flags."""
SIZES = (80, 24, 64)
CONTINUE = 1

QUICK_S = 4.0
MOUNT_S = 8.0
"""How long an answer may take; the monitor answers nobody else meanwhile."""
_LOOK_S = 0.05
_MOST_STUCK = 4
_RESULT = struct.Struct("=qiI")
_MESSAGE_LIMIT = 8192

# The numbers of mknod, mknodat, setxattr, mount, bpf, sched_setscheduler and sysinfo by AUDIT_ARCH_*.
_NAMES = ("mknod", "mknodat", "setxattr", "mount", "bpf", "sched_setscheduler", "sysinfo")
_NUMBERS = {
    0xC000003E: (133, 259, 188, 165, 321, 144, 99),  # x86_64
    0x40000003: (14, 297, 226, 21, 357, 156, 116),  # i386
    0xC00000B7: (-1, 33, 5, 40, 280, 119, 179),  # aarch64
    0x40000028: (14, 324, 226, 21, 386, 156, 116),  # arm
    0xC0000015: (14, 288, 209, 21, 361, 156, 116),  # ppc64le
    0x80000016: (14, 290, 224, 21, 351, 156, 116),  # s390x
    0xC00000F3: (-1, 33, 5, 40, 280, 119, 179),  # riscv64
}
_WIDE = 0x80000000


@dataclass(frozen=True, slots=True)
class Call:
    """One intercepted call."""

    id: int
    init_pid: int
    name: str
    arguments: tuple[int, ...]
    wide: bool


class Invalid(Exception):
    """A message that is none of liblxc's."""


def parse(message: bytes) -> Call:
    """The call in a message. Raises Invalid."""
    if len(message) < HEADER.size + CALL.size + ANSWER.size:
        raise Invalid("it is too short")
    reserved, _, init_pid, *sizes, _ = HEADER.unpack_from(message)
    if reserved != 0 or tuple(sizes) != SIZES:
        raise Invalid("its structures are not the kernel's")
    call_id, _, _, number, arch, _, *arguments = CALL.unpack_from(message, HEADER.size)
    known = _NUMBERS.get(arch, ())
    name = _NAMES[known.index(number)] if number >= 0 and number in known else ""
    wide = bool(arch & _WIDE)
    if not wide:
        arguments = [argument & 0xFFFFFFFF for argument in arguments]
    return Call(call_id, init_pid, name, tuple(arguments), wide)


def compose(message: bytes, call_id: int, result: tuple[int, int, int]) -> bytes:
    """What liblxc expects back: its own message with the answer filled in, without the cookie."""
    start = message[: HEADER.size + CALL.size]
    return start + ANSWER.pack(call_id, *result)


def is_interesting(call: Call) -> bool:
    """Whether the arguments alone leave it possible that the call is not simply the kernel's."""
    words = call.arguments
    if call.name == "mknod":
        return nodes.is_allowed(words[1], words[2])
    if call.name == "mknodat":
        return nodes.is_allowed(words[2], words[3])
    return bool(call.name)


def _signed(word: int) -> int:
    """A C int that was passed in a register."""
    return (word & 0xFFFFFFFF) - (1 << 32) if word & 0x80000000 else word & 0xFFFFFFFF


def answer(call: Call, caller: Caller, policy: dict[str, Any]) -> int:
    """Carry a call out and return its value; NotOurs leaves it to the kernel, OSError is its failure."""
    words = call.arguments
    match call.name:
        case "mknod":
            return nodes.mknod(caller, AT_FDCWD, words[0], words[1], words[2])
        case "mknodat":
            return nodes.mknod(caller, _signed(words[0]), words[1], words[2], words[3])
        case "setxattr":
            return nodes.setxattr(caller, words[0], words[1], words[2], _signed(words[4]))
        case "mount":
            places = (words[0], words[1], words[2], words[4])
            return mounts.mount(caller, places, words[3], policy["mount"], policy["mount_shift"])
        case "bpf" if policy["bpf_devices"]:
            return programs.bpf(caller, _signed(words[0]), words[1], words[2])
        case "sched_setscheduler":
            return scheduling.sched_setscheduler(caller, _signed(words[0]), _signed(words[1]), words[2])
        case "sysinfo":
            return scheduling.sysinfo(caller, words[0], policy["name"], wide=call.wide)
    raise NotOurs


def _carry_out(work: Callable[[], int], report: int) -> NoReturn:
    """In the child: do the work and tell how it went."""
    result = (0, 0, CONTINUE)
    try:
        result = (work(), 0, 0)
    except OSError as error:
        result = (0, -(error.errno or errno.EPERM), 0)
    except NotOurs:
        pass
    except BaseException as error:
        print(f"An answer failed: {error!r}", file=sys.stderr, flush=True)
    finally:
        os.write(report, _RESULT.pack(*result))
        os._exit(0)


class Interceptor:
    """The loop over the connections of a container's monitor."""

    def __init__(self, listener: socket.socket, policy: str) -> None:
        self._listener = listener
        self._policy = policy
        self._poll = select.poll()
        self._poll.register(listener, select.POLLIN)
        self._connections: dict[int, socket.socket] = {}
        self._monitor = -1
        self._stuck: list[int] = []

    def loop(self) -> None:
        """Serve until the monitor is gone."""
        while True:
            for fd, _ in self._poll.poll():
                if fd == self._listener.fileno():
                    self._accept()
                elif fd == self._monitor:
                    return
                elif not self._receive(self._connections[fd]):
                    self._poll.unregister(fd)
                    self._connections.pop(fd).close()

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        pid, uid, _ = struct.unpack("=iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid != os.getuid() or len(self._connections) > 16:
            connection.close()
            return
        if self._monitor < 0:
            with contextlib.suppress(OSError):
                self._monitor = os.pidfd_open(pid)
                self._poll.register(self._monitor, select.POLLIN)
        self._connections[connection.fileno()] = connection
        self._poll.register(connection, select.POLLIN)

    def _receive(self, connection: socket.socket) -> bool:
        try:
            message, fds, _, _ = socket.recv_fds(connection, _MESSAGE_LIMIT, 3, socket.MSG_CMSG_CLOEXEC)
        except OSError:
            return False
        try:
            if not message:
                return False
            connection.send(self._answer(message, fds))
        except Invalid as error:
            print(f"Not understood: {error}", file=sys.stderr, flush=True)
            # Too short a message makes liblxc answer by itself, at once.
            with contextlib.suppress(OSError):
                connection.send(b"\0")
            return False
        except OSError:
            return False
        finally:
            for fd in fds:
                os.close(fd)
        return True

    def _answer(self, message: bytes, fds: list[int]) -> bytes:
        call = parse(message)
        if len(fds) != 3:
            raise Invalid("it has not the three descriptors")
        result = (0, 0, CONTINUE)
        self._stuck = [pid for pid in self._stuck if os.waitpid(pid, os.WNOHANG)[0] == 0]
        if is_interesting(call) and len(self._stuck) < _MOST_STUCK:
            caller = Caller((fds[0], fds[1], fds[2]), call.id, call.init_pid)
            result = self._in_child(call, caller)
        return compose(message, call.id, result)

    def _in_child(self, call: Call, caller: Caller) -> tuple[int, int, int]:
        out, report = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            os.setpgid(0, 0)
            self._forget_all()
            os.close(out)
            _carry_out(lambda: answer(call, caller, self._read_policy()), report)
        os.close(report)
        try:
            result = self._await(out, caller, MOUNT_S if call.name == "mount" else QUICK_S)
            if result is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        finally:
            os.close(out)
        if result is not None:
            os.waitpid(pid, 0)
            return result
        if os.waitpid(pid, os.WNOHANG)[0] == 0:
            self._stuck.append(pid)
        return 0, -errno.ETIMEDOUT, 0

    def _await(self, out: int, caller: Caller, timeout_s: float) -> tuple[int, int, int] | None:
        """The child's result; None where it takes too long or nobody waits for it any more."""
        poll = select.poll()
        poll.register(out, select.POLLIN)
        deadline = time.monotonic() + timeout_s
        while not poll.poll(_LOOK_S * 1000):
            if time.monotonic() > deadline or not caller.is_waiting():
                return None
        data = os.read(out, _RESULT.size)
        value, error, flags = _RESULT.unpack(data) if len(data) == _RESULT.size else (0, -errno.EIO, 0)
        return value, error, flags

    def _forget_all(self) -> None:
        """A child holds nothing but what belongs to its call."""
        self._listener.close()
        for connection in self._connections.values():
            connection.close()
        if self._monitor >= 0:
            os.close(self._monitor)

    def _read_policy(self) -> dict[str, Any]:
        with open(self._policy, encoding="utf-8") as file:
            policy: dict[str, Any] = json.load(file)
        return policy


def listen(path: str) -> socket.socket:
    """The socket that the monitor connects to, for root alone."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    os.umask(0o177)
    listener.bind(path)
    listener.listen(8)
    return listener


def main() -> None:
    """Serve the container that the argument describes: `path` of the socket, file of the `policy`, `log`."""
    setup = json.loads(sys.argv[-1])
    if is_orphan(setup["leash"]):
        return
    listener = listen(setup["path"])
    if not go_on_alone(setup["log"], setup["leash"]):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(setup["path"])
        return
    os.setsid()
    os.umask(0o022)
    os.nice(5)
    gc.collect()
    gc.freeze()
    Interceptor(listener, setup["policy"]).loop()
    with contextlib.suppress(FileNotFoundError):
        os.unlink(setup["path"])
