"""What the kernel of this host lacks for limits, as warnings that come and go with it."""

from collections.abc import Mapping
from pathlib import Path

from corral.server.context import Context
from corral.server.events.problems import Problem, ProblemSolved
from corral.server.host.isolation import cgroup
from corral.server.host.isolation.cgroup import Hierarchies
from corral.server.host.threads import in_thread

_CONTROLLERS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "Couldn't find the CGroup blkio": (("blkio", "io"), "disk I/O limits will be ignored"),
    "Couldn't find the CGroup CPU controller": (("cpu",), "CPU time limits will be ignored"),
    "Couldn't find the CGroup CPUset controller": (("cpuset",), "CPU pinning will be ignored"),
    "Couldn't find the CGroup CPUacct controller": (("cpuacct", "cpu"), "CPU accounting will not be available"),
    "Couldn't find the CGroup hugetlb controller": (("hugetlb",), "hugepage limits will be ignored"),
    "Couldn't find the CGroup memory controller": (("memory",), "memory limits will be ignored"),
    "Couldn't find the CGroup network priority controller": (("net_prio",), "per-instance network priority is ignored"),
    "Couldn't find the CGroup pids controller": (("pids",), "process limits will be ignored"),
}
"""For each warning the controllers of which one will do, and what follows where there is none."""

_WEIGHT = "Couldn't find the CGroup blkio.weight"
_SWAP = "Couldn't find the CGroup memory swap accounting"
_WEIGHT_FILES = ("io.weight", "io.bfq.weight")


def find_lacks(hierarchies: Hierarchies, *, has_weight: bool, has_swap: bool) -> dict[str, str | None]:
    """For each warning that can be raised here its message, or None where nothing is lacking."""
    found: dict[str, str | None] = {
        name: None if any(hierarchies.has(one) for one in controllers) else message
        for name, (controllers, message) in _CONTROLLERS.items()
    }
    found[_WEIGHT] = None if has_weight else "disk priority will be ignored"
    found[_SWAP] = None if has_swap else "swap limits will be ignored"
    return found


def _look() -> dict[str, str | None]:
    hierarchies = cgroup.detect_hierarchies()
    if "blkio" in hierarchies.v1:
        has_weight = (hierarchies.v1["blkio"] / "blkio.weight").exists()
    else:
        has_weight = hierarchies.unified is not None and _has_weight(hierarchies.unified)
    return find_lacks(hierarchies, has_weight=has_weight, has_swap=cgroup.supports_swap_limit(hierarchies))


def _has_weight(unified: Path) -> bool:
    """The root has no weight: any group below it shows whether there are some."""
    return any(next(unified.glob(f"*/{name}"), None) is not None for name in _WEIGHT_FILES)


async def report(context: Context) -> None:
    """Raise or resolve the warnings about this host."""
    for name, message in (await in_thread(_look)).items():
        if message is None:
            await context.events.react(ProblemSolved(name))
        else:
            await context.events.react(Problem(name, message))
