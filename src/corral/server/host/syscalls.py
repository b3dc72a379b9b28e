"""System calls that Python does not wrap, as plain functions that raise OSError.

Call numbers are those of the table shared by all architectures since Linux 5.1.
"""

import ctypes
import errno
import os

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

NR_OPEN_TREE = 428
NR_MOVE_MOUNT = 429
NR_OPENAT2 = 437
NR_MOUNT_SETATTR = 442

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000


def call(number: int, *args: int | bytes | ctypes.Array[ctypes.c_char] | None, path: str = "") -> int:
    """Make a raw system call and return its result; `path` only names the thing in the OSError."""
    converted = [ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args]
    result: int = _libc.syscall(ctypes.c_long(number), *converted)
    if result < 0:
        raise_errno(path)
    return result


def raise_errno(path: str = "") -> None:
    """Raise the OSError of the last failed C call."""
    number = ctypes.get_errno() or errno.EINVAL
    raise OSError(number, os.strerror(number), path or None)


def setns(fd: int, flags: int) -> None:
    """Move the calling thread into the namespaces `flags` of a namespace descriptor or a pidfd."""
    if _libc.setns(fd, flags) != 0:
        raise_errno()


def mount(source: str | None, target: str, fstype: str | None, flags: int, options: str | None) -> None:
    """mount(2)."""
    result = _libc.mount(
        source.encode() if source is not None else None,
        os.fsencode(target),
        fstype.encode() if fstype is not None else None,
        ctypes.c_ulong(flags),
        options.encode() if options is not None else None,
    )
    if result != 0:
        raise_errno(target)


def umount2(target: str, flags: int) -> None:
    """umount2(2)."""
    if _libc.umount2(os.fsencode(target), flags) != 0:
        raise_errno(target)
