"""Options of disks, NICs and proxies as the kernel shows them: when they are plugged in, and after a start."""

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.api import Api
from harness.cgroups import cgroup_file
from harness.client import Client
from harness.daemon import Daemon
from harness.waiting import until

Make = Callable[..., str]
Devices = dict[str, dict[str, str]]
ROOT = {"type": "disk", "path": "/", "pool": "default"}


def pid_of(api: Api, name: str) -> int:
    pid: int = api.get(f"/1.0/instances/{name}/state")["pid"]
    return pid


def put(api: Api, name: str, devices: Devices) -> None:
    """Replace an instance's devices as a client does that has read the whole of it."""
    found = api.get(f"/1.0/instances/{name}")
    kept = {key: found[key] for key in ("architecture", "config", "description", "ephemeral", "profiles")}
    api.run("PUT", f"/1.0/instances/{name}", {**kept, "devices": {"root": ROOT, **devices}})


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Path]:
    """A directory with a file system mounted below it."""
    tmp_path.chmod(0o755)
    (tmp_path / "sub").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", tmp_path / "sub"], check=True)
    (tmp_path / "sub/file").touch()
    yield tmp_path
    subprocess.run(["umount", "-l", tmp_path / "sub"], check=True)


def mounts(pid: int) -> dict[str, tuple[set[str], str]]:
    """The options and the propagation of what is mounted below /mnt."""
    found = {}
    for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines():
        words = line.split()
        if words[4].startswith("/mnt"):
            found[words[4]] = set(words[5].split(",")), " ".join(words[6 : words.index("-")])
    return found


def test_disks(api: Api, make_instance: Make, source: Path) -> None:
    def disk(path: str, **more: str) -> dict[str, str]:
        return {"type": "disk", "source": str(source), "path": path, **more}

    disks = {
        "plain": disk("/mnt/plain"),
        "whole": disk("/mnt/whole", recursive="true"),
        "fixed": disk("/mnt/fixed", readonly="true"),
        "raw": disk("/mnt/raw", **{"raw.mount.options": "noexec,nosuid"}),
        "shared": disk("/mnt/shared", propagation="shared"),
        "alone": disk("/mnt/alone", propagation="private"),
        "below": disk("/mnt/plain/sub"),
        "file": {"type": "disk", "source": str(source / "sub/file"), "path": "mnt/file"},
        "absent": {"type": "disk", "source": str(source / "none"), "path": "/mnt/absent", "required": "false"},
    }
    name = make_instance(profiles=[], devices={"root": ROOT})
    put(api, name, disks)
    for _ in range(2):
        shown = mounts(pid_of(api, name))
        assert "/mnt/whole/sub" in shown
        assert "/mnt/raw/sub" not in shown
        assert "/mnt/absent" not in shown
        assert "/mnt/file" in shown
        # What is mounted below comes after what it is mounted on.
        assert list(shown).index("/mnt/plain/sub") > list(shown).index("/mnt/plain")
        assert "ro" in shown["/mnt/fixed"][0]
        assert {"noexec", "nosuid", "rw"} <= shown["/mnt/raw"][0]
        assert "shared" in shown["/mnt/shared"][1]
        api.set_state(name, "restart", force=True)
    put(api, name, {})
    assert not mounts(pid_of(api, name))
    # What the disks were mounted on is the host's here, and stays as it was.
    assert os.path.ismount(source / "sub")
    assert api.execute(name, "test", "-e", "/mnt/fixed") == 1


def test_limits_of_disks(api: Api, make_instance: Make) -> None:
    def limited(kind: str, unit: str) -> str:
        text = cgroup_file(pid_of(api, name), "blkio", f"blkio.throttle.{kind}_{unit}_device", "io.max").read_text()
        return text.partition(" ")[2].strip()

    name = make_instance(profiles=[], devices={"root": {**ROOT, "limits.read": "30MB", "limits.write": "20iops"}})
    assert (limited("read", "bps"), limited("write", "iops"), limited("write", "bps")) == ("30000000", "20", "")
    put(api, name, {"root": {**ROOT, "limits.read": "30MB", "limits.max": "7MB"}})
    for _ in range(2):
        assert (limited("read", "bps"), limited("write", "bps"), limited("write", "iops")) == ("7000000", "7000000", "")
        api.set_state(name, "restart", force=True)
    put(api, name, {})
    assert (limited("read", "bps"), limited("write", "bps")) == ("", "")


