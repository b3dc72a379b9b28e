"""Which logs go, and when."""

import os
from pathlib import Path

from corral.server.instances.sessions import log_expiry

NOW = 1_800_000_000.0
HOUR = 3600.0


def write(path: Path, age_h: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    os.utime(path, (NOW - age_h * HOUR,) * 2)


def age(directory: Path, age_h: float) -> None:
    os.utime(directory, (NOW - age_h * HOUR,) * 2)


def left(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if not path.is_dir()}


def test_old_logs_go_and_what_is_in_use_stays(tmp_path: Path) -> None:
    for name in ("runs", "stopped"):
        for file in ("lxc.log", "console.log", "lxc.log.old", "lxc.conf", "exec_a.stdout", "other"):
            write(tmp_path / name / file, 49)
        write(tmp_path / name / "exec_b.stdout", 47)
    write(tmp_path / "dnsmasq.br0.log", 1000)
    (tmp_path / "linked").symlink_to(tmp_path / "stopped")
    log_expiry.expire_directory(tmp_path, {"runs": True, "stopped": False}, NOW)
    assert left(tmp_path / "stopped") == {"lxc.conf", "exec_b.stdout", "other"}
    assert left(tmp_path / "runs") == {"lxc.log", "console.log", "lxc.conf", "exec_b.stdout", "other"}
    assert (tmp_path / "dnsmasq.br0.log").exists()


def test_directories_without_an_instance_go_a_day_after_their_last_change(tmp_path: Path) -> None:
    write(tmp_path / "gone" / "lxc.log", 25)
    age(tmp_path / "gone", 25)
    write(tmp_path / "lately" / "lxc.log", 23)
    age(tmp_path / "lately", 25)
    log_expiry.expire_directory(tmp_path, {}, NOW)
    assert left(tmp_path) == {"lately/lxc.log"}
