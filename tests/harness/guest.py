"""A user inside a container who speaks to the guest API: connections made by a process in its namespaces."""

import array
import base64
import contextlib
import http.client
import json
import os
import select
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

SOCKET = "/dev/lxd/sock"

PROGRAM = r"""
import array, ctypes, os, select, socket, sys
pid, uid, path, nested = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4] == "1"
channel = socket.socket(fileno=0)
libc = ctypes.CDLL(None, use_errno=True)
os.chdir("/")
own_user = os.stat("/proc/self/ns/user").st_ino
for name, fd in [(name, os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY)) for name in ("pid", "mnt", "user")]:
    # A privileged container has the host's user namespace, in which we are.
    if os.fstat(fd).st_ino != own_user and libc.setns(fd, 0) != 0:
        raise OSError(ctypes.get_errno(), f"setns {name}")
    os.close(fd)
def fork():
    child = os.fork()
    if child:
        channel.close()
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
fork()
if nested:
    if libc.unshare(0x20000000) != 0:
        raise OSError(ctypes.get_errno(), "unshare pid")
    fork()
os.setgroups([])
os.setgid(uid)
os.setuid(uid)
channel.sendall(b"+")
def flood():
    kept, turned_away = [], 0
    while not select.select([channel], [], [], 0)[0]:
        end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        end.connect(path)
        end.setblocking(False)
        kept.append(end)
        if len(kept) > 1200:
            # More than wait in the listener's queue: of this one the other side has decided.
            try:
                turned_away += kept[0].recv(1) == b""
            except BlockingIOError:
                pass
            kept.pop(0).close()
    channel.sendall(turned_away.to_bytes(4, "little"))
while word := channel.recv(1):
    if word == b"f":
        flood()
        continue
    if word == b"e":
        continue
    end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        end.connect(path)
    except OSError as error:
        channel.sendmsg([bytes([error.errno])])
    else:
        channel.sendmsg([b"\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [end.fileno()]))])
    end.close()
"""


class _Connection(http.client.HTTPConnection):
    def __init__(self, end: socket.socket) -> None:
        super().__init__("lxd", timeout=end.gettimeout())
        self.sock = end


class Guest:
    """A process in the namespaces of a container's init; as long as it lives, its connections are the guest's.

    `nested` gives it a pid namespace of its own below the container's, `title` another name.
    """

    def __init__(self, pid: int, uid: int = 0, *, nested: bool = False, title: str = "") -> None:
        self._channel, theirs = socket.socketpair()
        self._process = subprocess.Popen(
            [title or sys.executable, "-IS", "-c", PROGRAM, str(pid), str(uid), SOCKET, "1" if nested else "0"],
            executable=sys.executable,
            stdin=theirs.fileno(),
            stderr=subprocess.PIPE,
        )
        theirs.close()
        if self._channel.recv(1) != b"+":
            assert self._process.stderr is not None
            reason = self._process.stderr.read().decode()
            self.close()
            raise AssertionError(f"the guest did not get in: {reason}")

    def __enter__(self) -> "Guest":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process; connections stay open."""
        self._channel.close()
        self._process.wait(60)
        if self._process.stderr is not None:
            self._process.stderr.close()

    def connect(self, timeout_s: float = 30.0) -> socket.socket:
        """A connection to the guest API; OSError where the guest cannot have one."""
        self._channel.sendall(b".")
        message, controls, _, _ = self._channel.recvmsg(1, socket.CMSG_SPACE(4))
        if message != b"\0":
            raise OSError(message[0], os.strerror(message[0]))
        end = socket.socket(fileno=array.array("i", controls[0][2])[0])
        end.settimeout(timeout_s)
        return end

    @contextlib.contextmanager
    def flooding(self) -> Iterator[Callable[[], int]]:
        """Connect again and again; yields what ends that and says how many connections were turned away."""
        self._channel.sendall(b"f")
        told: list[int] = []

        def end() -> int:
            if not told:
                self._channel.sendall(b"e")
                told.append(int.from_bytes(self._channel.recv(4), "little"))
            return told[0]

        try:
            yield end
        finally:
            end()

    def request(
        self, path: str, method: str = "GET", body: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers (lower case) and body of a request on a connection of its own."""
        with self.connect() as end:
            return self.ask(end, path, method, body, **headers)

    @staticmethod
    def ask(
        end: socket.socket, path: str, method: str = "GET", body: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers (lower case) and body of a request on a connection."""
        connection = _Connection(end)
        connection.request(method, path, body=body, headers=headers)
        reply = connection.getresponse()
        content = reply.read()
        return reply.status, {name.lower(): value for name, value in reply.getheaders()}, content

    def get(self, path: str) -> Any:
        """The JSON of an answer."""
        status, _, content = self.request(path)
        assert status == 200, (status, content)
        return json.loads(content)

    def text(self, path: str) -> str:
        """The text of an answer."""
        status, _, content = self.request(path)
        assert status == 200, (status, content)
        return content.decode()

    def watch(self, query: str = "") -> "Watch":
        """The events by websocket."""
        return Watch(self.connect(), query, websocket=True)

    def stream(self, query: str = "") -> "Watch":
        """The events as lines after the head of an answer."""
        return Watch(self.connect(), query, websocket=False)


class Watch:
    """A watcher of events."""

    def __init__(self, end: socket.socket, query: str, *, websocket: bool) -> None:
        self._websocket = websocket
        self._end = end
        self._file = end.makefile("rb")
        upgrade = ""
        if websocket:
            key = base64.b64encode(os.urandom(16)).decode()
            upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            upgrade += f"Sec-WebSocket-Key: {key}\r\n"
        end.sendall(f"GET /1.0/events{query} HTTP/1.1\r\nHost: lxd\r\n{upgrade}\r\n".encode())
        self.status = int(self._file.readline().split()[1])
        while self._file.readline().strip():
            pass

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Go away."""
        self._file.close()
        self._end.close()

    def next(self) -> dict[str, Any]:
        """The next event, without its time, which must have the form that it has."""
        data = self._frame() if self._websocket else self._file.readline()
        assert data, "the stream of events has ended"
        event: dict[str, Any] = json.loads(data)
        assert event.pop("timestamp")[:2] == "20"
        return event

    def ended(self) -> bool:
        """Whether nothing more comes; waits for that."""
        try:
            return not (self._frame() if self._websocket else self._file.readline())
        except ConnectionError:
            return True

    def was_cut_off(self) -> bool:
        """Whether the other side has gone, which shows without reading what it sent."""
        poll = select.poll()
        poll.register(self._end, 0)
        return bool(poll.poll(0))

    def _frame(self) -> bytes:
        while True:
            head = self._file.read(2)
            if len(head) < 2:
                return b""
            size = head[1]
            if size == 126:
                size = struct.unpack(">H", self._file.read(2))[0]
            elif size == 127:
                size = struct.unpack(">Q", self._file.read(8))[0]
            data = self._file.read(size)
            if head[0] & 0xF == 1:
                return data
            if head[0] & 0xF == 8:
                return b""