def host_route(text: str, host_name: str) -> bool:
    shown = subprocess.run(["ip", "route", "show", "dev", host_name], check=True, capture_output=True, text=True)
    return text in shown.stdout


def test_nics(api: Api, lxc: Client, daemon: Daemon, make_instance: Make) -> None:
    number = os.getpid() % 100000
    pair, port, routed = f"p2p{number}", f"prt{number}", f"rtd{number}"
    nics = {
        "pair": {"type": "nic", "nictype": "p2p", "name": "pair", "host_name": pair, "mtu": "1400"}
        | {"hwaddr": "00:aa:bb:cc:dd:01", "ipv4.routes": "198.51.100.0/25"},
        "port": {"type": "nic", "nictype": "bridged", "parent": daemon.bridge, "name": "port", "host_name": port}
        | {"security.port_isolation": "true", "boot.priority": "5", "ipv4.routes.external": "203.0.113.7/32"},
        "routed": {"type": "nic", "nictype": "routed", "name": "routed", "host_name": routed}
        | {"ipv4.address": "192.0.2.80", "ipv4.gateway": "none", "ipv4.host_address": "169.254.0.9"}
        | {"ipv4.neighbor_probe": "false"},
    }
    name = make_instance(profiles=[], devices={"root": ROOT})
    put(api, name, nics)
    for _ in range(2):
        links = lxc("exec", name, "--", "ip", "link")
        assert "pair@" in links
        assert "mtu 1400" in next(line for line in links.splitlines() if "pair@" in line)
        assert "00:aa:bb:cc:dd:01" in links
        assert host_route("198.51.100.0/25", pair)
        assert Path(f"/sys/class/net/{port}/brport/isolated").read_text() == "1\n"
        assert host_route("203.0.113.7", daemon.bridge)
        assert host_route("192.0.2.80", routed)
        assert "169.254.0.9" in lxc_host("ip", "-4", "addr", "show", routed)
        assert "default" not in lxc("exec", name, "--", "ip", "-4", "route", "show", "dev", "routed")
        api.set_state(name, "restart", force=True)
    put(api, name, {})
    for link in (pair, port, routed):
        until(lambda link=link: not Path("/sys/class/net", link).exists(), f"{link} is gone")  # type: ignore[misc]
    assert not host_route("203.0.113.7", daemon.bridge)


def lxc_host(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def test_a_proxy_tells_who_calls(api: Api, lxc: Client, daemon: Daemon, make_instance: Make) -> None:
    name = make_instance()
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    door = {"type": "proxy", "listen": f"tcp:127.0.0.1:{port}", "connect": "tcp:127.0.0.1:4321"}
    more = {"proxy_protocol": "true", "security.uid": "1234", "security.gid": "1235"}
    api.call("PATCH", f"/1.0/instances/{name}", {"devices": {"door": {**door, **more}}})
    server = lxc.popen("exec", name, "--", "sh", "-c", "nc -l -p 4321 >/heard")

    def is_heard() -> bool:
        try:
            with socket.create_connection(("127.0.0.1", port), 10) as client:
                client.sendall(b"hello\n")
        except OSError:
            return False
        return lxc.run("exec", name, "--", "grep", "-q", "hello", "/heard").returncode == 0

    try:
        until(is_heard, "the container is called")
    finally:
        server.kill()
        server.communicate()
    first, second = lxc("exec", name, "--", "cat", "/heard").splitlines()[:2]
    assert first.startswith("PROXY TCP4 127.0.0.1 127.0.0.1 ")
    assert (first.split()[5], second) == (str(port), "hello")
    pid = (daemon.state_dir / "devices" / name / "proxy.door").read_text().split()[0]
    # It has these ids on the side that it connects to.
    first_id = int(Path(f"/proc/{pid_of(api, name)}/uid_map").read_text().split()[1])
    status = Path(f"/proc/{pid}/status").read_text()
    assert f"Uid:\t{first_id + 1234}\t{first_id + 1234}" in status
    assert f"Gid:\t{first_id + 1235}\t{first_id + 1235}" in status
