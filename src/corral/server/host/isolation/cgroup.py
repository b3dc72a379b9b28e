"""Control groups, version 1, hybrid and version 2: where they are, what they measure, how limits are written.

`Setting` is one value for one file; the `*_settings` functions are pure, so the same settings go into a container's
configuration before its start and into the files of a running one. `Cgroup` is the directory set of one container.
"""

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from corral.server.host.filesystems.mount import MountEntry, list_mounts

KNOWN_CONTROLLERS = (
    "cpu",
    "cpuacct",
    "cpuset",
    "memory",
    "blkio",
    "io",
    "pids",
    "devices",
    "freezer",
    "hugetlb",
    "net_prio",
    "rdma",
)
_WHOLE_CPU = {False: 1024, True: 100}
"""The default weight of CPU time in versions 1 and 2."""
CFS_PERIOD_DEFAULT_US = 100_000
_FREEZE_DEADLINE_S = 10.0


class Layout(Enum):
    """How the host mounts control groups."""

    LEGACY = "cgroup1"
    HYBRID = "hybrid"
    UNIFIED = "cgroup2"


@dataclass(frozen=True, slots=True)
class Hierarchies:
    """The mounts: a directory for each version 1 controller, and the unified tree with its controllers."""

    v1: Mapping[str, Path]
    unified: Path | None
    unified_controllers: frozenset[str] = frozenset()

    @property
    def layout(self) -> Layout:
        """The kind of layout."""
        if self.unified is None:
            return Layout.LEGACY
        return Layout.HYBRID if self.v1 else Layout.UNIFIED

    def has(self, controller: str) -> bool:
        """Whether a controller can be used in either version."""
        return controller in self.v1 or controller in self.unified_controllers

    def is_v2(self, controller: str) -> bool:
        """Whether a controller is on the unified tree."""
        return controller not in self.v1 and controller in self.unified_controllers


@dataclass(frozen=True, slots=True)
class Setting:
    """A value for one file of a controller."""

    controller: str
    file: str
    value: str
    is_v2: bool

    @property
    def lxc_line(self) -> str:
        """The line of a liblxc configuration that sets it before the start."""
        return f"lxc.cgroup{'2' if self.is_v2 else ''}.{self.file} = {self.value}"


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """CPU time used, in nanoseconds."""

    total_ns: int
    user_ns: int = 0
    system_ns: int = 0


@dataclass(frozen=True, slots=True)
class MemoryUsage:
    """Bytes; a peak is 0 and a limit None where the kernel does not tell."""

    used: int = 0
    peak: int = 0
    limit: int | None = None
    swap_used: int = 0
    swap_peak: int = 0


def parse_hierarchies(mounts: Iterable[MountEntry], controllers_of: Callable[[str], str]) -> Hierarchies:
    """Find the control group mounts in a mount table; `controllers_of(path)` reads the unified tree's controllers."""
    v1: dict[str, Path] = {}
    unified: Path | None = None
    for entry in mounts:
        if entry.fstype == "cgroup2" and unified is None:
            unified = Path(entry.target)
        elif entry.fstype == "cgroup":
            for option in entry.super_options.split(","):
                name = "systemd" if option == "name=systemd" else option
                if name in KNOWN_CONTROLLERS or name == "systemd":
                    v1.setdefault(name, Path(entry.target))
    usable = frozenset(controllers_of(str(unified)).split()) if unified is not None else frozenset()
    if unified is not None and not v1:
        usable |= {"freezer", "devices"}
    return Hierarchies(v1, unified, usable)


def detect_hierarchies() -> Hierarchies:
    """The control group mounts of this host."""

    def controllers_of(path: str) -> str:
        try:
            return Path(path, "cgroup.controllers").read_text()
        except OSError:
            return ""

    return parse_hierarchies(list_mounts(), controllers_of)


