"""Control groups version 2, as systemd mounts them: limits, measures, freezing, devices, and a systemd inside."""

import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import images
from harness.api import Api
from harness.client import Client
from harness.daemon import Daemon
from harness.waiting import until

Make = Callable[..., str]

LIMITS = {
    "limits.memory": "64MiB",
    "limits.processes": "100",
    "limits.cpu": "0-0",
    "limits.cpu.allowance": "50ms/100ms",
    "limits.cpu.priority": "7",
    "limits.disk.priority": "7",
    "limits.hugepages.2MB": "4MiB",
}

FILES = {
    "memory.max": str(64 << 20),
    "memory.swap.max": "0",
    "pids.max": "100",
    "cpuset.cpus": "0",
    "cpu.max": "50000 100000",
    "cpu.weight": "97",
    "io.weight": "default 700",
    "hugetlb.2MB.max": str(4 << 20),
}

NO_LIMITS = {
    "memory.max": "max",
    "memory.swap.max": "max",
    "pids.max": "max",
    "cpuset.cpus": "0-1",
    "cpu.max": "max 100000",
    "cpu.weight": "100",
    "io.weight": "default 500",
    "hugetlb.2MB.max": "max",
}


def get(api: Api, name: str, what: str = "") -> Any:
    return api.get(f"/1.0/instances/{name}{what}")


def group_of(api: Api, name: str) -> Path:
    """The control group that a container's limits are on."""
    (line,) = Path(f"/proc/{get(api, name, '/state')['pid']}/cgroup").read_text().splitlines()
    return Path("/sys/fs/cgroup", line.removeprefix("0::/").split("/")[0])


def read(group: Path, names: dict[str, str]) -> dict[str, str]:
    return {name: (group / name).read_text().strip() for name in names}


def test_limits_from_the_start_and_live(api: Api, lxc: Client, make_instance: Make) -> None:
    name = make_instance(config=LIMITS)
    group = group_of(api, name)
    assert read(group, FILES) == FILES
    api.call("PATCH", f"/1.0/instances/{name}", {"config": dict.fromkeys(LIMITS, "")})
    assert read(group, NO_LIMITS) == NO_LIMITS
    api.call("PATCH", f"/1.0/instances/{name}", {"config": LIMITS})
    assert read(group, FILES) == FILES
    api.call("PATCH", f"/1.0/instances/{name}", {"config": {"limits.memory.enforce": "soft"}})
    assert (group / "memory.max").read_text() == "max\n"
    lxc("config", "device", "override", name, "root", "limits.read=10MB", "limits.write=20iops")
    line = "254:0 rbps=10000000 wbps=max riops=max wiops=20\n"
    assert (group / "io.max").read_text() == line
    api.set_state(name, "restart", force=True)
    assert (group_of(api, name) / "io.max").read_text() == line
    lxc("config", "device", "remove", name, "root")
    assert (group_of(api, name) / "io.max").read_text() == ""


def test_what_is_measured(api: Api, make_instance: Make) -> None:
    name = make_instance(config={"limits.memory": "48MiB", "limits.memory.swap": "false"})
    assert api.execute(name, "sh", "-c", "dd if=/dev/zero of=/root/fill bs=1M count=8 && sync") == 0
    # More than it may have: killed, which is counted.
    assert api.execute(name, "sh", "-c", "dd if=/dev/zero of=/dev/null bs=100M count=1") != 0
    state = get(api, name, "/state")
    assert state["memory"]["total"] == 48 << 20
    assert 0 < state["memory"]["usage"] <= 48 << 20
    assert state["cpu"]["usage"] > 0
    assert state["processes"] >= 1
    assert state["disk"]["root"]["usage"] >= 8 << 20
    _, _, text = api.raw("GET", "/1.0/metrics")
    of = f'name="{name}",project="default"'
    metrics = {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.decode().splitlines() if of in line
    }
    assert metrics[f'lxd_memory_OOM_kills_total{{{of},type="container"}}'] >= 1
    assert metrics[f'lxd_memory_MemTotal_bytes{{{of},type="container"}}'] == 48 << 20
    assert any(key.startswith("lxd_disk_written_bytes_total") and value > 0 for key, value in metrics.items())
    assert any(key.startswith("lxd_cpu_seconds_total") and value > 0 for key, value in metrics.items())


def test_freezing(api: Api, make_instance: Make) -> None:
    name = make_instance()
    events = group_of(api, name) / "cgroup.events"
    api.set_state(name, "freeze")
    assert "frozen 1" in events.read_text()
    assert get(api, name)["status"] == "Frozen"
    api.set_state(name, "unfreeze")
    assert "frozen 0" in events.read_text()
    assert api.execute(name, "true") == 0
    api.set_state(name, "freeze")
    api.set_state(name, "stop", force=True)
    assert not events.exists()


