"""Client of the command socket that a container's liblxc monitor serves.

Each call opens the abstract Unix socket of the container, sends one plain struct and reads one back, so the daemon
needs no liblxc of its own. Struct layouts follow liblxc's commands.h: request (int command, int length, pointer),
answer (int result, int length, pointer), both native endian. A container without a monitor has no socket: calls
raise ConnectionRefusedError (use `find_state` to ask softly).
"""

import array
import contextlib
import os
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum

TIMEOUT_S = 20.0
"""A monitor may be busy with intercepted system calls: longer than two of them take (helper/intercept)."""

_FRAME = struct.Struct("=iiQ")
_CREDENTIALS = struct.Struct("=iII")
_CONSOLE_LOG = struct.Struct("=??6xQ")
_ABSTRACT_NAME_LIMIT = 106
_FNV_PRIME = 0x100000001B3
_FNV_START = 0xCBF29CE484222325
_MAX_FDS = 8


class Command(IntEnum):
    """liblxc's lxc_cmd_t."""

    GET_TTY_FD = 0
    TERMINAL_WINCH = 1
    STOP = 2
    GET_STATE = 3
    GET_INIT_PID = 4
    GET_CGROUP = 6
    GET_CONFIG_ITEM = 7
    CONSOLE_LOG = 11
    ADD_BPF_DEVICE_CGROUP = 14
    FREEZE = 15
    UNFREEZE = 16
    GET_CGROUP2_FD = 17
    GET_INIT_PIDFD = 18
    GET_LIMIT_CGROUP = 19
    GET_DEVPTS_FD = 21
    GET_SECCOMP_NOTIFY_FD = 22


class State(IntEnum):
    """liblxc's lxc_state_t."""

    STOPPED = 0
    STARTING = 1
    RUNNING = 2
    STOPPING = 3
    ABORTING = 4
    FREEZING = 5
    FROZEN = 6
    THAWED = 7


@dataclass(slots=True)
class Answer:
    """What the monitor answered; the receiver owns the descriptors."""

    result: int
    data: bytes = b""
    value: int = 0
    fds: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Console:
    """An attached console: the PTY and the socket whose life is the attachment's."""

    fd: int
    connection: socket.socket

    def close(self) -> None:
        """Detach."""
        os.close(self.fd)
        self.connection.close()


def fnv1a_64(text: str) -> int:
    """The 64-bit FNV-1a hash that liblxc uses for long socket names."""
    value = _FNV_START
    for byte in text.encode():
        value = ((value ^ byte) * _FNV_PRIME) & 0xFFFFFFFFFFFFFFFF
    return value


def socket_name(lxcpath: str, name: str) -> str:
    """The abstract name (without the leading NUL) of a container's command socket."""
    plain = f"{lxcpath}/{name}/command"
    if len(plain.encode()) < _ABSTRACT_NAME_LIMIT:
        return plain
    return f"lxc/{fnv1a_64(f'{lxcpath}/{name}'):016x}/command"


def pack_device_rule(rule: str, allowed: bool) -> bytes:
    """liblxc's struct device_item of a rule such as `b 8:* rw`; it ends with the two pointers of a list."""
    kind, numbers, access = rule.split(" ")
    major, _, minor = numbers.partition(":")
    number = [-1 if text == "*" else int(text) for text in (major, minor)]
    return struct.pack("@c3xii4siPP", kind.encode(), *number, access.encode(), int(allowed), 0, 0)


def scan_running(lxcpath: str, candidates: Iterable[str] = ()) -> list[str]:
    """Names of the containers below `lxcpath` whose monitor is alive, sorted.

    Names whose socket name is hashed cannot be read back: they are found only if they are among `candidates`.
    """
    with open("/proc/net/unix") as table:
        return parse_running(table.read(), lxcpath, candidates)


def parse_running(table: str, lxcpath: str, candidates: Iterable[str] = ()) -> list[str]:
    """Find the running containers in the text of /proc/net/unix."""
    prefix, suffix = f"@{lxcpath}/", "/command"
    bound = {line[line.index("@") :] for line in table.splitlines() if "@" in line}
    found = {name[len(prefix) : -len(suffix)] for name in bound if name.startswith(prefix) and name.endswith(suffix)}
    found.update(name for name in candidates if "@" + socket_name(lxcpath, name) in bound)
    return sorted(name for name in found if name and "/" not in name)


