"""Control groups of both versions: layouts, settings and readings, on tables and files made up."""

from pathlib import Path

import pytest

from corral.server.host.filesystems.mount import parse_mountinfo
from corral.server.host.isolation import cgroup
from corral.server.host.isolation.cgroup import Cgroup, Hierarchies, Layout, Setting

V1 = Hierarchies({name: Path("/cg") / name for name in cgroup.KNOWN_CONTROLLERS if name != "io"}, None)
V2 = Hierarchies({}, Path("/cg"), frozenset({"memory", "cpu", "cpuset", "pids", "io", "hugetlb", "freezer"}))
NONE = Hierarchies({}, None)

HYBRID_TABLE = """30 27 0:25 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
31 27 0:26 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
32 27 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
33 27 0:28 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
"""


def pairs(settings: list[Setting]) -> list[tuple[str, str]]:
    return [(setting.file, setting.value) for setting in settings]


def test_a_hybrid_layout() -> None:
    found = cgroup.parse_hierarchies(parse_mountinfo(HYBRID_TABLE), lambda path: "hugetlb io")
    assert found.layout is Layout.HYBRID
    assert found.v1["cpuacct"] == found.v1["cpu"] == Path("/sys/fs/cgroup/cpu,cpuacct")
    assert found.v1["systemd"] == Path("/sys/fs/cgroup/systemd")
    assert found.has("io")
    assert found.is_v2("io")
    assert not found.is_v2("memory")
    assert not found.has("pids")


def test_a_unified_layout_can_always_freeze() -> None:
    table = "30 27 0:25 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
    found = cgroup.parse_hierarchies(parse_mountinfo(table), lambda path: "memory pids")
    assert found.layout is Layout.UNIFIED
    assert found.is_v2("freezer")


def test_a_legacy_layout() -> None:
    table = "31 27 0:26 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
    assert cgroup.parse_hierarchies(parse_mountinfo(table), lambda path: "").layout is Layout.LEGACY


def test_a_hard_memory_limit_of_version_1_lifts_the_swap_limit_first() -> None:
    assert pairs(cgroup.memory_settings(V1, 1000)) == [
        ("memory.memsw.limit_in_bytes", "-1"),
        ("memory.limit_in_bytes", "1000"),
        ("memory.memsw.limit_in_bytes", "1000"),
        ("memory.soft_limit_in_bytes", "900"),
    ]


def test_a_hard_memory_limit_of_version_2() -> None:
    assert pairs(cgroup.memory_settings(V2, 1000)) == [
        ("memory.high", "max"),
        ("memory.max", "1000"),
        ("memory.swap.max", "0"),
    ]


def test_a_soft_memory_limit() -> None:
    assert ("memory.high", "1000") in pairs(cgroup.memory_settings(V2, 1000, soft=True))
    assert ("memory.max", "max") in pairs(cgroup.memory_settings(V2, 1000, soft=True))
    soft = pairs(cgroup.memory_settings(V1, 1000, soft=True))
    assert soft[-2:] == [("memory.limit_in_bytes", "-1"), ("memory.soft_limit_in_bytes", "1000")]


def test_no_memory_limit_takes_all_limits_away() -> None:
    assert {value for _, value in pairs(cgroup.memory_settings(V1, None))} == {"-1"}
    assert {value for _, value in pairs(cgroup.memory_settings(V2, None))} == {"max"}


@pytest.mark.parametrize("has_swap", [True, False])
def test_swap_is_left_alone_where_the_kernel_does_not_account_it(has_swap: bool) -> None:
    files = {file for file, _ in pairs(cgroup.memory_settings(V2, 1000, has_swap=has_swap))}
    assert ("memory.swap.max" in files) is has_swap


def test_cpu_settings() -> None:
    assert pairs(cgroup.cpu_quota_settings(V1, 20_000)) == [
        ("cpu.cfs_period_us", "100000"),
        ("cpu.cfs_quota_us", "20000"),
    ]
    assert pairs(cgroup.cpu_quota_settings(V2, 20_000, 50_000)) == [("cpu.max", "20000 50000")]
    assert pairs(cgroup.cpu_quota_settings(V2, None)) == [("cpu.max", "max 100000")]
    assert pairs(cgroup.cpu_weight_settings(V1, 512)) == [("cpu.shares", "512")]
    assert pairs(cgroup.cpu_weight_settings(V2, 50)) == [("cpu.weight", "50")]
    assert pairs(cgroup.cpuset_settings(V2, "0-1")) == [("cpuset.cpus", "0-1")]