def supports_swap_limit(hierarchies: Hierarchies) -> bool:
    """Whether swap is accounted."""
    if "memory" in hierarchies.v1:
        return (hierarchies.v1["memory"] / "memory.memsw.limit_in_bytes").exists()
    return hierarchies.is_v2("memory") and Path("/proc/swaps").exists()


def supports_io_weight(hierarchies: Hierarchies) -> bool:
    """Whether groups can be weighed against each other in input and output."""
    if "blkio" in hierarchies.v1:
        return (hierarchies.v1["blkio"] / "blkio.weight").exists()
    return hierarchies.is_v2("io")


def memory_settings(
    hierarchies: Hierarchies, limit: int | None, *, soft: bool = False, swap: bool = True, has_swap: bool = True
) -> list[Setting]:
    """Settings for a limit in bytes (None: no limit), in the order in which they must be written.

    A hard limit also allows no swap beyond it where `swap` (swap use allowed within the limit, as in LXD, whose
    `limits.memory.swap` only changes swappiness) and the kernel accounts swap (`has_swap`).
    """
    if not hierarchies.has("memory"):
        return []
    if hierarchies.is_v2("memory"):
        high = str(limit) if limit is not None and soft else "max"
        maximum = str(limit) if limit is not None and not soft else "max"
        settings = [("memory.high", high), ("memory.max", maximum)]
        if has_swap:
            settings.append(("memory.swap.max", "0" if limit is not None and not soft and swap else "max"))
        return [Setting("memory", file, value, True) for file, value in settings]
    hard = limit if limit is not None and not soft else None
    soft_limit = -1 if limit is None else limit if soft else int(limit * 0.9)
    settings = [("memory.memsw.limit_in_bytes", "-1")] if has_swap else []
    settings.append(("memory.limit_in_bytes", str(hard) if hard is not None else "-1"))
    if has_swap and hard is not None and swap:
        settings.append(("memory.memsw.limit_in_bytes", str(hard)))
    settings.append(("memory.soft_limit_in_bytes", str(soft_limit)))
    return [Setting("memory", file, value, False) for file, value in settings]


def swappiness_settings(hierarchies: Hierarchies, swappiness: int) -> list[Setting]:
    """The tendency to swap (0 to 100); version 2 has none."""
    if "memory" not in hierarchies.v1:
        return []
    return [Setting("memory", "memory.swappiness", str(swappiness), False)]


def pids_settings(hierarchies: Hierarchies, limit: int | None) -> list[Setting]:
    """The highest number of processes, None for no limit."""
    if not hierarchies.has("pids"):
        return []
    return [Setting("pids", "pids.max", "max" if limit is None else str(limit), hierarchies.is_v2("pids"))]


def whole_cpu(hierarchies: Hierarchies) -> int:
    """The weight of CPU time of a group that is limited in nothing."""
    return _WHOLE_CPU[hierarchies.is_v2("cpu")]


def cpu_weight_settings(hierarchies: Hierarchies, weight: int) -> list[Setting]:
    """The weight of CPU time, of which `whole_cpu` is the default."""
    if not hierarchies.has("cpu"):
        return []
    if hierarchies.is_v2("cpu"):
        return [Setting("cpu", "cpu.weight", str(max(1, min(10000, weight))), True)]
    return [Setting("cpu", "cpu.shares", str(max(2, weight)), False)]


def cpu_quota_settings(
    hierarchies: Hierarchies, quota_us: int | None, period_us: int = CFS_PERIOD_DEFAULT_US
) -> list[Setting]:
    """CPU time per period, None for no limit."""
    if not hierarchies.has("cpu"):
        return []
    if hierarchies.is_v2("cpu"):
        return [Setting("cpu", "cpu.max", f"{'max' if quota_us is None else quota_us} {period_us}", True)]
    return [
        Setting("cpu", "cpu.cfs_period_us", str(period_us), False),
        Setting("cpu", "cpu.cfs_quota_us", str(-1 if quota_us is None else quota_us), False),
    ]


