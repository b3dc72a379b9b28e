"""The daemon as a service of the machine's systemd: installed, woken by its socket, restarted, going down; removed."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.machine_host import host
from harness.waiting import until

TOP = Path(__file__).parents[2]
STATE = Path("/var/lib/corral")
LOG = Path("/var/log/corral/corral.log")
NAME = "c1"


def corral(*args: str) -> str:
    return host("/usr/local/bin/corral", *args)


def is_active(unit: str) -> bool:
    argv = ["nsenter", "--target", "1", "--mount", "--", "systemctl", "is-active", "-q", unit]
    return subprocess.run(argv, check=False).returncode == 0


def state_of(name: str) -> Any:
    return json.loads(corral("query", f"/1.0/instances/{name}/state"))


def running_pid() -> int:
    state = state_of(NAME)
    return int(state["pid"]) if state["status"] == "Running" else 0


@pytest.fixture(scope="module")
def service() -> Iterator[None]:
    """Corral, installed into the machine as the README says."""
    host("systemctl", "start", "apparmor.service")
    host(str(TOP / "scripts/install"), "--system")
    host("systemctl", "start", "corral.socket")
    yield
    host(str(TOP / "scripts/remove"), "--yes")
    assert not STATE.exists()
    assert not is_active("corral.socket")
    assert not Path("/usr/local/bin/corral").exists()


@pytest.mark.usefixtures("service")
def test_a_service_of_systemd(busybox_image: Path) -> None:
    # Nothing wants the daemon yet: only its socket is there, for the group.
    host("systemctl", "start", "corral-instances.service")
    assert not is_active("corral.service")
    shown = host("stat", "-c", "%a %U %G", str(STATE / "unix.socket"))
    assert shown == "660 root corral"
    # The first request wakes it.
    corral("query", "/1.0")
    assert is_active("corral.service")
    # The scene's /tmp is the machine's.
    preseed = busybox_image.with_name("preseed.yaml")
    preseed.write_text(
        json.dumps(
            {
                "storage_pools": [{"name": "default", "driver": "dir"}],
                "profiles": [
                    {"name": "default", "devices": {"root": {"type": "disk", "path": "/", "pool": "default"}}}
                ],
            }
        )
    )
    host("sh", "-ec", f"/usr/local/bin/corrald init --preseed <{preseed}")
    corral("image", "import", str(busybox_image), "--alias", "busybox")
    corral("launch", "busybox", NAME, "-c", "limits.memory=64MiB", "-c", "limits.disk.priority=7")
    pid = running_pid()
    # AppArmor confines it by a profile of its own, which Debian's for lxc-start does not prevent.
    assert Path(f"/proc/{pid}/attr/current").read_text().startswith(f"corral-{NAME}_<")
    group = Path("/sys/fs/cgroup", Path(f"/proc/{pid}/cgroup").read_text().strip().removeprefix("0::/").split("/")[0])
    limits = {"memory.max": f"{64 << 20}\n", "io.weight": "default 700\n"}

    def check() -> None:
        assert running_pid() == pid
        assert {name: (group / name).read_text() for name in limits} == limits
        assert corral("exec", NAME, "--", "echo", "hello") == "hello"

    # Containers outlive the daemon, however it ends, and keep their limits.
    host("systemctl", "restart", "corral.service")
    check()
    main = int(host("systemctl", "show", "--value", "-p", "MainPID", "corral.service"))
    os.kill(main, 9)
    until(
        lambda: host("systemctl", "show", "--value", "-p", "MainPID", "corral.service") not in (str(main), "0"), "anew"
    )
    check()
    host("systemctl", "stop", "corral.service")
    host("systemctl", "daemon-reload")
    assert {name: (group / name).read_text() for name in limits} == limits
    assert not is_active("corral.service")
    check()
    # The machine goes down and comes back.
    stopped = "systemctl stop corral-instances.service corral.service corral.socket"
    host("timeout", "200", "sh", "-c", stopped)
    assert not Path(f"/proc/{pid}").exists()
    assert "Container c1 ended (stop)" in LOG.read_text()
    assert f"corral-{NAME}_<" not in host("cat", "/sys/kernel/security/apparmor/profiles")
    host("systemctl", "start", "corral.socket", "corral-instances.service")
    assert is_active("corral.service")
    until(running_pid, "the container runs again")
    assert "failed" not in host("systemctl", "list-units", "--no-legend", "corral*")