def test_weights_stay_in_the_kernels_range() -> None:
    assert pairs(cgroup.cpu_weight_settings(V1, 0)) == [("cpu.shares", "2")]
    assert pairs(cgroup.cpu_weight_settings(V2, 0)) == [("cpu.weight", "1")]
    assert pairs(cgroup.cpu_weight_settings(V2, 1 << 20)) == [("cpu.weight", "10000")]
    assert (cgroup.whole_cpu(V1), cgroup.whole_cpu(V2)) == (1024, 100)


def test_other_settings() -> None:
    assert pairs(cgroup.pids_settings(V1, None)) == [("pids.max", "max")]
    assert pairs(cgroup.io_limit_settings(V2, "8:0", "read", "bps", 0)) == [("io.max", "8:0 rbps=max")]
    assert pairs(cgroup.io_limit_settings(V1, "8:0", "write", "iops", 5)) == [
        ("blkio.throttle.write_iops_device", "8:0 5")
    ]
    assert pairs(cgroup.io_weight_settings(V1, 100)) == [("blkio.weight", "100")]
    assert pairs(cgroup.hugepages_settings(V2, "2MB", None)) == [("hugetlb.2MB.max", "max")]
    assert cgroup.swappiness_settings(V2, 10) == []


def test_missing_controllers_have_no_settings() -> None:
    assert cgroup.memory_settings(NONE, 1) == cgroup.pids_settings(NONE, 1) == cgroup.cpuset_settings(NONE, "0") == []


def test_lines_for_liblxc() -> None:
    assert cgroup.pids_settings(V1, 5)[0].lxc_line == "lxc.cgroup.pids.max = 5"
    assert cgroup.pids_settings(V2, 5)[0].lxc_line == "lxc.cgroup2.pids.max = 5"


@pytest.fixture
def unified(tmp_path: Path) -> Cgroup:
    files = {
        "memory.current": "4096\n",
        "memory.peak": "8192\n",
        "memory.max": "max\n",
        "memory.swap.current": "10\n",
        "cpu.stat": "usage_usec 7\nuser_usec 4\nsystem_usec 3\n",
        "cgroup.events": "populated 1\nfrozen 1\n",
        "cgroup.freeze": "0",
        "cgroup.procs": "12\n",
        "pids.current": "3\n",
    }
    (tmp_path / "c1" / "inner").mkdir(parents=True)
    (tmp_path / "c1" / "inner" / "cgroup.procs").write_text("15\n16\n")
    for name, text in files.items():
        (tmp_path / "c1" / name).write_text(text)
    return Cgroup(Hierarchies({}, tmp_path, frozenset({"memory"})), {}, "/c1")


def test_readings_of_version_2(unified: Cgroup) -> None:
    usage = unified.memory_usage()
    assert (usage.used, usage.peak, usage.limit, usage.swap_used) == (4096, 8192, None, 10)
    assert unified.cpu_times() == cgroup.CpuTimes(7000, 4000, 3000)
    assert unified.count_processes() == 3
    assert unified.list_processes() == [12, 15, 16]


def test_freezing_in_version_2_writes_and_waits(unified: Cgroup) -> None:
    unified.freeze()
    assert unified.read("freezer", "cgroup.freeze") == "1"
    assert unified.is_frozen()


def test_readings_of_version_1(tmp_path: Path) -> None:
    for controller, files in {
        "memory": {
            "memory.usage_in_bytes": "100",
            "memory.memsw.usage_in_bytes": "150",
            "memory.limit_in_bytes": "200",
        },
        "cpuacct": {"cpuacct.usage": "99", "cpuacct.stat": "user 1\nsystem 2\n"},
        "freezer": {"freezer.state": "FROZEN\n"},
    }.items():
        (tmp_path / controller / "c1").mkdir(parents=True)
        for name, text in files.items():
            (tmp_path / controller / "c1" / name).write_text(text)
    v1 = {name: tmp_path / name for name in ("memory", "cpuacct", "freezer")}
    group = Cgroup(Hierarchies(v1, None), dict.fromkeys(v1, "/c1"), None)
    usage = group.memory_usage()
    assert (usage.used, usage.swap_used, usage.limit) == (100, 50, 200)
    assert group.cpu_times().total_ns == 99
    assert group.is_frozen()
    with pytest.raises(FileNotFoundError):
        group.read("pids", "pids.current")


def test_the_groups_of_a_container_are_those_its_monitor_knows() -> None:
    hierarchies = Hierarchies({"memory": Path("/m"), "pids": Path("/p")}, Path("/u"), frozenset({"hugetlb"}))
    known = {"memory": "/lxc.payload.c1", "hugetlb": "/lxc.payload.c1-1"}

    def get_path(controller: str | None) -> str:
        if controller not in known:
            raise FileNotFoundError(2, "no group", controller)
        return known[controller]

    group = cgroup.find_container_cgroup(hierarchies, get_path)
    assert group.directories == [Path("/m/lxc.payload.c1"), Path("/u/lxc.payload.c1-1")]