def cpuset_settings(hierarchies: Hierarchies, cpus: str) -> list[Setting]:
    """Pin to CPUs, in the kernel's list notation."""
    if not hierarchies.has("cpuset"):
        return []
    return [Setting("cpuset", "cpuset.cpus", cpus, hierarchies.is_v2("cpuset"))]


def io_weight_settings(hierarchies: Hierarchies, weight: int) -> list[Setting]:
    """Relative weight of block I/O, 10 to 1000."""
    if "blkio" in hierarchies.v1:
        return [Setting("blkio", "blkio.weight", str(weight), False)]
    return [Setting("io", "io.weight", str(weight), True)] if hierarchies.is_v2("io") else []


def io_limit_settings(hierarchies: Hierarchies, device: str, direction: str, unit: str, limit: int) -> list[Setting]:
    """Limit a block device `major:minor`; direction is read or write, unit bps or iops, 0 is no limit."""
    if "blkio" in hierarchies.v1:
        return [Setting("blkio", f"blkio.throttle.{direction}_{unit}_device", f"{device} {limit}", False)]
    if not hierarchies.is_v2("io"):
        return []
    return [Setting("io", "io.max", f"{device} {direction[0]}{unit}={limit or 'max'}", True)]


def hugepages_settings(hierarchies: Hierarchies, page_size: str, limit: int | None) -> list[Setting]:
    """Limit huge pages of a size such as 2MB, in bytes."""
    if not hierarchies.has("hugetlb"):
        return []
    if hierarchies.is_v2("hugetlb"):
        return [Setting("hugetlb", f"hugetlb.{page_size}.max", "max" if limit is None else str(limit), True)]
    value = str(-1 if limit is None else limit)
    return [Setting("hugetlb", f"hugetlb.{page_size}.limit_in_bytes", value, False)]


def parse_keyed(text: str) -> dict[str, int]:
    """A flat keyed file such as cpu.stat or memory.stat."""
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


