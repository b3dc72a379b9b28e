"""Project quotas of ext4 and xfs: limits for a directory tree (quotactl(2), linux/fs.h, linux/dqblk_xfs.h)."""

import ctypes
import fcntl
import os
import stat
import struct
from pathlib import Path

from corral.server.host import syscalls
from corral.server.host.filesystems import mount

_FSGETXATTR = 0x801C581F
_FSSETXATTR = 0x401C5820
_PROJINHERIT = 0x200

_PRJQUOTA = 2
_Q_GETINFO, _Q_GETQUOTA, _Q_SETQUOTA = 0x800005, 0x800007, 0x800008
_Q_XSETQLIM = ord("X") << 8 | 4
_BLOCK_LIMITS = 1
_QUOTA_BLOCK = 1024

_libc = ctypes.CDLL(None, use_errno=True)


def _quotactl(command: int, device: str, project: int, data: "ctypes.Array[ctypes.c_char]") -> None:
    number = ctypes.c_int(command << 8 | _PRJQUOTA)
    if _libc.quotactl(number, os.fsencode(device), ctypes.c_int(project), data) != 0:
        syscalls.raise_errno(device)


def find_device(path: str | Path) -> str | None:
    """The block device below a path whose file system keeps project quotas, or None."""
    entry = mount.find_mount(path)
    if entry is None or not entry.source.startswith("/dev/"):
        return None
    try:
        _quotactl(_Q_GETINFO, entry.source, 0, ctypes.create_string_buffer(24))
    except OSError:
        return None
    return entry.source


def get_project(path: str | Path) -> int:
    """The project id of a file or directory; 0 is none."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        attributes = bytearray(28)
        fcntl.ioctl(fd, _FSGETXATTR, attributes)
        return int(struct.unpack_from("=I", attributes, 12)[0])
    finally:
        os.close(fd)


def set_project(path: str | Path, project: int) -> None:
    """Give a tree a project id which everything made in it inherits. Special files have none."""
    _set_one(os.fspath(path), None, project, inherit=True)
    for _, directories, files, fd in os.fwalk(path, follow_symlinks=False):
        for name in directories:
            _set_one(name, fd, project, inherit=True)
        for name in files:
            _set_one(name, fd, project, inherit=False)


def _set_one(name: str, parent: int | None, project: int, *, inherit: bool) -> None:
    # Only files and directories are opened: opening a guest's FIFO would block, a device node could do anything.
    try:
        handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except FileNotFoundError:
        return
    try:
        kind = stat.S_IFMT(os.fstat(handle).st_mode)
        if kind not in (stat.S_IFREG, stat.S_IFDIR):
            return
        fd = os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(handle)
    try:
        attributes = bytearray(28)
        fcntl.ioctl(fd, _FSGETXATTR, attributes)
        flags = struct.unpack_from("=I", attributes)[0]
        struct.pack_into("=I", attributes, 0, flags | _PROJINHERIT if inherit else flags)
        struct.pack_into("=I", attributes, 12, project)
        fcntl.ioctl(fd, _FSSETXATTR, attributes)
    finally:
        os.close(fd)


def set_limit(device: str, project: int, size: int | None) -> None:
    """Limit the bytes of a project; None removes the limit."""
    blocks = (size or 0) // _QUOTA_BLOCK
    quota = ctypes.create_string_buffer(struct.pack("=8QI4x", blocks, 0, 0, 0, 0, 0, 0, 0, _BLOCK_LIMITS), 72)
    try:
        _quotactl(_Q_SETQUOTA, device, project, quota)
    except OSError:
        xfs = bytearray(112)
        # d_version, d_flags, d_fieldmask, d_id, d_blk_hardlimit (in basic blocks of 512 bytes)
        struct.pack_into("=bbHIQ", xfs, 0, 1, 2, 8, project, blocks * 2)
        _quotactl(_Q_XSETQLIM, device, project, ctypes.create_string_buffer(bytes(xfs), len(xfs)))


def get_usage(device: str, project: int) -> int:
    """Bytes that a project uses."""
    quota = ctypes.create_string_buffer(72)
    _quotactl(_Q_GETQUOTA, device, project, quota)
    return int(struct.unpack_from("=3Q", quota.raw)[2])
