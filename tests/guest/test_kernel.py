"""What Debian's kernel has and not every machine's: project quotas, ipvlan, VLANs, file systems in modules."""

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from corral.server.host import features
from corral.server.host.filesystems import loopdev, project_quota
from harness.api import Api
from harness.client import Client
from harness.daemon import Daemon
from harness.waiting import until

Make = Callable[..., str]
MIB = 1 << 20


def ip(*argv: str) -> str:
    return subprocess.run(["ip", *argv], check=True, capture_output=True, text=True).stdout


def run(lxc: Client, name: str, *argv: str) -> str:
    return lxc("exec", name, "--", *argv).strip()


def fill(lxc: Client, name: str, path: str, mib: int) -> bool:
    """Whether so much can be written in a container."""
    return lxc.run("exec", name, "--", "dd", "if=/dev/zero", f"of={path}", "bs=1M", f"count={mib}").returncode == 0


@pytest.fixture
def parent() -> Iterator[str]:
    """An interface of the host."""
    ip("link", "add", "parent0", "type", "dummy")
    ip("link", "set", "parent0", "up")
    yield "parent0"
    ip("link", "delete", "parent0")


def test_the_kernels_modules_are_loaded_when_they_are_needed() -> None:
    assert features.has_filesystem("xfs")
    assert not features.has_filesystem("nosuchfs")
    assert features.supports_btrfs()
    assert features.supports_idmapped_mounts("/")


def test_a_project_has_a_limit_and_a_use(tmp_path: Path) -> None:
    device = project_quota.find_device(tmp_path)
    assert device == "/dev/vda"
    tree = tmp_path / "tree"
    (tree / "below").mkdir(parents=True)
    (tree / "file").write_bytes(b"x" * MIB)
    (tree / "link").symlink_to("/etc/passwd")
    os.mkfifo(tree / "fifo")
    project_quota.set_project(tree, 4242)
    project_quota.set_limit(device, 4242, 4 * MIB)
    assert project_quota.get_project(tree / "below") == 4242
    assert project_quota.get_project("/etc/passwd") == 0
    # Whoever has CAP_SYS_RESOURCE is not limited.
    argv = [
        "setpriv",
        "--bounding-set=-sys_resource",
        "dd",
        "if=/dev/zero",
        f"of={tree}/below/new",
        "bs=64K",
        "count=99",
    ]
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    assert os.strerror(errno.EDQUOT) in done.stderr
    used = project_quota.get_usage(device, 4242)
    assert 3 * MIB <= used <= 4 * MIB
    project_quota.set_limit(device, 4242, None)
    (tree / "below/more").write_bytes(b"z" * 4 * MIB)
    project_quota.set_project(tree, 0)
    assert project_quota.get_usage(device, 4242) == 0


def test_sizes_in_a_pool_of_directories(api: Api, lxc: Client, make_instance: Make) -> None:
    name = make_instance(start=False)
    lxc("config", "device", "override", name, "root", "size=24MiB")
    lxc("start", name)
    assert fill(lxc, name, "/root/a", 4)
    assert not fill(lxc, name, "/root/b", 30)
    run(lxc, name, "rm", "/root/b")
    used = api.get(f"/1.0/instances/{name}/state")["disk"]["root"]["usage"]
    assert 4 * MIB <= used < 24 * MIB
    lxc("config", "device", "set", name, "root", "size=64MiB")
    assert fill(lxc, name, "/root/b", 30)
    lxc("snapshot", name, "s0")
    lxc("copy", name, f"{name}-copy")
    try:
        lxc("start", f"{name}-copy")
        assert not fill(lxc, f"{name}-copy", "/root/c", 60)
    finally:
        lxc("delete", "--force", f"{name}-copy")
    lxc("storage", "volume", "create", "default", "data", "size=8MiB")
    try:
        lxc("config", "device", "add", name, "data", "disk", "pool=default", "source=data", "path=/mnt")
        assert not fill(lxc, name, "/mnt/a", 12)
        lxc("storage", "volume", "set", "default", "data", "size=16MiB")
        assert fill(lxc, name, "/mnt/a", 12)
        assert api.get("/1.0/storage-pools/default/volumes/custom/data/state")["usage"]["used"] >= 12 * MIB
        lxc("config", "device", "remove", name, "data")
    finally:
        lxc("storage", "volume", "delete", "default", "data")


