"""Statistics of control groups in both versions."""

from pathlib import Path

from corral.server.host.isolation import cgroup_stats
from corral.server.host.isolation.cgroup import Cgroup, Hierarchies
from corral.server.host.isolation.cgroup_stats import BlockUse


def test_parsers() -> None:
    assert cgroup_stats.parse_usage_all("cpu user system\n0 1500000000 250000000\n1 0 0\n") == {
        "0": (1.5, 0.25),
        "1": (0.0, 0.0),
    }
    assert cgroup_stats.parse_io_stat("8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n253:1\n") == {
        "8:0": BlockUse(1, 3, 2, 4),
        "253:1": BlockUse(),
    }
    use: dict[str, BlockUse] = {}
    cgroup_stats.parse_blkio("8:0 Read 4096\n8:0 Write 1\nTotal 4097\n", use, {"Read": "read_bytes", "Write": "writes"})
    assert use == {"8:0": BlockUse(read_bytes=4096, writes=1)}


def test_version_1_counts_the_groups_below(tmp_path: Path) -> None:
    group = tmp_path / "c1"
    group.mkdir()
    (group / "memory.stat").write_text("cache 1\ntotal_cache 10\ntotal_active_anon 2\ntotal_active_file 3\n")
    (group / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 4\n")
    cgroup = Cgroup(Hierarchies({"memory": tmp_path}, None, frozenset()), {"memory": "/c1"}, None)
    assert cgroup_stats.memory_by_kind(cgroup) == {"cache": 10, "active_anon": 2, "active_file": 3, "active": 5}
    assert cgroup_stats.count_oom_kills(cgroup) == 4


def test_version_2(tmp_path: Path) -> None:
    (tmp_path / "memory.stat").write_text("anon 1\nfile 2\ninactive_anon 3\ninactive_file 4\nfile_dirty 5\n")
    (tmp_path / "memory.events").write_text("low 0\noom_kill 2\n")
    (tmp_path / "cpu.stat").write_text("usage_usec 3000000\nuser_usec 1000000\nsystem_usec 2000000\n")
    (tmp_path / "hugetlb.2MB.max").write_text("4194304\n")
    (tmp_path / "hugetlb.2MB.current").write_text("2097152\n")
    (tmp_path / "hugetlb.1GB.max").write_text("max\n")
    cgroup = Cgroup(Hierarchies({}, tmp_path, frozenset({"memory", "cpu"})), {}, "/")
    assert cgroup_stats.memory_by_kind(cgroup)["inactive"] == 7
    assert cgroup_stats.memory_by_kind(cgroup)["dirty"] == 5
    assert cgroup_stats.count_oom_kills(cgroup) == 2
    assert cgroup_stats.cpu_seconds(cgroup) == {"": (1.0, 2.0)}
    assert cgroup_stats.huge_pages(cgroup) == (4194304, 2097152)
