"""One proxy device: listens on one side of a container's border and connects to the other. A process of its own.

Started with a JSON description as its only argument and outliving the daemon. It listens first, then enters the side
that it connects to, gives up its rights and serves; the pid of what serves is told on standard output. Streams are
moved by splice(2), so their bytes never enter Python; datagrams go one by one.
"""

import asyncio
import contextlib
import ctypes
import fcntl
import json
import os
import socket
import stat
import struct
import sys
from collections.abc import Callable
from typing import Any

from corral.helper.alone import go_on_alone, is_orphan

_NAMES = {"net": 0x40000000, "mnt": 0x00020000, "user": 0x10000000}
_PIPE_SIZE = 1 << 18
_DATAGRAM = 65536
_CONNECT_TIMEOUT_S = 10.0
_IDLE_UDP_S = 300.0
_BACKLOG = 512
_CAP_DAC = 1 << 1
_FDS_AT_ONCE = 200
_V1, _V6 = "TCP4", "TCP6"

Address = Any


def _family(kind: str, host: str) -> socket.AddressFamily:
    if kind == "unix":
        return socket.AF_UNIX
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _address(place: dict[str, Any]) -> Address:
    if place["kind"] != "unix":
        return place["host"], place["port"]
    path: str = place["host"]
    return "\0" + path[1:] if path.startswith("@") else path


def _is_datagram(place: dict[str, Any]) -> bool:
    return bool(place["kind"] == "udp")


def _open(place: dict[str, Any]) -> socket.socket:
    kind = socket.SOCK_DGRAM if _is_datagram(place) else socket.SOCK_STREAM
    return socket.socket(_family(place["kind"], place["host"]), kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)


def listen(place: dict[str, Any], owner: dict[str, Any]) -> socket.socket:
    """A socket that listens at a place; `owner` has the uid, gid and mode of a Unix socket's file."""
    listener = _open(place)
    if place["kind"] == "unix":
        path = place["host"]
        if not path.startswith("@"):
            with contextlib.suppress(FileNotFoundError):
                # Only what an earlier proxy left is replaced.
                if stat.S_ISSOCK(os.lstat(path).st_mode):
                    os.unlink(path)
    else:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if listener.family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(place["host"] not in ("::", "")))
    listener.bind(_address(place))
    if place["kind"] == "unix" and not place["host"].startswith("@"):
        os.chown(place["host"], owner["uid"], owner["gid"])
        os.chmod(place["host"], owner["mode"])
    if not _is_datagram(place):
        listener.listen(_BACKLOG)
    return listener


