"""Values of /sys and /proc about the machine: CPUs, memory, block devices, interfaces."""

import os
from dataclasses import dataclass
from pathlib import Path

SYS = Path("/sys")
PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Cpu:
    """One logical CPU and where it sits."""

    number: int
    socket: int = 0
    core: int = 0
    numa_node: int = 0


def read_text(path: str | Path, default: str = "") -> str:
    """The stripped text of a small file, or the default where it cannot be read."""
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return default


def read_int(path: str | Path, default: int = 0) -> int:
    """The number in a small file, or the default."""
    text = read_text(path)
    return int(text) if text.lstrip("-").isdigit() else default


def parse_cpu_list(text: str) -> list[int]:
    """Parse the kernel's list notation such as 0-3,8."""
    numbers: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        numbers.update(range(int(first), int(last or first) + 1))
    return sorted(numbers)


def list_online_cpus() -> list[int]:
    """The numbers of the CPUs that are on."""
    text = read_text(SYS / "devices/system/cpu/online")
    return parse_cpu_list(text) if text else list(range(os.cpu_count() or 1))


def list_usable_cpus() -> list[int]:
    """The online CPUs that this process may use."""
    allowed = os.sched_getaffinity(0)
    return [number for number in list_online_cpus() if number in allowed]


def list_cpus() -> list[Cpu]:
    """The CPUs that are on, with their place."""
    nodes = _numa_nodes()
    cpus = []
    for number in list_online_cpus():
        topology = SYS / f"devices/system/cpu/cpu{number}/topology"
        socket, core = read_int(topology / "physical_package_id"), read_int(topology / "core_id")
        cpus.append(Cpu(number, max(0, socket), max(0, core), nodes.get(number, 0)))
    return cpus


def _numa_nodes() -> dict[int, int]:
    nodes: dict[int, int] = {}
    for directory in (SYS / "devices/system/node").glob("node[0-9]*"):
        for number in parse_cpu_list(read_text(directory / "cpulist")):
            nodes[number] = int(directory.name.removeprefix("node"))
    return nodes


def parse_meminfo(text: str) -> dict[str, int]:
    """The text of /proc/meminfo in bytes."""
    values: dict[str, int] = {}
    for line in text.splitlines():
        words = line.replace(":", " ").split()
        if len(words) >= 2 and words[1].isdigit():
            values[words[0]] = int(words[1]) * (1024 if len(words) > 2 else 1)
    return values


def read_meminfo() -> dict[str, int]:
    """/proc/meminfo in bytes."""
    return parse_meminfo(read_text(PROC / "meminfo"))


def get_total_memory() -> int:
    """Bytes of memory of the machine."""
    return read_meminfo().get("MemTotal", 0)


def has_swap() -> bool:
    """Whether the machine has swap space."""
    return read_meminfo().get("SwapTotal", 0) > 0


def interface_exists(name: str) -> bool:
    """Whether a network interface exists in this namespace."""
    return (SYS / "class/net" / name).exists()


def read_sysctl(name: str, default: str = "") -> str:
    """A kernel parameter by its dotted or slashed name."""
    return read_text(_sysctl_path(name), default)


def write_sysctl(name: str, value: str) -> None:
    """Set a kernel parameter."""
    _sysctl_path(name).write_text(value)


def _sysctl_path(name: str) -> Path:
    # A dotted name cannot hold an interface name with a dot; a slashed one can.
    return PROC / "sys" / (name if "/" in name else name.replace(".", "/"))
