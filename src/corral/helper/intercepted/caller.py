"""The process that waits in an intercepted system call: its memory, its identity, its namespaces.

All of it is reached through descriptors of the very task (`/proc/TID`, its memory), never by a number that another
process could have by now; and what was read counts only while the call is still waiting (`ensure_waiting`).
"""

import ctypes
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NoReturn

from corral.helper.intercepted import kernel
from corral.helper.intercepted.kernel import CLONE_NEWNS, CLONE_NEWUSER

STRING_LIMIT = 4096
_PAGE = 4096
_NOTIF_ID_VALID = 0x40082102
_NS_GET_PARENT = 0xB702
_NS_GET_OWNER_UID = 0xB704


class NotOurs(Exception):
    """The kernel shall carry the call out as if nobody had looked at it."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Ids as the host has them; `capabilities` are the effective ones, which hold in the task's user namespace."""

    uid: int
    gid: int
    file_uid: int
    file_gid: int
    groups: tuple[int, ...]
    capabilities: int
    umask: int
    group_leader: int

    def has(self, capability: int) -> bool:
        """Whether the task may use a capability."""
        return bool(self.capabilities >> capability & 1)


def parse_status(text: str) -> Identity:
    """The identity in the text of /proc/TID/status."""
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    _, uid, _, file_uid = map(int, fields["Uid"].split())
    _, gid, _, file_gid = map(int, fields["Gid"].split())
    return Identity(
        uid=uid,
        gid=gid,
        file_uid=file_uid,
        file_gid=file_gid,
        groups=tuple(map(int, fields["Groups"].split())),
        capabilities=int(fields["CapEff"], 16),
        umask=int(fields.get("Umask", "0022"), 8),
        group_leader=int(fields["Tgid"]),
    )


def map_inside(table: str, number: int) -> int:
    """The id inside a user namespace of an id outside, by the text of its uid_map. Raises PermissionError."""
    for line in table.splitlines():
        inside, outside, count = map(int, line.split())
        if outside <= number < outside + count:
            return inside + number - outside
    raise PermissionError(1, "The id has no place in the user namespace")


def map_outside(table: str, number: int) -> int:
    """The id outside of an id inside; the reverse of map_inside."""
    for line in table.splitlines():
        inside, outside, count = map(int, line.split())
        if inside <= number < inside + count:
            return outside + number - inside
    raise PermissionError(1, "The id has no place in the user namespace")