class _Pump:
    """Moves bytes from one stream to another until the first ends; then the second is told so."""

    def __init__(self, source: socket.socket, target: socket.socket, done: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._source, self._target, self._done = source, target, done
        self._out, self._in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._in, 1031, _PIPE_SIZE)
        self._held = 0
        self._ended = False
        self._closed = False
        self._loop.add_reader(source.fileno(), self._fill)

    def _fill(self) -> None:
        try:
            count = os.splice(self._source.fileno(), self._in, _PIPE_SIZE)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        self._loop.remove_reader(self._source.fileno())
        if count:
            self._held += count
        else:
            self._ended = True
        self._drain()

    def _drain(self) -> None:
        while self._held:
            try:
                self._held -= os.splice(self._out, self._target.fileno(), self._held)
            except BlockingIOError:
                self._loop.add_writer(self._target.fileno(), self._drain)
                return
            except OSError:
                self.close()
                return
        self._loop.remove_writer(self._target.fileno())
        if self._ended:
            with contextlib.suppress(OSError):
                self._target.shutdown(socket.SHUT_WR)
            self.close()
        else:
            self._loop.add_reader(self._source.fileno(), self._fill)

    def close(self) -> None:
        """Stop moving bytes in this direction."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._source.fileno())
        self._loop.remove_writer(self._target.fileno())
        os.close(self._in)
        os.close(self._out)
        self._done()


async def _relay_streams(one: socket.socket, other: socket.socket) -> None:
    ended = [asyncio.Event(), asyncio.Event()]
    pumps = [_Pump(one, other, ended[0].set), _Pump(other, one, ended[1].set)]
    try:
        for event in ended:
            await event.wait()
    finally:
        for pump in pumps:
            pump.close()


async def _relay_datagrams(stream: socket.socket, datagrams: socket.socket) -> None:
    """A stream on one side and datagrams on the other: each read is one datagram."""
    loop = asyncio.get_running_loop()

    async def back() -> None:
        while True:
            await loop.sock_sendall(stream, await loop.sock_recv(datagrams, _DATAGRAM))

    task = loop.create_task(back())
    try:
        while data := await loop.sock_recv(stream, _DATAGRAM):
            with contextlib.suppress(ConnectionRefusedError):
                await loop.sock_sendall(datagrams, data)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, OSError):
            await task


def proxy_header(client: socket.socket) -> bytes:
    """The first line of the PROXY protocol, version 1."""
    if client.family not in (socket.AF_INET, socket.AF_INET6):
        return b"PROXY UNKNOWN\r\n"
    source, target = client.getpeername(), client.getsockname()
    hosts = [end[0].removeprefix("::ffff:") for end in (source, target)]
    word = _V6 if ":" in hosts[0] else _V1
    return f"PROXY {word} {hosts[0]} {hosts[1]} {source[1]} {target[1]}\r\n".encode()


async def _connect(place: dict[str, Any]) -> socket.socket:
    server = _open(place)
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            await asyncio.get_running_loop().sock_connect(server, _address(place))
    except BaseException:
        server.close()
        raise
    return server


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


async def _serve_client(client: socket.socket, place: dict[str, Any], header: bool) -> None:
    with client:
        try:
            server = await _connect(place)
        except OSError as error:
            _say(f"Failed to connect to {place['kind']}:{place['host']}: {error}")
            return
        with server:
            try:
                if header:
                    await asyncio.get_running_loop().sock_sendall(server, proxy_header(client))
                relay = _relay_datagrams if _is_datagram(place) else _relay_streams
                await relay(client, server)
            except OSError as error:
                _say(f"A connection broke: {error}")


async def _serve_streams(listener: socket.socket, place: dict[str, Any], header: bool) -> None:
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()
    while True:
        try:
            client, _ = await loop.sock_accept(listener)
        except OSError as error:
            # Out of descriptors, or the client is gone again.
            _say(f"Failed to accept a connection: {error}")
            await asyncio.sleep(0.1)
            continue
        task = loop.create_task(_serve_client(client, place, header))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


async def _serve_datagrams(listener: socket.socket, place: dict[str, Any]) -> None:
    """Each client gets a socket of its own towards the other side, closed when it is idle."""
    loop = asyncio.get_running_loop()
    sessions: dict[Address, tuple[socket.socket, asyncio.Task[None]]] = {}

    async def back(client: Address, server: socket.socket) -> None:
        with server:
            try:
                while True:
                    async with asyncio.timeout(_IDLE_UDP_S):
                        data = await loop.sock_recv(server, _DATAGRAM)
                    if not data and not _is_datagram(place):
                        return
                    await loop.sock_sendto(listener, data, client)
            except (OSError, TimeoutError):
                return
            finally:
                sessions.pop(client, None)

    while True:
        try:
            data, client = await loop.sock_recvfrom(listener, _DATAGRAM)
            if client not in sessions:
                server = await _connect(place)
                sessions[client] = server, loop.create_task(back(client, server))
            await loop.sock_sendall(sessions[client][0], data)
        except OSError as error:
            _say(f"Failed to pass a datagram on: {error}")


def enter(fds: dict[str, int]) -> None:
    """Enter namespaces by their descriptors; the mount namespace makes its root ours."""
    libc = ctypes.CDLL(None, use_errno=True)
    for name, fd in fds.items():
        if libc.setns(fd, _NAMES[name]) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"Cannot enter the {name} namespace: {os.strerror(number)}")
        os.close(fd)


def _drop_rights(uid: int, gid: int) -> None:
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if uid == 0:
        # Only that of reaching the sockets of any user is kept: it is what root is asked to connect for.
        libc = ctypes.CDLL(None, use_errno=True)
        libc.capset(struct.pack("=Ii", 0x20080522, 0), struct.pack("=6I", _CAP_DAC, _CAP_DAC, 0, 0, 0, 0))


async def _serve(setup: dict[str, Any], listeners: list[socket.socket]) -> None:
    jobs = []
    for listener, place, source in zip(listeners, setup["connect"], setup["listen"], strict=True):
        if _is_datagram(source):
            jobs.append(_serve_datagrams(listener, place))
        else:
            jobs.append(_serve_streams(listener, place, setup["proxy_protocol"]))
    await asyncio.gather(*jobs)


def _listen_elsewhere(setup: dict[str, Any]) -> list[socket.socket]:
    """Make the listeners in other namespaces: by a child, for there is no way back out of a user namespace."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            enter(setup["enter_listen"])
            listeners = [listen(place, setup["owner"]) for place in setup["listen"]]
            for start in range(0, len(listeners), _FDS_AT_ONCE):
                part = listeners[start : start + _FDS_AT_ONCE]
                socket.send_fds(theirs, [b"listeners"], [one.fileno() for one in part])
            status = 0
        except BaseException as error:
            _say(f"Failed to listen: {error}")
        finally:
            os._exit(status)
    theirs.close()
    fds: list[int] = []
    while True:
        message, got, _, _ = socket.recv_fds(ours, 64, _FDS_AT_ONCE)
        if not message:
            break
        fds += got
    _, status = os.waitpid(pid, 0)
    if status != 0:
        sys.exit(1)
    listeners = [socket.socket(fileno=fd) for fd in fds]
    for listener in listeners:
        listener.setblocking(False)
    return listeners


def _remove_sockets(setup: dict[str, Any]) -> None:
    for place in setup["listen"] if not setup["enter_listen"] else ():
        if place["kind"] == "unix" and not place["host"].startswith("@"):
            with contextlib.suppress(OSError):
                os.unlink(place["host"])


def main() -> None:
    """Run the proxy that the argument describes.

    `listen` and `connect` are lists of places of the same length; `enter_listen` and `enter_connect` are descriptors
    by the name of their namespace.
    """
    setup = json.loads(sys.argv[-1])
    # Nothing can be imported once the root is another one.
    "x".encode("idna")
    os.umask(0)
    if is_orphan(setup["leash"]):
        sys.exit(1)
    try:
        if setup["enter_listen"]:
            listeners = _listen_elsewhere(setup)
        else:
            listeners = [listen(place, setup["owner"]) for place in setup["listen"]]
        if not go_on_alone(setup["log"], setup["leash"]):
            _remove_sockets(setup)
            return
        enter(setup["enter_connect"])
        loop = asyncio.new_event_loop()
        _drop_rights(setup["security_uid"], setup["security_gid"])
    except OSError as error:
        _say(f"Failed to listen: {error}")
        sys.exit(1)
    loop.run_until_complete(_serve(setup, listeners))
