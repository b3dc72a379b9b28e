"""System calls that the answers to intercepted calls need and Python does not wrap; they raise OSError."""

import ctypes
import os
import struct
from collections.abc import Iterable

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000

CAP_DAC_OVERRIDE = 1
CAP_SYS_ADMIN = 21
CAP_SYS_NICE = 23
CAP_MKNOD = 27

NR_KCMP = {"x86_64": 312, "aarch64": 272, "riscv64": 272, "ppc64le": 354, "s390x": 343}
NR_BPF = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}
NR_OPEN_TREE = 428
NR_MOVE_MOUNT = 429
NR_FSOPEN = 430
NR_FSCONFIG = 431
NR_FSMOUNT = 432
NR_PIDFD_OPEN = 434
NR_PIDFD_GETFD = 438
NR_MOUNT_SETATTR = 442

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000

_CAPABILITY_VERSION_3 = 0x20080522
_PR_SET_KEEPCAPS = 8
_PR_SET_DUMPABLE = 4

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
libc.ioctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p]

Argument = int | bytes | ctypes.Array[ctypes.c_char] | None


def call(number: int, *args: Argument) -> int:
    """Make a system call by its number."""
    converted = [ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args]
    return check(libc.syscall(ctypes.c_long(number), *converted))


def check(result: int) -> int:
    """The result of a C function, or the OSError that it stands for."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def ioctl(fd: int, request: int, argument: bytes) -> int:
    """ioctl(2) with a structure that is only read."""
    return check(libc.ioctl(fd, request, ctypes.create_string_buffer(argument, len(argument))))


def setns(fd: int, flags: int) -> None:
    """Enter a namespace."""
    check(libc.setns(fd, flags))


def hide() -> None:
    """Keep the processes of a namespace that is entered from tracing this one."""
    check(libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0))


def keep_capabilities() -> None:
    """Keep the permitted capabilities over a change of the user."""
    check(libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0))


def set_capabilities(effective: int, permitted: int | None = None) -> None:
    """Use these capabilities (bits) and no others; `permitted` may keep more for later."""
    allowed = effective if permitted is None else permitted
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    low, high = 0xFFFFFFFF, 32
    words = (effective & low, allowed & low, 0, effective >> high, allowed >> high, 0)
    check(libc.capset(header, struct.pack("=6I", *words)))


def permitted_capabilities() -> int:
    """The capabilities that this process may use."""
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    data = ctypes.create_string_buffer(24)
    check(libc.capget(header, data))
    words = struct.unpack("=6I", data.raw)
    return int(words[1] | words[4] << 32)


def bits(capabilities: Iterable[int]) -> int:
    """The bits of capabilities."""
    return sum(1 << one for one in capabilities)


def mount(source: bytes | None, target: bytes, kind: bytes | None, flags: int, data: bytes | None) -> None:
    """mount(2)."""
    check(libc.mount(source, target, kind, ctypes.c_ulong(flags), data))
