"""Which warnings follow from the control groups of a host."""

from pathlib import Path

from corral.server.host.isolation.cgroup import Hierarchies
from corral.server.warnings import host
from corral.server.warnings.model import CODES


def lacks(hierarchies: Hierarchies, *, weight: bool = True, swap: bool = True) -> set[str]:
    found = host.find_lacks(hierarchies, has_weight=weight, has_swap=swap)
    assert set(found) <= set(CODES)
    return {name for name, message in found.items() if message is not None}


def test_a_unified_tree_with_everything_lacks_priorities_of_networks() -> None:
    controllers = frozenset({"cpuset", "cpu", "io", "memory", "hugetlb", "pids"})
    whole = Hierarchies({}, Path("/sys/fs/cgroup"), controllers)
    assert lacks(whole) == {"Couldn't find the CGroup network priority controller"}
    assert lacks(whole, weight=False, swap=False) - lacks(whole) == {
        "Couldn't find the CGroup blkio.weight",
        "Couldn't find the CGroup memory swap accounting",
    }


def test_what_is_missing_is_named() -> None:
    bare = Hierarchies({}, Path("/sys/fs/cgroup"), frozenset({"memory"}))
    missing = {name.removeprefix("Couldn't find the CGroup ").removesuffix(" controller") for name in lacks(bare)}
    assert missing == {"blkio", "CPU", "CPUset", "CPUacct", "hugetlb", "network priority", "pids"}


def test_version_1_has_them_all() -> None:
    names = ("blkio", "cpu", "cpuset", "cpuacct", "hugetlb", "memory", "net_prio", "pids")
    old = Hierarchies({name: Path("/sys/fs/cgroup", name) for name in names}, None)
    assert lacks(old) == set()
