"""Mounts in the mount namespace of a container that runs: put there and taken away by a thread that visits it.

Paths are resolved by the container's own root, so a link that its users planted leads nowhere else. What has to be
made for a mount belongs to the container's root user.
"""

import contextlib
import ctypes
import os
import stat
import struct
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from corral.server.host import syscalls
from corral.server.host.filesystems import mount

T = TypeVar("T")

_CLONE_FS = 0x200
_CAPABILITY_VERSION_3 = 0x20080522
_libc = ctypes.CDLL(None, use_errno=True)


def visit(pid: int, call: Callable[[], T]) -> T:
    """Call a function in the mount namespace of a process, from a thread of its own; returns its result.

    Raises ProcessLookupError where the process is gone.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def enter() -> None:
        try:
            namespace = os.pidfd_open(pid)
            try:
                # The root and the working directory are shared by all threads until one says otherwise.
                if _libc.unshare(_CLONE_FS) != 0:
                    syscalls.raise_errno()
                syscalls.setns(namespace, syscalls.CLONE_NEWNS)
            finally:
                os.close(namespace)
            results.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=enter, name="visitor", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _become(uid: int, gid: int) -> None:
    """Have the calling thread touch files with another user's rights, and none of its own."""
    _libc.setfsgid(gid)
    _libc.setfsuid(uid)


def _act_as(uid: int, gid: int) -> None:
    """Make files for another user with the calling thread, which keeps its capabilities."""
    _become(uid, gid)
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    data = ctypes.create_string_buffer(24)
    if _libc.capget(header, data) != 0:
        syscalls.raise_errno()
    fields = list(struct.unpack("=6I", data.raw))
    # The change of the user took the effective file capabilities; they are still permitted.
    fields[0], fields[3] = fields[1], fields[4]
    if _libc.capset(header, struct.pack("=6I", *fields)) != 0:
        syscalls.raise_errno()


def _make_target(target: str, is_directory: bool) -> None:
    if os.path.exists(target):
        return
    os.makedirs(os.path.dirname(target) or "/", mode=0o755, exist_ok=True)
    if is_directory:
        os.mkdir(target, 0o755)
    else:
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))


def attach(pid: int, tree: int, target: str, owner: tuple[int, int], propagation: Sequence[int] = ()) -> None:
    """Mount a detached tree (mount.open_tree) in the namespace of a process; makes the target where it is missing.

    `owner` are the host's ids of the container's root user. `propagation` are flags as MS_SHARED | MS_REC.
    """
    is_directory = stat.S_ISDIR(os.fstat(tree).st_mode)

    def call() -> None:
        _act_as(*owner)
        _make_target(target, is_directory)
        mount.attach_tree(tree, target)
        for flags in propagation:
            syscalls.mount(None, target, None, flags, None)

    visit(pid, call)


def detach(pid: int, target: str, owner: tuple[int, int]) -> None:
    """Unmount what lies on a path in the namespace of a process, and remove the target where it is empty.

    Only as far as the container's root user may, `owner`: the target may lie in a directory of the host's.
    """

    def call() -> None:
        with contextlib.suppress(OSError):
            mount.unmount(target, lazy=True)
        _become(*owner)
        with contextlib.suppress(OSError):
            found = os.lstat(target)
            if stat.S_ISDIR(found.st_mode):
                os.rmdir(target)
            elif stat.S_ISREG(found.st_mode) and found.st_size == 0:
                os.unlink(target)

    visit(pid, call)
