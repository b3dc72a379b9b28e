"""Who is at the other end of a Unix socket: its process, held so that its number names nobody else; its namespaces.

Kernel: unix(7), pid_namespaces(7), ioctl_ns(2). Nothing here reads what a process can say about itself.
"""

import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from corral.server.host.programs import pidfd, processes

_SO_PEERPIDFD = 77
_NS_GET_PARENT = 0xB702
_DEEPEST = 32
"""The kernel nests no more pid namespaces than that; and so many parents are looked at."""


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace, by the device and inode of its file."""

    device: int
    inode: int


@dataclass(frozen=True, slots=True)
class Peer:
    """A process that connected, with the user it was then (both as this process sees them)."""

    pid: int
    uid: int


def get_credentials(connection: socket.socket) -> Peer:
    """The process that connected. The number is 0 for one that this process cannot see."""
    size = struct.calcsize("3i")
    pid, uid, _ = struct.unpack("iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return Peer(pid, uid)


def hold(connection: socket.socket, peer: Peer) -> int:
    """A descriptor of the process that connected. Raises OSError where it has ended.

    Before Linux 6.5 it is that of whoever has the number now, which is the same but for a process that connected and
    ended while all other numbers were used up.
    """
    try:
        return connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError:
        if peer.pid <= 0:
            raise
        return pidfd.open_pidfd(peer.pid)


def get_pid_namespace(pid: int) -> Namespace:
    """The pid namespace of a process. Raises OSError where it has ended."""
    found = os.stat(f"/proc/{pid}/ns/pid")
    return Namespace(found.st_dev, found.st_ino)


def list_pid_namespaces(pid: int) -> list[Namespace]:
    """The pid namespace of a process and those around it, innermost first, as far as this process can see them."""
    found = []
    fd = os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        while True:
            status = os.fstat(fd)
            found.append(Namespace(status.st_dev, status.st_ino))
            try:
                parent = fcntl.ioctl(fd, _NS_GET_PARENT)
            except PermissionError:  # it is our own, or not below it
                return found
            os.close(fd)
            fd = parent
    finally:
        os.close(fd)


def list_ancestors(pid: int) -> Iterator[int]:
    """The parent of a process, its parent, and so on; only the nearest. Raises OSError where one has ended."""
    for _ in range(_DEEPEST):
        pid = processes.get_parent(pid)
        if pid <= 1:
            return
        yield pid