class Caller:
    """One task that waits. The descriptors are the owner's to close."""

    def __init__(self, fds: tuple[int, int, int], call_id: int, init_pid: int) -> None:
        self.proc, self.memory, self.notifier = fds
        self.call_id, self.init_pid = call_id, init_pid

    def is_waiting(self) -> bool:
        """Whether the call still waits for its answer."""
        try:
            kernel.ioctl(self.notifier, _NOTIF_ID_VALID, self.call_id.to_bytes(8, "little"))
        except OSError:
            return False
        return True

    def ensure_waiting(self) -> None:
        """Raise NotOurs where the call was given up: what was read of the task may be another's."""
        if not self.is_waiting():
            raise NotOurs

    def read(self, address: int, size: int) -> bytes:
        """Bytes of the task's memory; OSError EFAULT where it has none there."""
        data = os.pread(self.memory, size, address)
        if len(data) < size:
            raise OSError(14, os.strerror(14))
        return data

    def read_string(self, address: int) -> bytes:
        """A string that ends with NUL; OSError ENAMETOOLONG where it does not end soon enough."""
        found = b""
        while len(found) < STRING_LIMIT:
            # Not over the border of a page: the next one need not be there.
            step = min(_PAGE - (address + len(found)) % _PAGE, STRING_LIMIT - len(found))
            found += self.read(address + len(found), step)
            end = found.find(b"\0")
            if end >= 0:
                return found[:end]
        raise OSError(36, os.strerror(36))

    def read_file(self, name: str) -> str:
        """The text of a file of /proc/TID."""
        fd = self.open(name, os.O_RDONLY)
        with open(fd, encoding="utf-8", errors="replace") as file:
            return file.read()

    def open(self, name: str, flags: int = os.O_RDONLY) -> int:
        """Open a file of /proc/TID."""
        return os.open(name, flags | os.O_CLOEXEC, dir_fd=self.proc)

    @cached_property
    def identity(self) -> Identity:
        """Who the task is."""
        return parse_status(self.read_file("status"))

    def enter_mounts(self) -> None:
        """See the files that the task sees, from its root and its working directory."""
        namespace = self.open("ns/mnt")
        root = self.open("root", os.O_PATH | os.O_DIRECTORY)
        directory = self.open("cwd", os.O_PATH | os.O_DIRECTORY)
        self.ensure_waiting()
        enter_mounts(namespace, root, directory)
        for fd in (namespace, root, directory):
            os.close(fd)

    def become(self) -> None:
        """Become the task in all that access to files depends on: namespaces, ids, groups and capabilities."""
        who = self.identity
        uids, gids = self.read_file("uid_map"), self.read_file("gid_map")
        uid, gid = map_inside(uids, who.file_uid), map_inside(gids, who.file_gid)
        namespace = self.open("ns/user")
        kernel.hide()
        self.enter_mounts()
        # Here and not inside, where it may be forbidden.
        os.setgroups(who.groups)
        kernel.setns(namespace, CLONE_NEWUSER)
        os.close(namespace)
        os.setresgid(gid, gid, gid)
        kernel.keep_capabilities()
        os.setresuid(uid, uid, uid)
        kernel.set_capabilities(who.capabilities & kernel.permitted_capabilities())

    def as_itself(self, work: Callable[[], int]) -> int:
        """Have a child that became the task do something that returns a descriptor, and return that descriptor.

        So paths are resolved with exactly the rights of the task. Raises the child's OSError, or NotOurs.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            _answer_by_descriptor(self, work, theirs)
        theirs.close()
        with ours:
            message, fds, _, _ = socket.recv_fds(ours, 64, 1, socket.MSG_CMSG_CLOEXEC)
        os.waitpid(pid, 0)
        if fds:
            return fds[0]
        number = int(message or b"0")
        if number == 0:
            raise NotOurs
        raise OSError(number, os.strerror(number))

    def is_trusted_with(self, capability: int) -> bool:
        """Whether the task has a capability in the container's user namespace, or in one that its root made.

        An ordinary user of the container has all capabilities in a namespace of his own: those do not count.
        """
        if not self.identity.has(capability):
            return False
        container = os.stat(f"/proc/{self.init_pid}/ns/user")
        with open(f"/proc/{self.init_pid}/uid_map", encoding="ascii") as table:
            root = map_outside(table.read(), 0)
        fd = self.open("ns/user")
        try:
            for _ in range(32):
                here = os.fstat(fd)
                if (here.st_dev, here.st_ino) == (container.st_dev, container.st_ino):
                    return True
                if _owner_of(fd) != root:
                    return False
                parent = kernel.check(kernel.libc.ioctl(fd, _NS_GET_PARENT, None))
                os.close(fd)
                fd = parent
        except OSError:
            return False
        finally:
            os.close(fd)
        return False


def _owner_of(namespace: int) -> int:
    buffer = ctypes.create_string_buffer(4)
    kernel.check(kernel.libc.ioctl(namespace, _NS_GET_OWNER_UID, buffer))
    return int.from_bytes(buffer.raw, "little")


def enter_mounts(namespace: int, root: int, directory: int) -> None:
    """Enter a mount namespace, with a root and a working directory in it."""
    kernel.setns(namespace, CLONE_NEWNS)
    os.fchdir(root)
    os.chroot(".")
    os.fchdir(directory)


def _answer_by_descriptor(caller: Caller, work: Callable[[], int], channel: socket.socket) -> NoReturn:
    """In the child: become the task, do the work and send what it made."""
    try:
        caller.become()
        socket.send_fds(channel, [b"0"], [work()])
    except OSError as error:
        channel.send(str(error.errno or 5).encode())
    except BaseException:
        channel.send(b"0")
    finally:
        os._exit(0)