@pytest.mark.parametrize("privileged", ["false", "true"])
def test_devices_that_containers_may_use(lxc: Client, daemon: Daemon, make_instance: Make, privileged: str) -> None:
    name = make_instance(start=False, config={"security.privileged": privileged})
    node = (daemon.state_dir / "containers" / name).resolve() / "rootfs" / "root" / "disk"
    os.mknod(node, stat.S_IFBLK | 0o666, os.makedev(254, 0))
    node.chmod(0o666)
    lxc("start", name)

    def reads(path: str) -> bool:
        return lxc.run("exec", name, "--", "dd", f"if={path}", "of=/dev/null", "count=1").returncode == 0

    assert reads("/dev/zero")
    assert not reads("/root/disk")
    lxc("config", "device", "add", name, "disk", "unix-block", "source=/dev/vda", "path=/dev/vda")
    assert reads("/dev/vda")
    lxc("config", "device", "remove", name, "disk")
    assert not reads("/root/disk")
    lxc("config", "device", "add", name, "disk", "unix-block", "source=/dev/vda", "path=/dev/vda")
    lxc("restart", "--force", name)
    assert reads("/dev/vda")


UNITS = """[Unit]
Description=All that is needed
Requires=basic.target dbus.socket
After=basic.target
AllowIsolate=yes
"""


UNUSED_UNITS = (
    *("systemd-logind.service", "systemd-udevd.service", "systemd-udev-trigger.service", "systemd-timesyncd.service"),
    *("systemd-networkd.service", "apparmor.service", "lxcfs.service", "nftables.service", "timers.target"),
    "systemd-binfmt.service",
)


@pytest.fixture
def systemd_image(daemon: Daemon, api: Api, tmp_path: Path) -> Iterator[str]:
    """An image with an init of systemd, whose /usr is the machine's own."""
    root = tmp_path / "rootfs"
    for name in ("usr", "dev", "proc", "sys", "run", "tmp", "root", "var/log/journal", "etc/systemd/system"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    for name in ("passwd", "group", "os-release", "nsswitch.conf", "ld.so.cache"):
        (root / "etc" / name).write_bytes(Path("/etc", name).read_bytes())
    (root / "etc/systemd/system/default.target").write_text(UNITS)
    (root / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    for name in UNUSED_UNITS:
        (root / f"etc/systemd/system/{name}").symlink_to("/dev/null")
    (tmp_path / "metadata.yaml").write_text(images.metadata("Debian", "12", "systemd").partition("templates:")[0])
    file = tmp_path / "systemd.tar"
    subprocess.run(["tar", "-C", tmp_path, "-cf", file, "metadata.yaml", "rootfs"], check=True)
    fingerprint = api.upload_image(file, "systemd")
    yield "systemd"
    with daemon.api() as later:
        later.run("DELETE", f"/1.0/images/{fingerprint}")


def test_a_systemd_inside(api: Api, lxc: Client, make_instance: Make, systemd_image: str) -> None:
    root = {"type": "disk", "pool": "default", "path": "/"}
    usr = {"type": "disk", "source": "/usr", "path": "/usr", "readonly": "true"}
    name = make_instance(start=False, image=systemd_image, devices={"root": root, "usr": usr})
    lxc("config", "set", name, "limits.memory=256MiB")
    lxc("start", name)

    def state() -> bool:
        return lxc.run("exec", name, "--", "systemctl", "is-system-running").stdout.strip() in (b"running", b"degraded")

    until(state, "its systemd is up")
    assert lxc("exec", name, "--", "systemctl", "list-units", "--state=failed", "--no-legend", "--plain").strip() == ""
    group = group_of(api, name)
    # Its services are in groups of their own, which a command of ours must not be in the way of.
    assert (group / "system.slice").is_dir()
    assert (group / "cgroup.subtree_control").read_text().split()
    assert lxc("exec", name, "--", "cat", "/proc/self/cgroup").startswith("0::/")
    assert (group / "memory.max").read_text() == f"{256 << 20}\n"
    lxc("exec", name, "--", "systemd-run", "--wait", "-p", "MemoryMax=64M", "true")
    assert get(api, name, "/state")["processes"] >= 3
    api.set_state(name, "freeze")
    assert "frozen 1" in (group / "cgroup.events").read_text()
    api.set_state(name, "unfreeze")
    pid = get(api, name, "/state")["pid"]
    lxc.run("exec", name, "--", "systemctl", "reboot", "--no-block")
    until(lambda: get(api, name, "/state")["pid"] not in (pid, 0, -1), "it has rebooted")
    until(state, "its systemd is up again")
    lxc("stop", name)
    assert get(api, name)["status"] == "Stopped"
    assert not group.exists()
