"""Names and numbers of processor architectures, and which of them this machine runs.

The numbers are LXD's (stored in the database); the names are the kernel's (`uname -m`) with the aliases that images and
people use.
"""

import os
from functools import cache

from corral.errors import InvalidRequest

NAMES = {
    1: "i686",
    2: "x86_64",
    3: "armv7l",
    4: "aarch64",
    5: "ppc",
    6: "ppc64",
    7: "ppc64le",
    8: "s390x",
    9: "mips",
    10: "mips64",
    11: "riscv32",
    12: "riscv64",
    13: "armv6l",
    14: "armv8l",
    15: "loongarch64",
}
UNKNOWN = "unknown"

_ALIASES = {
    "i386": 1,
    "i586": 1,
    "386": 1,
    "x86": 1,
    "generic_32": 1,
    "amd64": 2,
    "generic_64": 2,
    "armel": 13,
    "armhf": 3,
    "armhfp": 3,
    "armv7a_hardfp": 3,
    "armv7": 3,
    "armv7a_vfpv3_hardfp": 3,
    "arm64": 4,
    "arm64_generic": 4,
    "powerpc": 5,
    "powerpc64": 6,
    "ppc64el": 7,
    "mipsel": 9,
    "mips64el": 10,
    "riscv": 12,
    "arm": 13,
}
_PERSONALITIES = {1: (), 2: (1,), 4: (3, 14, 13), 6: (5,), 7: (), 10: (9,), 12: (11,)}
"""What else a kernel of the architecture runs, best first."""

_LXC_NAMES = {1: "linux32", 3: "linux32", 5: "linux32", 9: "linux32", 11: "linux32", 13: "linux32", 14: "linux32"}


def parse_architecture(name: str) -> int:
    """The number of an architecture; InvalidRequest for a name that is none."""
    for number, known in NAMES.items():
        if known == name:
            return number
    if name in _ALIASES:
        return _ALIASES[name]
    raise InvalidRequest(f"Architecture isn't supported: {name}")


def canonical_name(name: str) -> str:
    """The kernel's name of an architecture, from any name that images and people use (`amd64` is `x86_64`)."""
    return NAMES[parse_architecture(name)]


def host_architecture() -> str:
    """The kernel's name of this machine's architecture."""
    return canonical_name(os.uname().machine)


def format_architecture(number: int) -> str:
    """The name of an architecture."""
    return NAMES.get(number, UNKNOWN)


@cache
def local_architectures() -> tuple[int, ...]:
    """What this machine runs, its own architecture first."""
    own = parse_architecture(os.uname().machine)
    return (own, *_PERSONALITIES.get(own, ()))


def personality(number: int) -> str:
    """The value of lxc.arch."""
    return _LXC_NAMES.get(number, "linux64")
