"""The default seccomp policy as a program for the kernel (BPF), for commands that liblxc does not set up; pure.

It is what liblxc makes of the default policy's text (seccomp.py): some system calls do not exist, umount2(2) has no
force. Linux: Documentation/userspace-api/seccomp_filter.rst.
"""

import errno
import struct
from dataclasses import dataclass

_LOAD, _AND, _EQUAL, _HAS_BITS, _RETURN = 0x20, 0x54, 0x15, 0x45, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NUMBER, _ARCHITECTURE, _SECOND_ARGUMENT = 0, 4, 24
"""Places in struct seccomp_data; of an argument its lower half, on machines with the lower byte first."""
_MNT_FORCE = 1
_X32 = 0x40000000
_EVERYTHING = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class _Abi:
    """One way to make system calls: AUDIT_ARCH_*, the numbers of those that are denied, and of umount2."""

    arch: int
    denied: tuple[int, ...]
    umount: int
    mask: int = _EVERYTHING


# kexec_load, open_by_handle_at, init_module, finit_module, delete_module; then umount2. kexec_load of x32 is the last.
_X86_64 = _Abi(0xC000003E, (246, 304, 175, 313, 176, 528), 166, _EVERYTHING & ~_X32)
_I386 = _Abi(0x40000003, (283, 342, 128, 350, 129), 52)
_AARCH64 = _Abi(0xC00000B7, (104, 265, 105, 273, 106), 39)
_ARM = _Abi(0x40000028, (347, 371, 128, 379, 129), 52)
_ABIS = {"x86_64": (_X86_64, _I386), "aarch64": (_AARCH64, _ARM)}


def compile_default(machine: str) -> bytes | None:
    """The instructions (struct sock_filter) for a machine as uname(2) names it; None for one that is not known here."""
    abis = _ABIS.get(machine)
    if abis is None:
        return None
    program: list[tuple[int, int, int, int]] = []
    for abi in abis:
        block = _block(abi)
        program += [(_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 0, len(block), abi.arch), *block]
    # Nothing else can make system calls on such a machine.
    program.append(_refuse(errno.ENOSYS))
    return b"".join(struct.pack("=HBBI", *one) for one in program)


def _block(abi: _Abi) -> list[tuple[int, int, int, int]]:
    """What decides about a call of one ABI."""
    end = [
        (_RETURN, 0, 0, _ALLOW),
        _refuse(errno.ENOSYS),
        (_LOAD, 0, 0, _SECOND_ARGUMENT),
        (_HAS_BITS, 0, 1, _MNT_FORCE),
        _refuse(errno.EACCES),
        (_RETURN, 0, 0, _ALLOW),
    ]
    tests = []
    for index, number in enumerate(abi.denied):
        # Over the other tests, that of umount2, and the end for what is allowed.
        tests.append((_EQUAL, len(abi.denied) - index + 1, 0, number))
    tests.append((_EQUAL, 2, 0, abi.umount))
    return [(_LOAD, 0, 0, _NUMBER), (_AND, 0, 0, abi.mask), *tests, *end]


def _refuse(number: int) -> tuple[int, int, int, int]:
    return _RETURN, 0, 0, _ERRNO | number