class Cgroup:
    """The directories of one container: a version 1 directory per controller and one on the unified tree."""

    def __init__(self, hierarchies: Hierarchies, paths: Mapping[str, str], unified_path: str | None) -> None:
        """`paths` are below the mounts of version 1 controllers, `unified_path` below the unified mount."""
        self.v1 = {
            name: hierarchies.v1[name] / path.lstrip("/") for name, path in paths.items() if name in hierarchies.v1
        }
        unified = hierarchies.unified
        self.unified = unified / unified_path.lstrip("/") if unified and unified_path is not None else None

    @property
    def directories(self) -> list[Path]:
        """Every distinct directory that a joining process must be written to."""
        found = dict.fromkeys(self.v1.values())
        if self.unified is not None:
            found[self.unified] = None
        return list(found)

    def directory(self, controller: str) -> Path:
        """The directory of a controller. Raises FileNotFoundError."""
        if controller in self.v1:
            return self.v1[controller]
        if self.unified is None:
            raise FileNotFoundError(errno.ENOENT, "No control group for this controller", controller)
        return self.unified

    def read(self, controller: str, file: str) -> str:
        """The text of a file without the final newline."""
        with open(self.directory(controller) / file) as stream:
            return stream.read().rstrip("\n")

    def write(self, controller: str, file: str, value: str) -> None:
        """Write one value."""
        fd = os.open(self.directory(controller) / file, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)

    def apply(self, settings: Iterable[Setting]) -> None:
        """Write settings in their order."""
        for setting in settings:
            self.write(setting.controller, setting.file, setting.value)

    def freeze(self) -> None:
        """Stop all processes and return when they stand still. Raises TimeoutError."""
        self._set_frozen(True)

    def thaw(self) -> None:
        """Let all processes run again."""
        self._set_frozen(False)

    def _set_frozen(self, frozen: bool) -> None:
        if "freezer" in self.v1:
            word = "FROZEN" if frozen else "THAWED"
            self.write("freezer", "freezer.state", word)
        else:
            self.write("freezer", "cgroup.freeze", "1" if frozen else "0")
        deadline = time.monotonic() + _FREEZE_DEADLINE_S
        pause = 0.0005
        while self.is_frozen() != frozen:
            if time.monotonic() > deadline:
                raise TimeoutError(errno.ETIMEDOUT, "The processes did not " + ("freeze" if frozen else "thaw"))
            if "freezer" in self.v1 and frozen:
                # A v1 freeze can stall on a task in transit: writing again retries it.
                self.write("freezer", "freezer.state", "FROZEN")
            time.sleep(pause)
            pause = min(pause * 2, 0.05)

    def is_frozen(self) -> bool:
        """Whether all processes stand still."""
        if "freezer" in self.v1:
            return self.read("freezer", "freezer.state") == "FROZEN"
        return parse_keyed(self.read("freezer", "cgroup.events")).get("frozen") == 1

    def memory_usage(self) -> MemoryUsage:
        """Memory and swap."""
        if "memory" in self.v1:
            used, peak = self._number("memory.usage_in_bytes"), self._number("memory.max_usage_in_bytes")
            limit = self._number("memory.limit_in_bytes")
            both = self._number("memory.memsw.usage_in_bytes")
            both_peak = self._number("memory.memsw.max_usage_in_bytes")
            return MemoryUsage(
                used, peak, limit if 0 < limit < 1 << 62 else None, max(0, both - used), max(0, both_peak - peak)
            )
        limit = self._number("memory.max")
        return MemoryUsage(
            self._number("memory.current"),
            self._number("memory.peak"),
            limit or None,
            self._number("memory.swap.current"),
            self._number("memory.swap.peak"),
        )

    def _number(self, file: str) -> int:
        try:
            text = self.read("memory", file)
        except OSError:
            return 0
        return int(text) if text.isdigit() else 0

    def memory_stat(self) -> dict[str, int]:
        """The keyed statistics of memory (names differ by version)."""
        return parse_keyed(self.read("memory", "memory.stat"))

    def cpu_times(self) -> CpuTimes:
        """CPU time used so far."""
        if "cpuacct" in self.v1:
            total = int(self.read("cpuacct", "cpuacct.usage"))
            ticks = parse_keyed(self.read("cpuacct", "cpuacct.stat"))
            tick_ns = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
            return CpuTimes(total, ticks.get("user", 0) * tick_ns, ticks.get("system", 0) * tick_ns)
        stat = parse_keyed(self.read("cpu", "cpu.stat"))
        return CpuTimes(*(stat.get(key, 0) * 1000 for key in ("usage_usec", "user_usec", "system_usec")))

    def count_processes(self) -> int:
        """The number of tasks as the pids controller counts them, else of processes."""
        try:
            return int(self.read("pids", "pids.current"))
        except (OSError, ValueError):
            return len(self.list_processes())

    def list_processes(self) -> list[int]:
        """Process ids in the group and below, as the host sees them."""
        root = next(iter(self.directories), None)
        found: set[int] = set()
        if root is None:
            return []
        for directory, _, _ in os.walk(root):
            with contextlib.suppress(OSError):
                found.update(map(int, Path(directory, "cgroup.procs").read_text().split()))
        return sorted(found)


def find_container_cgroup(hierarchies: Hierarchies, get_path: Callable[[str | None], str]) -> Cgroup:
    """The directories of a container whose monitor answers `get_path(controller)` (liblxc_socket's get_cgroup).

    Controllers for which it raises FileNotFoundError are left out.
    """
    paths: dict[str, str] = {}
    for controller in hierarchies.v1:
        with contextlib.suppress(FileNotFoundError):
            paths[controller] = get_path(controller)
    unified_path: str | None = None
    # liblxc finds a unified tree by one of its controllers, and by no name only where it has none.
    for name in (*sorted(hierarchies.unified_controllers), None) if hierarchies.unified is not None else ():
        with contextlib.suppress(FileNotFoundError):
            unified_path = get_path(name)
            break
    return Cgroup(hierarchies, paths, unified_path)