class Monitor:
    """The monitor of one container, addressed by liblxc's path and name; holds no resources."""

    __slots__ = ("address", "name")

    def __init__(self, lxcpath: str, name: str) -> None:
        self.name = name
        self.address = b"\0" + socket_name(lxcpath, name).encode()

    def get_state(self) -> State:
        """The state that the monitor believes in."""
        return State(self._ask(Command.GET_STATE).value)

    def find_state(self) -> State | None:
        """The state, or None if there is no monitor."""
        try:
            return self.get_state()
        except (ConnectionError, FileNotFoundError):
            return None

    def get_init_pid(self) -> int:
        """The process id of the container's init in the caller's PID namespace."""
        pid = struct.unpack("=i", struct.pack("=I", self._ask(Command.GET_INIT_PID).value & 0xFFFFFFFF))[0]
        if pid <= 0:
            raise ProcessLookupError(3, f"Container {self.name} has no init process")
        return int(pid)

    def get_init_pidfd(self) -> int:
        """A new descriptor of the init process."""
        return self._get_fd(Command.GET_INIT_PIDFD)

    def get_cgroup(self, controller: str | None) -> str:
        """The payload's path below the mount of a v1 controller, or of the unified tree for None.

        Raises FileNotFoundError where the container has no group there.
        """
        name = "name=systemd" if controller == "systemd" else controller
        try:
            answer = self._checked(Command.GET_CGROUP, name.encode() + b"\0" if name is not None else b"")
        except ConnectionResetError as error:
            raise FileNotFoundError(2, "No control group for this controller", controller or "unified") from error
        return answer.data.rstrip(b"\0").decode()

    def allow_device(self, rule: str, allowed: bool) -> None:
        """Change the device rules of a container on the unified tree: `c 1:5 rwm`."""
        self._checked(Command.ADD_BPF_DEVICE_CGROUP, pack_device_rule(rule, allowed))

    def get_config_item(self, key: str) -> str:
        """The value of a liblxc key in the running container's configuration; "" for one that has none."""
        try:
            answer = self._checked(Command.GET_CONFIG_ITEM, key.encode() + b"\0")
        except PermissionError:
            # liblxc's word for an empty value.
            return ""
        return answer.data.rstrip(b"\0").decode()

    def get_devpts_fd(self) -> int:
        """A new descriptor of the container's devpts mount (a directory)."""
        return self._get_fd(Command.GET_DEVPTS_FD)

    def open_console(self) -> Console:
        """Attach to the console.

        Raises BlockingIOError where it is attached already.
        """
        connection = self._connect()
        try:
            answer = _exchange(connection, Command.GET_TTY_FD, b"", 0)
            if answer.result < 0 or not answer.fds:
                _close_all(answer.fds)
                raise BlockingIOError(-answer.result, f"The console of {self.name} is in use")
            _close_all(answer.fds[1:])
            connection.settimeout(None)
            return Console(answer.fds[0], connection)
        except BaseException:
            connection.close()
            raise

    def console_resized(self) -> None:
        """Tell the monitor that the size of the attached console's terminal changed."""
        # The monitor acts and hangs up without an answer.
        with contextlib.suppress(ConnectionResetError):
            self._ask(Command.TERMINAL_WINCH)

    def read_console_log(self) -> bytes:
        """The contents of the console's ring buffer (empty where there are none)."""
        answer = self._ask(Command.CONSOLE_LOG, _CONSOLE_LOG.pack(False, True, 0))
        if answer.result < 0 and answer.result not in (-61, -2):
            raise OSError(-answer.result, os.strerror(-answer.result), self.name)
        return answer.data

    def clear_console_log(self) -> None:
        """Empty the console's ring buffer."""
        answer = self._ask(Command.CONSOLE_LOG, _CONSOLE_LOG.pack(True, False, 0))
        if answer.result < 0 and answer.result not in (-61, -2):
            raise OSError(-answer.result, os.strerror(-answer.result), self.name)

    def stop(self) -> None:
        """Kill the container's init with SIGKILL by way of the monitor."""
        # The monitor may be gone before it answers.
        with contextlib.suppress(ConnectionResetError):
            self._ask(Command.STOP)

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        connection.settimeout(TIMEOUT_S)
        try:
            connection.connect(self.address)
        except BaseException:
            connection.close()
            raise
        return connection

    def _ask(self, command: Command, data: bytes = b"") -> Answer:
        with self._connect() as connection:
            return _exchange(connection, command, data, 0)

    def _checked(self, command: Command, data: bytes) -> Answer:
        answer = self._ask(command, data)
        if answer.result < 0:
            raise OSError(-answer.result, f"{command.name}: {os.strerror(-answer.result)}", self.name)
        return answer

    def _get_fd(self, command: Command) -> int:
        answer = self._ask(command)
        if not answer.fds:
            number = -answer.result if answer.result < 0 else 2
            raise OSError(number, f"{command.name}: {os.strerror(number)}", self.name)
        _close_all(answer.fds[1:])
        return answer.fds[0]


def _exchange(connection: socket.socket, command: Command, data: bytes, value: int) -> Answer:
    credentials = _CREDENTIALS.pack(os.getpid(), os.getuid(), os.getgid())
    header = _FRAME.pack(command, len(data), value)
    connection.sendmsg([header], [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, credentials)])
    if data:
        connection.sendall(data)
    reply, ancillary, _, _ = connection.recvmsg(_FRAME.size, socket.CMSG_SPACE(4 * _MAX_FDS), socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, payload in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(payload[: len(payload) // fds.itemsize * fds.itemsize])
    if len(reply) < _FRAME.size:
        _close_all(fds)
        raise ConnectionResetError(104, f"The monitor closed the command socket ({command.name})")
    result, length, pointer = _FRAME.unpack(reply)
    body = b""
    while len(body) < length:
        piece = connection.recv(length - len(body))
        if not piece:
            break
        body += piece
    return Answer(result, body, pointer, list(fds))


def _close_all(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)
