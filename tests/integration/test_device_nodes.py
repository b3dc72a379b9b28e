"""Device nodes that somebody brought into a container's volumes: whoever has them there can use none of the host's."""

import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.api import Api
from harness.daemon import Daemon

Make = Callable[..., str]

LOOP_CONTROL = os.makedev(10, 237)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The number of a disk of the host."""
    file = tmp_path_factory.mktemp("disk") / "image"
    file.write_bytes(b"secret of the host".ljust(1 << 20, b"\0"))
    done = subprocess.run(["losetup", "--find", "--show", file], check=True, capture_output=True, text=True)
    device = done.stdout.strip()
    yield os.stat(device).st_rdev
    subprocess.run(["losetup", "--detach", device], check=True)


def plant(directory: Path, disk: int) -> None:
    """Make nodes that anybody may open, as a hostile image, backup or server would."""
    for name, kind, device in (
        ("disk", stat.S_IFBLK, disk),
        ("kmsg", stat.S_IFCHR, os.makedev(1, 11)),
        ("terminal", stat.S_IFCHR, os.makedev(4, 0)),
        ("zero", stat.S_IFCHR, os.makedev(1, 5)),
    ):
        os.mknod(directory / name, kind | 0o666, device)
        os.chmod(directory / name, 0o666)


def check_refused(api: Api, name: str, place: str) -> None:
    for node in ("disk", "kmsg", "terminal"):
        for mode in ("<", ">"):
            assert api.execute(name, "sh", "-c", f"exec 3{mode}{place}/{node}") != 0, node
    # What is nobody's secret works.
    assert api.execute(name, "sh", "-c", f"head -c 1 {place}/zero >/dev/null") == 0
    for node in ("null", "zero", "full", "random", "urandom", "tty", "fuse", "net/tun", "ptmx"):
        assert api.execute(name, "test", "-c", f"/dev/{node}") == 0
    for node in ("null", "zero", "urandom", "ptmx"):
        assert api.execute(name, "sh", "-c", f"exec 3</dev/{node}") == 0, node


@pytest.mark.parametrize("privileged", ["false", "true"])
def test_nodes_in_volumes(daemon: Daemon, api: Api, make_instance: Make, disk: int, privileged: str) -> None:
    base = "/1.0/storage-pools/default/volumes/custom"
    api.call("POST", base, {"name": "nodes"})
    plant(daemon.state_dir / "storage-pools" / "default" / "custom" / "default_nodes", disk)
    volume = {"type": "disk", "pool": "default", "source": "nodes", "path": "/srv/nodes"}
    config = {"security.privileged": privileged}
    name = make_instance(start=False, config=config, devices={"nodes": volume})
    plant((daemon.state_dir / "containers" / name).resolve() / "rootfs", disk)
    api.set_state(name, "start")
    check_refused(api, name, "")
    check_refused(api, name, "/srv/nodes")
    api.set_state(name, "stop", force=True)
    api.run("PUT", f"/1.0/instances/{name}", {**api.get(f"/1.0/instances/{name}"), "devices": {}})
    api.call("DELETE", f"{base}/nodes")


def test_what_a_container_is_given_it_may_use(api: Api, make_instance: Make, tmp_path: Path, disk: int) -> None:
    """By a device of its own, plugged in or there at the start; and no longer than it has it."""
    name = make_instance()
    url = f"/1.0/instances/{name}"

    def reads(path: str) -> bool:
        return api.execute(name, "sh", "-c", f"head -c 6 {path} | grep -q secret") == 0

    numbers = {"major": str(os.major(disk)), "minor": str(os.minor(disk)), "mode": "0666"}
    own = {"type": "unix-block", "path": "/dev/own", **numbers}
    api.call("PATCH", url, {"devices": {"own": own}})
    assert reads("/dev/own")
    api.set_state(name, "restart", force=True)
    assert reads("/dev/own")
    assert api.execute(name, "sh", "-c", "exec 9</dev/own; sleep 1000 & echo $! >/run/holder") == 0
    api.run("PUT", url, {**api.get(url), "devices": {}})
    assert not reads("/dev/own")
    # What still has it open shows a way to open it again: that is refused.
    assert api.execute(name, "sh", "-c", "exec 3</proc/$(cat /run/holder)/fd/9") != 0
    api.execute(name, "sh", "-c", "kill $(cat /run/holder)")


def test_a_disk_may_show_device_files(api: Api, make_instance: Make) -> None:
    """An unprivileged container may use what its disks show it of the host's /dev."""
    node = Path(f"/dev/corral-test-{os.getpid()}")
    os.mknod(node, stat.S_IFCHR | 0o666, LOOP_CONTROL)
    os.chmod(node, 0o666)
    try:
        file = {"type": "disk", "source": str(node), "path": "/srv/node"}
        name = make_instance(devices={"file": file})
        url = f"/1.0/instances/{name}"
        assert api.execute(name, "sh", "-c", "exec 3</srv/node") == 0
        api.run("PUT", url, {**api.get(url), "devices": {}})
        api.set_state(name, "restart", force=True)
        api.call("PATCH", url, {"devices": {"file": file}})
        assert api.execute(name, "sh", "-c", "exec 3</srv/node") == 0
        tree = {"type": "disk", "source": "/dev", "path": "/srv/dev"}
        api.run("PUT", url, {**api.get(url), "devices": {"tree": tree}})
        api.set_state(name, "restart", force=True)
        assert api.execute(name, "sh", "-c", f"exec 3</srv/dev/{node.name}") == 0
    finally:
        node.unlink()


@pytest.mark.parametrize(
    "line", ["lxc.mount.entry = /dev/kmsg srv/kmsg none bind,create=file", "lxc.cgroup.devices.allow = a"]
)
def test_raw_lxc_decides_for_itself(daemon: Daemon, api: Api, make_instance: Make, line: str) -> None:
    """As in LXD, an unprivileged container that is shown devices by raw.lxc may use them."""
    name = make_instance(config={"raw.lxc": line})
    assert "devices.deny" not in (daemon.state_dir / "logs" / name / "lxc.conf").read_text()
    api.call(
        "PATCH",
        f"/1.0/instances/{name}",
        {"devices": {"n": {"type": "unix-char", "source": "/dev/null", "path": "/dev/n"}}},
    )
    assert api.execute(name, "sh", "-c", "exec 3</dev/n") == 0
    assert api.execute(name, "sh", "-c", "exec 3</dev/zero") == 0
