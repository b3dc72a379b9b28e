"""A process's way into a container: namespaces, control groups, cores, a keyring of its own. Standard library only.

Nothing may be imported after the container's root was entered: an import would look for modules inside.
"""

import contextlib
import ctypes
import errno
import os
import signal
import struct

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEW_OTHERS = 0x02000000 | 0x04000000 | 0x08000000 | 0x20000000 | 0x40000000
_CLONE_PARENT = 0x00008000
_CLONE_INTO_CGROUP = 0x200000000
_NR_CLONE3 = 435
_NR_CLONE = {"x86_64": 56, "aarch64": 220, "riscv64": 220, "ppc64le": 120}
_NR_KEYCTL = {
    "x86_64": 250,
    "aarch64": 219,
    "riscv64": 219,
    "ppc64le": 271,
    "s390x": 280,
    "i686": 288,
    "armv7l": 311,
}
_KEYCTL_JOIN_SESSION_KEYRING = 1
_PR_SCHED_CORE = 62
_PR_SCHED_CORE_SHARE_FROM = 3
_LEAF = ".lxc"

libc = ctypes.CDLL(None, use_errno=True)


class EnterFailed(Exception):
    """A step on the way into the container failed."""

    def __init__(self, step: str, number: int) -> None:
        super().__init__(f"{step}: {os.strerror(number)}")
        self.number = number


def setns(fd: int, flags: int) -> None:
    """Enter namespaces. Raises EnterFailed."""
    if libc.setns(fd, flags) != 0:
        raise EnterFailed("Entering the namespaces", ctypes.get_errno())


def clone_sibling() -> int:
    """Fork a child whose parent is the zygote; returns 0 in the child."""
    args = bytearray(64)
    struct.pack_into("=Q", args, 0, _CLONE_PARENT)
    buffer = (ctypes.c_char * len(args)).from_buffer(args)
    pid = libc.syscall(ctypes.c_long(_NR_CLONE3), buffer, ctypes.c_size_t(len(args)))
    if pid < 0 and ctypes.get_errno() == errno.ENOSYS:
        flags = ctypes.c_long(_CLONE_PARENT | signal.SIGCHLD)
        zero = ctypes.c_long(0)
        pid = libc.syscall(ctypes.c_long(_NR_CLONE.get(os.uname().machine, 120)), flags, zero, zero, zero, zero)
    if pid < 0:
        raise EnterFailed("Forking in the container", ctypes.get_errno())
    return int(pid)


def fork_into(directory: str) -> int | None:
    """Fork a child that is in a version 2 group from its beginning; returns 0 in the child, None where that cannot be.

    To move a process there later means to wait for the lock of whole processes: milliseconds, more on a busy machine.
    """
    try:
        group = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    # struct clone_args: flags first, the exit signal fifth, the group eleventh.
    args = bytearray(struct.pack("=11Q", _CLONE_INTO_CGROUP, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, group))
    buffer = (ctypes.c_char * len(args)).from_buffer(args)
    pid = int(libc.syscall(ctypes.c_long(_NR_CLONE3), buffer, ctypes.c_size_t(len(args))))
    os.close(group)
    return pid if pid >= 0 else None


def find_unified(directories: list[str]) -> str | None:
    """The version 2 group among a container's groups."""
    for directory in directories:
        if not os.path.exists(f"{directory}/tasks") and os.path.exists(f"{directory}/cgroup.procs"):
            return directory
    return None


def join_cgroups(directories: list[str], owner: tuple[int, int]) -> None:
    """Move this process into control groups; `owner` is the host's ids of the container's root."""
    for directory in directories:
        try:
            write_procs(directory)
        except OSError as error:
            if error.errno == errno.ENOENT:
                continue
            if error.errno not in (errno.EBUSY, errno.EOPNOTSUPP):
                raise EnterFailed(f"Joining {directory}", error.errno or errno.EIO) from error
            join_leaf(directory, owner)


def join_leaf(directory: str, owner: tuple[int, int]) -> None:
    """Join a leaf below a version 2 group that hands controllers on and so takes no process itself."""
    leaf = f"{directory}/{_LEAF}"
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(leaf, 0o755)
            for path in (leaf, f"{leaf}/cgroup.procs", f"{leaf}/cgroup.threads", f"{leaf}/cgroup.subtree_control"):
                os.chown(path, *owner)
        write_procs(leaf)
    except OSError as error:
        raise EnterFailed(f"Joining {leaf}", error.errno or errno.EIO) from error


def write_procs(directory: str) -> None:
    """Write this process, which has one thread, to a group.

    Version 1 takes a single thread through `tasks` without the lock of whole processes, whose waits can be long.
    """
    try:
        fd = os.open(f"{directory}/tasks", os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        fd = os.open(f"{directory}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, b"0")
    finally:
        os.close(fd)


def share_cores(pid: int) -> None:
    """Run only on cores that no process but those of another's container is on (core scheduling)."""
    if libc.prctl(_PR_SCHED_CORE, _PR_SCHED_CORE_SHARE_FROM, pid, 0, 0) != 0:
        raise EnterFailed("Sharing the cores of the container", ctypes.get_errno())


def leave_keyring() -> None:
    """Have an empty session keyring: that of the daemon may hold secrets, and another command's is no business of this.

    Outside, as the host's root: inside, its user could have used up what keys he may have.
    """
    number = _NR_KEYCTL.get(os.uname().machine)
    if number is None:
        return
    zero = ctypes.c_long(0)
    joined = libc.syscall(ctypes.c_long(number), ctypes.c_long(_KEYCTL_JOIN_SESSION_KEYRING), zero, zero, zero, zero)
    if joined < 0 and ctypes.get_errno() != errno.ENOSYS:
        raise EnterFailed("Leaving the session's keyring", ctypes.get_errno())
