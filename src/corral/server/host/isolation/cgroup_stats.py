"""What a control group counts, in the same words for both versions: memory by kind, CPU time by CPU, block I/O."""

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass

from corral.server.host.isolation.cgroup import Cgroup, parse_keyed

_MEMORY_V1 = {
    "active_anon": "active_anon",
    "active_file": "active_file",
    "inactive_anon": "inactive_anon",
    "inactive_file": "inactive_file",
    "unevictable": "unevictable",
    "writeback": "writeback",
    "dirty": "dirty",
    "mapped_file": "mapped",
    "rss": "rss",
    "shmem": "shmem",
    "cache": "cache",
}
_MEMORY_V2 = {
    "active_anon": "active_anon",
    "active_file": "active_file",
    "inactive_anon": "inactive_anon",
    "inactive_file": "inactive_file",
    "unevictable": "unevictable",
    "file_writeback": "writeback",
    "file_dirty": "dirty",
    "file_mapped": "mapped",
    "anon": "rss",
    "shmem": "shmem",
    "file": "cache",
}


@dataclass(slots=True)
class BlockUse:
    """What was read from and written to one block device."""

    read_bytes: int = 0
    reads: int = 0
    written_bytes: int = 0
    writes: int = 0


def memory_by_kind(group: Cgroup) -> dict[str, int]:
    """Bytes by kind: active, active_anon, cache, dirty, mapped, rss, shmem, unevictable, writeback and so on."""
    stat = group.memory_stat()
    if "memory" in group.v1:
        # The group and all below it.
        kinds = {word: stat.get(f"total_{name}", stat.get(name)) for name, word in _MEMORY_V1.items()}
    else:
        kinds = {word: stat.get(name) for name, word in _MEMORY_V2.items()}
    found = {word: value for word, value in kinds.items() if value is not None}
    for kind in ("active", "inactive"):
        if f"{kind}_anon" in found and f"{kind}_file" in found:
            found[kind] = found[f"{kind}_anon"] + found[f"{kind}_file"]
    return found


def count_oom_kills(group: Cgroup) -> int | None:
    """How many processes were killed for want of memory; None where the kernel does not count them."""
    file = "memory.oom_control" if "memory" in group.v1 else "memory.events"
    with contextlib.suppress(OSError):
        return parse_keyed(group.read("memory", file)).get("oom_kill")
    return None


def cpu_seconds(group: Cgroup) -> dict[str, tuple[float, float]]:
    """User and system seconds by the number of the CPU; under "" where only their sum is counted."""
    if "cpuacct" in group.v1:
        with contextlib.suppress(OSError, ValueError):
            return parse_usage_all(group.read("cpuacct", "cpuacct.usage_all"))
    times = group.cpu_times()
    return {"": (times.user_ns / 1e9, times.system_ns / 1e9)}


def parse_usage_all(text: str) -> dict[str, tuple[float, float]]:
    """The lines `cpu user system` of cpuacct.usage_all, in nanoseconds below a header."""
    found = {}
    for line in text.splitlines()[1:]:
        cpu, user, system = line.split()
        found[cpu] = (int(user) / 1e9, int(system) / 1e9)
    return found


def block_use(group: Cgroup) -> dict[str, BlockUse]:
    """Block I/O by the name of the device."""
    if "blkio" not in group.v1:
        return _named(parse_io_stat(group.read("io", "io.stat")))
    use: dict[str, BlockUse] = {}
    for file, read, write in (
        ("blkio.throttle.io_service_bytes_recursive", "read_bytes", "written_bytes"),
        ("blkio.throttle.io_serviced_recursive", "reads", "writes"),
    ):
        with contextlib.suppress(OSError):
            parse_blkio(group.read("blkio", file), use, {"Read": read, "Write": write})
    return _named(use)


def parse_io_stat(text: str) -> dict[str, BlockUse]:
    """The lines `8:0 rbytes=1 wbytes=2 rios=3 wios=4` of io.stat, by device number."""
    use = {}
    for line in text.splitlines():
        device, *fields = line.split()
        values = dict(field.split("=", 1) for field in fields if "=" in field)
        numbers = [int(values.get(name, "0")) for name in ("rbytes", "rios", "wbytes", "wios")]
        use[device] = BlockUse(*numbers)
    return use


def parse_blkio(text: str, use: dict[str, BlockUse], fields: Mapping[str, str]) -> None:
    """Add the lines `8:0 Read 4096` of a version 1 file; `fields` names the field of each word."""
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3 and words[1] in fields:
            setattr(use.setdefault(words[0], BlockUse()), fields[words[1]], int(words[2]))


def huge_pages(group: Cgroup) -> tuple[int, int] | None:
    """Total and free bytes of huge pages, all sizes together; None where no limit is set on any."""
    total = used = 0
    version_1 = "hugetlb" in group.v1
    with contextlib.suppress(OSError):
        directory = group.directory("hugetlb")
        for name in os.listdir(directory):
            size = name.split(".")[1] if name.startswith("hugetlb.") else ""
            if name not in (f"hugetlb.{size}.limit_in_bytes", f"hugetlb.{size}.max"):
                continue
            limit = group.read("hugetlb", name)
            if limit.isdigit() and int(limit) < 1 << 60:
                total += int(limit)
                used += int(group.read("hugetlb", f"hugetlb.{size}.{'usage_in_bytes' if version_1 else 'current'}"))
    return (total, max(0, total - used)) if total else None


def _named(use: dict[str, BlockUse]) -> dict[str, BlockUse]:
    found = {}
    for number, one in use.items():
        try:
            found[os.path.basename(os.readlink(f"/sys/dev/block/{number}"))] = one
        except OSError:
            # The device is gone; its number alone says nothing to anyone.
            continue
    return found