def test_an_ipvlan_interface(lxc: Client, make_instance: Make, parent: str) -> None:
    root = {"type": "disk", "pool": "default", "path": "/"}
    name = make_instance(start=False, profiles=[], devices={"root": root})
    words = ("nic", "nictype=ipvlan", f"parent={parent}", "name=eth9", "ipv4.address=192.0.2.50")
    lxc("config", "device", "add", name, "eth9", *words)
    Path(f"/proc/sys/net/ipv4/conf/{parent}/forwarding").write_text("0")
    assert f"net.ipv4.conf.{parent}.forwarding=1" in lxc.fails("start", name)
    Path(f"/proc/sys/net/ipv4/conf/{parent}/forwarding").write_text("1")
    lxc("start", name)
    assert "192.0.2.50/32" in run(lxc, name, "ip", "-4", "addr", "show", "eth9")
    assert "default dev eth9" in run(lxc, name, "ip", "-4", "route")
    assert "192.0.2.50" in ip("neigh", "show", "proxy", "dev", parent)
    lxc("restart", "--force", name)
    assert "192.0.2.50/32" in run(lxc, name, "ip", "-4", "addr", "show", "eth9")
    lxc("stop", "--force", name)
    until(lambda: "192.0.2.50" not in ip("neigh", "show", "proxy", "dev", parent), "the address is given up")
    assert "192.0.2.50" not in ip("-4", "route", "show", "dev", "lo")


def test_vlans_of_a_bridge_are_apart(lxc: Client, make_instance: Make) -> None:
    ip("link", "add", "vlanbr0", "type", "bridge")
    ip("link", "set", "vlanbr0", "up")
    try:
        names = []
        for number, vlan in enumerate(("vlan=10", "vlan=10", "vlan=20", "vlan.tagged=10"), 1):
            name = make_instance(start=False)
            words = ("nic", "nictype=bridged", "parent=vlanbr0", "name=eth9", vlan)
            lxc("config", "device", "add", name, "eth9", *words)
            lxc("start", name)
            link = "eth9"
            run(lxc, name, "ip", "link", "set", link, "up")
            if vlan == "vlan.tagged=10":
                run(lxc, name, "ip", "link", "add", "link", "eth9", "name", "eth9.10", "type", "vlan", "id", "10")
                link = "eth9.10"
                run(lxc, name, "ip", "link", "set", link, "up")
            run(lxc, name, "ip", "addr", "add", f"192.0.2.{number}/24", "dev", link)
            names.append(name)

        def reaches(number: int) -> bool:
            argv = ("ping", "-c", "1", "-W", "2", f"192.0.2.{number}")
            return lxc.run("exec", names[0], "--", *argv).returncode == 0

        until(lambda: reaches(2), "a neighbour in the same VLAN answers")
        until(lambda: reaches(4), "a neighbour that tags answers")
        assert not reaches(3)
        for name in names:
            lxc("stop", "--force", name)
    finally:
        ip("link", "delete", "vlanbr0")


def test_a_vlan_of_an_interface_is_made_and_taken_away(lxc: Client, make_instance: Make, parent: str) -> None:
    name = make_instance()
    lxc("config", "device", "add", name, "eth9", "nic", "nictype=macvlan", f"parent={parent}", "vlan=5", "name=eth9")
    assert "802.1Q id 5" in ip("-d", "link", "show", f"{parent}.5")
    assert "eth9" in run(lxc, name, "ip", "link")
    lxc("restart", "--force", name)
    assert "eth9" in run(lxc, name, "ip", "link")
    lxc("stop", "--force", name)
    assert not Path(f"/sys/class/net/{parent}.5").exists()


@pytest.mark.parametrize("kind", ["vfat", "ext4"])
def test_a_disk_of_the_host_is_mounted(
    lxc: Client, daemon: Daemon, make_instance: Make, tmp_path: Path, kind: str
) -> None:
    file = tmp_path / "disk.img"
    file.touch()
    os.truncate(file, 64 * MIB)
    device, fd = loopdev.attach(file)
    try:
        subprocess.run([f"mkfs.{kind}", device], check=True, capture_output=True)
        name = make_instance()
        lxc("config", "device", "add", name, "data", "disk", f"source={device}", "path=/mnt")
        assert kind in run(lxc, name, "grep", " /mnt ", "/proc/mounts")
        lxc("restart", "--force", name)
        assert kind in run(lxc, name, "grep", " /mnt ", "/proc/mounts")
        lxc("stop", "--force", name)
    finally:
        os.close(fd)
