"""Answers mknod(2), mknodat(2) and setxattr(2): harmless device nodes, and overlayfs's mark of an opaque directory.

Where the file goes is found out by a child that has the task's own rights; only the last step is made with the host's.
"""

import errno
import os
import stat

from corral.helper.intercepted import kernel
from corral.helper.intercepted.caller import Caller, NotOurs
from corral.helper.intercepted.kernel import AT_FDCWD, CAP_DAC_OVERRIDE, CAP_MKNOD, CAP_SYS_ADMIN

DEVICES = {
    (0, 0): "",
    (1, 3): "null",
    (1, 5): "zero",
    (1, 7): "full",
    (1, 8): "random",
    (1, 9): "urandom",
    (5, 0): "tty",
    (5, 1): "console",
}
"""The character devices that may be made, and the host's file of each; 0:0 is overlayfs's sign for a deleted file."""

OPAQUE = b"trusted.overlay.opaque"

_ST_NODEV = 4
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_BY_DESCRIPTORS = 0x44


def decode_device(number: int) -> tuple[int, int]:
    """Major and minor of a device number as system calls carry it (32 bits)."""
    number &= 0xFFFFFFFF
    return number >> 8 & 0xFFF, number & 0xFF | number >> 12 & 0xFFF00


def is_allowed(mode: int, device: int) -> bool:
    """Whether a node may be made."""
    return stat.S_IFMT(mode) == stat.S_IFCHR and decode_device(device) in DEVICES


def mknod(caller: Caller, directory: int, path_address: int, mode: int, device: int) -> int:
    """Make a node for the task; `directory` is where a relative path begins, as in mknodat(2)."""
    if not is_allowed(mode, device):
        raise NotOurs
    path = caller.read_string(path_address)
    start = -1
    if directory != AT_FDCWD and not path.startswith(b"/"):
        start = caller.open(f"fd/{directory}", os.O_PATH | os.O_DIRECTORY)
    caller.ensure_waiting()
    parent, _, name = path.rpartition(b"/")
    if name in (b"", b".", b".."):
        raise NotOurs
    if not caller.identity.has(CAP_MKNOD):
        raise PermissionError(errno.EPERM, "The task may not make nodes")
    place = caller.as_itself(lambda: _open_writable(start, parent or (b"/" if path.startswith(b"/") else b".")))
    _make_node(caller, place, name, mode, device)
    return 0


def _open_writable(start: int, path: bytes) -> int:
    """A directory in which this process may make files."""
    if start >= 0:
        os.fchdir(start)
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    os.fchdir(fd)
    if not os.access(".", os.W_OK | os.X_OK, effective_ids=True):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return fd


def _make_node(caller: Caller, place: int, name: bytes, mode: int, device: int) -> None:
    if os.fstatvfs(place).f_flag & _ST_NODEV:
        raise PermissionError(errno.EPERM, "Nodes do not work there")
    who = caller.identity
    everything = kernel.permitted_capabilities()
    caller.ensure_waiting()
    os.umask(who.umask)
    os.setgroups([])
    kernel.libc.setfsgid(who.file_gid)
    kernel.libc.setfsuid(who.file_uid)
    # That took the capabilities over files; the directory was found to be the task's to write.
    kernel.set_capabilities(kernel.bits((CAP_MKNOD, CAP_DAC_OVERRIDE)), everything)
    try:
        os.mknod(name, mode & 0o7777 | stat.S_IFCHR, os.makedev(*decode_device(device)), dir_fd=place)
    except PermissionError:
        host_file = DEVICES[decode_device(device)]
        if not host_file:
            raise
        _show_host_node(caller, place, name, mode, (host_file, everything))


def _show_host_node(caller: Caller, place: int, name: bytes, mode: int, source: tuple[str, int]) -> None:
    """Where a file system takes no nodes (an overlay of the container's own), mount the host's node on a plain file."""
    host_file, everything = source
    kernel.set_capabilities(everything)
    tree = kernel.call(kernel.NR_OPEN_TREE, AT_FDCWD, f"/dev/{host_file}".encode(), _OPEN_TREE_CLONE | os.O_CLOEXEC)
    namespace = caller.open("ns/mnt")
    caller.ensure_waiting()
    kernel.setns(namespace, kernel.CLONE_NEWNS)
    kernel.set_capabilities(kernel.bits((CAP_MKNOD, CAP_DAC_OVERRIDE)), everything)
    os.mknod(name, mode & 0o777 | stat.S_IFREG, dir_fd=place)
    try:
        target = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place)
        kernel.set_capabilities(everything)
        kernel.call(kernel.NR_MOVE_MOUNT, tree, b"", target, b"", _MOVE_MOUNT_BY_DESCRIPTORS)
    except BaseException:
        os.unlink(name, dir_fd=place)
        raise


def setxattr(caller: Caller, path_address: int, name_address: int, value_address: int, flags: int) -> int:
    """Mark a directory of the task as opaque to overlayfs; every other attribute is the kernel's business."""
    path, name = caller.read_string(path_address), caller.read_string(name_address)
    value = caller.read(value_address, 1)
    caller.ensure_waiting()
    if name != OPAQUE or value != b"y":
        raise NotOurs
    try:
        place = caller.as_itself(lambda: _open_writable(-1, path))
    except NotADirectoryError:
        raise NotOurs from None
    if not caller.identity.has(CAP_SYS_ADMIN):
        raise PermissionError(errno.EPERM, "The task may not set such attributes")
    caller.ensure_waiting()
    os.setxattr(f"/proc/self/fd/{place}", OPAQUE, b"y", flags)
    return 0
