"""The default seccomp policy as a program: interpreted here as the kernel would."""

import re
import struct
from pathlib import Path

import pytest

from corral.server.host.isolation import seccomp
from corral.server.host.isolation.seccomp_filter import compile_default

ALLOW, ENOSYS, EACCES = 0x7FFF0000, 0x00050000 | 38, 0x00050000 | 13
X86_64, I386, AARCH64, ARM = 0xC000003E, 0x40000003, 0xC00000B7, 0x40000028
X32 = 0x40000000
HEADERS = {X86_64: "unistd_64.h", I386: "unistd_32.h"}


def judge(machine: str, arch: int, number: int, second_argument: int = 0) -> int:
    """What the kernel does with a call."""
    program = compile_default(machine)
    assert program is not None
    instructions = list(struct.iter_unpack("=HBBI", program))
    data = struct.pack(
        "=iIQ6Q", number if number < 1 << 31 else number - (1 << 32), arch, 0, 0, second_argument, *[0] * 4
    )
    place = value = 0
    for _ in range(1000):
        code, if_true, if_false, constant = instructions[place]
        place += 1
        if code == 0x20:
            (value,) = struct.unpack_from("=I", data, constant)
        elif code == 0x54:
            value &= constant
        elif code == 0x15:
            place += if_true if value == constant else if_false
        elif code == 0x45:
            place += if_true if value & constant else if_false
        else:
            assert code == 0x06
            return int(constant)
    raise AssertionError("the program does not end")


@pytest.mark.parametrize(
    ("machine", "arch", "denied", "umount"),
    [
        ("x86_64", X86_64, (246, 304, 175, 313, 176), 166),
        ("x86_64", I386, (283, 342, 128, 350, 129), 52),
        ("aarch64", AARCH64, (104, 265, 105, 273, 106), 39),
        ("aarch64", ARM, (347, 371, 128, 379, 129), 52),
    ],
)
def test_what_is_denied(machine: str, arch: int, denied: tuple[int, ...], umount: int) -> None:
    refused = {number for number in range(600) if judge(machine, arch, number) == ENOSYS}
    assert refused - {528} == set(denied)
    assert [judge(machine, arch, umount, flags) for flags in (0, 2, 1, 3)] == [ALLOW, ALLOW, EACCES, EACCES]
    assert judge(machine, arch, 1) == ALLOW
    header = Path("/usr/include/x86_64-linux-gnu/asm", HEADERS.get(arch, "none"))
    if header.exists():
        numbers = {name: int(value) for name, value in re.findall(r"#define __NR_(\w+) (\d+)", header.read_text())}
        assert {numbers[name] for name in seccomp.DEFAULT_DENIED} == set(denied)
        assert numbers["umount2"] == umount


def test_the_other_abi_of_64_bit_is_no_way_around() -> None:
    for number in (246, 304, 175, 313, 176, 528):
        assert judge("x86_64", X86_64, X32 | number) == ENOSYS
    assert judge("x86_64", X86_64, X32 | 166, 1) == EACCES
    assert judge("x86_64", X86_64, X32 | 1) == ALLOW


def test_calls_of_machines_that_there_are_not() -> None:
    assert judge("x86_64", AARCH64, 1) == ENOSYS
    assert compile_default("s390x") is None
