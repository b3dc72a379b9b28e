"""Devices of containers on a real kernel: put into running ones and taken out again, and there after a start."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.api import Api
from harness.client import Client
from harness.daemon import Daemon
from harness.waiting import until

Make = Callable[..., str]


def add(lxc: Client, name: str, device: str, *args: str | Path) -> None:
    lxc("config", "device", "add", name, device, *map(str, args))


def run(lxc: Client, name: str, *argv: str) -> str:
    return lxc("exec", name, "--", *argv).strip()


def test_a_directory_comes_and_goes(lxc: Client, make_instance: Make, tmp_path: Path) -> None:
    name = make_instance()
    tmp_path.chmod(0o755)
    (tmp_path / "file").write_text("hello")
    add(lxc, name, "data", "disk", f"source={tmp_path}", "path=/srv/data", "readonly=true")
    assert run(lxc, name, "cat", "/srv/data/file") == "hello"
    assert "Read-only" in lxc.fails("exec", name, "--", "touch", "/srv/data/other")
    lxc("restart", "--force", name)
    assert run(lxc, name, "cat", "/srv/data/file") == "hello"
    lxc("config", "device", "remove", name, "data")
    assert lxc.fails("exec", name, "--", "ls", "/srv/data")


def test_a_shifted_directory_has_its_owners_inside(lxc: Client, make_instance: Make, daemon: Daemon) -> None:
    source = daemon.state_dir / "storage-pools" / "shifted-source"
    source.mkdir(mode=0o755)
    try:
        (source / "file").touch()
        os.chown(source / "file", 123, 456)
        name = make_instance()
        add(lxc, name, "data", "disk", f"source={source}", "path=/mnt")
        assert run(lxc, name, "stat", "-c", "%u:%g", "/mnt/file") == "65534:65534"
        lxc("config", "device", "set", name, "data", "shift", "true")
        assert run(lxc, name, "stat", "-c", "%u:%g", "/mnt/file") == "123:456"
        lxc("restart", "--force", name)
        assert run(lxc, name, "stat", "-c", "%u:%g", "/mnt/file") == "123:456"
        lxc("stop", "--force", name)
    finally:
        (source / "file").unlink()
        source.rmdir()


def test_a_custom_volume_is_owned_by_its_containers_root(lxc: Client, make_instance: Make) -> None:
    pool = lxc("profile", "device", "get", "default", "root", "pool").strip()
    lxc("storage", "volume", "create", pool, "attached")
    try:
        name = make_instance()
        add(lxc, name, "data", "disk", f"pool={pool}", "source=attached", "path=/mnt")
        run(lxc, name, "touch", "/mnt/made")
        assert run(lxc, name, "stat", "-c", "%u", "/mnt/made") == "0"
        lxc("config", "device", "remove", name, "data")
        assert lxc.fails("exec", name, "--", "ls", "/mnt/made")
    finally:
        lxc("storage", "volume", "delete", pool, "attached")


@pytest.mark.parametrize("kind", ["unix-char", "unix-block"])
def test_a_device_file_comes_and_goes(lxc: Client, daemon: Daemon, make_instance: Make, kind: str) -> None:
    name = make_instance()
    add(lxc, name, "node", kind, "path=/srv/node", "major=1", "minor=3", "mode=640", "uid=7")
    word = "block" if kind == "unix-block" else "character"
    assert run(lxc, name, "stat", "-c", "%F %a %u %t %T", "/srv/node") == f"{word} special file 640 7 1 3"
    assert (daemon.state_dir / "devices" / name / "unix.node.srv-node").exists()
    lxc("config", "device", "remove", name, "node")
    assert lxc.fails("exec", name, "--", "ls", "/srv/node")
    assert not (daemon.state_dir / "devices" / name).exists()


def test_a_device_file_that_appears_later(lxc: Client, make_instance: Make) -> None:
    source = Path("/dev") / f"corral-test-{os.getpid()}"
    name = make_instance()
    add(lxc, name, "node", "unix-char", f"source={source}", "path=/srv/node", "required=false")

    def is_there() -> bool:
        return lxc.run("exec", name, "--", "test", "-c", "/srv/node").returncode == 0

    assert not is_there()
    os.mknod(source, 0o600 | 0o020000, os.makedev(1, 3))
    try:
        until(is_there, "the device in the container")
    finally:
        source.unlink()
    until(lambda: not is_there(), "the device out of the container")


def test_privileged_containers_may_use_their_devices_only(lxc: Client, make_instance: Make) -> None:
    name = make_instance(config={"security.privileged": "true"})
    add(lxc, name, "kmsg", "unix-char", "source=/dev/kmsg", "path=/srv/kmsg")
    run(lxc, name, "dd", "if=/dev/null", "of=/srv/kmsg")
    lxc("config", "device", "remove", name, "kmsg")


def test_absent_hardware_is_told(lxc: Client, make_instance: Make) -> None:
    name = make_instance()
    words = ("config", "device", "add", name, "x")
    assert "Failed to detect requested GPU device" in lxc.fails(*words, "gpu", "id=77")
    assert "Required USB device not found" in lxc.fails(*words, "usb", "vendorid=ffff", "required=true")
    assert "Required Unix Hotplug" in lxc.fails(*words, "unix-hotplug", "vendorid=ffff", "required=true")
    assert "TPM" in lxc.fails(*words, "tpm", "path=/dev/tpm0", "pathrm=/dev/tpmrm0").upper()
    add(lxc, name, "x", "usb", "vendorid=ffff")
    lxc("config", "device", "remove", name, "x")


def test_what_nvidia_lacks_is_told(lxc: Client, make_instance: Make) -> None:
    name = make_instance(start=False, config={"nvidia.runtime": "true"})
    assert "NVIDIA" in lxc.fails("start", name)
    lxc("config", "unset", name, "nvidia.runtime")
    assert "NVIDIA" in lxc.fails("config", "set", name, "nvidia.runtime", "true")
    add(lxc, name, "x", "gpu", "gputype=mig", "mig.gi=1", "mig.ci=0")
    assert "nvidia.runtime must be set" in lxc.fails("start", name)


def test_hooks_of_the_user_find_programs(lxc: Client, make_instance: Make, tmp_path: Path) -> None:
    hook, told = tmp_path / "hook", tmp_path / "told"
    hook.write_text(f"#!/bin/sh\nuname -s > {told}\n")
    hook.chmod(0o755)
    make_instance(config={"raw.lxc": f"lxc.hook.pre-start={hook}"})
    assert told.read_text() == "Linux\n"


def test_nothing_in_the_place_of_an_inherited_device(lxc: Client, make_instance: Make) -> None:
    name = make_instance(devices={"eth0": {"type": "none"}})
    assert "eth0" not in run(lxc, name, "ip", "link")
    lxc("config", "device", "remove", name, "eth0")
    assert "eth0" in run(lxc, name, "ip", "link")
    add(lxc, name, "eth0", "none")
    assert "eth0" not in run(lxc, name, "ip", "link")


def test_a_plugged_pair_is_gone_once_its_container_stopped(lxc: Client, daemon: Daemon, make_instance: Make) -> None:
    name = make_instance()
    links = [f"vgone{os.getpid() % 10000}n{number}" for number in range(2)]
    add(lxc, name, "eth7", "nic", "nictype=p2p", f"host_name={links[0]}")
    # One name cannot be on a network twice.
    add(lxc, name, "eth0", "none")
    add(lxc, name, "eth8", "nic", "nictype=bridged", f"parent={daemon.bridge}", f"host_name={links[1]}")
    lxc("stop", "--force", name)
    assert not any(Path("/sys/class/net", link).exists() for link in links)


def test_rates_of_a_pair_change_live(lxc: Client, make_instance: Make) -> None:
    name, host_name = make_instance(), f"vtest{os.getpid() % 100000}"
    add(lxc, name, "eth1", "nic", "nictype=p2p", f"host_name={host_name}", "limits.ingress=3Mbit")

    def shown(*argv: str) -> str:
        return subprocess.run(["tc", *argv], check=True, capture_output=True, text=True).stdout

    assert "3Mbit" in shown("class", "show", "dev", host_name)
    lxc("config", "device", "set", name, "eth1", "limits.ingress=5Mbit", "ipv4.routes=192.0.2.77/32")
    assert "5Mbit" in shown("class", "show", "dev", host_name)
    assert "192.0.2.77" in subprocess.run(["ip", "route"], check=True, capture_output=True, text=True).stdout
    lxc("config", "device", "set", name, "eth1", "limits.priority=7")
    assert f'device "{host_name}"' in rules()
    assert "meta priority set 0:7" in rules()
    lxc("config", "device", "remove", name, "eth1")
    assert "meta priority" not in rules()
    assert not Path("/sys/class/net", host_name).exists()


@contextlib.contextmanager
def echo(listener: socket.socket) -> Iterator[None]:
    """Answer every connection with what it sends, as long as the block lasts."""

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                with client:
                    while data := client.recv(65536):
                        client.sendall(data)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


def test_a_proxy_to_the_host(lxc: Client, make_instance: Make, tmp_path: Path) -> None:
    name, path = make_instance(), tmp_path / "echo.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    tmp_path.chmod(0o755)
    with echo(listener):
        words = ("proxy", "bind=instance", "listen=tcp:127.0.0.1:4321", f"connect=unix:{path}")
        add(lxc, name, "door", *words)
        assert run(lxc, name, "sh", "-c", "echo hello | nc 127.0.0.1 4321") == "hello"
        lxc("restart", "--force", name)
        assert run(lxc, name, "sh", "-c", "echo again | nc 127.0.0.1 4321") == "again"
        lxc("config", "device", "remove", name, "door")
        assert lxc.run("exec", name, "--", "sh", "-c", "echo no | nc 127.0.0.1 4321").stdout == b""


def test_a_proxy_to_the_container(lxc: Client, make_instance: Make, tmp_path: Path) -> None:
    name, path = make_instance(), tmp_path / "door.sock"
    add(lxc, name, "door", "proxy", f"listen=unix:{path}", "connect=tcp:127.0.0.1:4321", "mode=0600")
    assert path.stat().st_mode & 0o777 == 0o600
    server = lxc.popen("exec", name, "--", "nc", "-l", "-p", "4321", "-e", "cat")
    try:

        def answer() -> bytes:
            with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError):
                client.settimeout(30)
                client.connect(str(path))
                client.sendall(b"x" * 100_000)
                client.shutdown(socket.SHUT_WR)
                return b"".join(iter(lambda: client.recv(65536), b""))
            return b""

        assert until(answer, "an answer through the proxy") == b"x" * 100_000
    finally:
        server.kill()
        server.communicate()
    lxc("stop", "--force", name)
    assert not path.exists()


_ECHO = """
import os, socket, sys
os.umask(0)
listener = socket.socket(socket.AF_UNIX)
listener.bind("echo.sock")
listener.listen()
print("ready", flush=True)
client, _ = listener.accept()
while data := client.recv(65536):
    client.sendall(data)
"""


def test_a_proxy_to_a_socket_file_in_the_container(lxc: Client, api: Api, make_instance: Make, tmp_path: Path) -> None:
    name, path = make_instance(), tmp_path / "door.sock"
    pid = api.get(f"/1.0/instances/{name}/state")["pid"]
    add(lxc, name, "door", "proxy", f"listen=unix:{path}", "connect=unix:/tmp/echo.sock")
    run(lxc, name, "mkdir", "-p", "/tmp")
    entered = ["nsenter", "-n", "-U", "-t", str(pid), "--", "/usr/bin/python3", "-IS", "-c", _ECHO]
    with subprocess.Popen(entered, cwd=f"/proc/{pid}/root/tmp", stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == b"ready\n"
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(30)
                client.connect(str(path))
                client.sendall(b"hello")
                assert client.recv(100) == b"hello"
        finally:
            server.kill()


def rules() -> str:
    return subprocess.run(["nft", "list", "ruleset"], check=True, capture_output=True, text=True).stdout


def test_filters_come_live_and_go_with_the_run(lxc: Client, make_instance: Make) -> None:
    name = make_instance()
    lxc("config", "device", "override", name, "eth0", "security.mac_filtering=true")
    assert f"chain in.{name}.eth0" in rules()
    assert f"chain fwd.{name}.eth0" in rules()
    lxc("config", "device", "set", name, "eth0", "security.mac_filtering=false")
    assert f"chain in.{name}.eth0" not in rules()
    lxc("config", "device", "set", name, "eth0", "security.mac_filtering=true")
    lxc("stop", "--force", name)
    assert f"chain in.{name}.eth0" not in rules()


def test_an_interface_is_lent_and_given_back(lxc: Client, make_instance: Make) -> None:
    name, link = make_instance(), f"vlend{os.getpid() % 100000}"
    subprocess.run(["ip", "link", "add", link, "address", "0a:00:00:00:00:01", "type", "dummy"], check=False)
    if not Path("/sys/class/net", link).exists():
        subprocess.run(["ip", "link", "add", link, "type", "ifb"], check=True)
    try:
        before = Path("/sys/class/net", link, "mtu").read_text()
        add(lxc, name, "eth9", "nic", "nictype=physical", f"parent={link}", "name=eth9", "mtu=1400")
        assert not Path("/sys/class/net", link).exists()
        assert "mtu 1400" in run(lxc, name, "ip", "link", "show", "eth9")
        lxc("stop", "--force", name)
        assert Path("/sys/class/net", link, "mtu").read_text() == before
    finally:
        subprocess.run(["ip", "link", "delete", link], check=True)


def test_a_macvlan_interface_comes_and_goes(lxc: Client, make_instance: Make) -> None:
    name, link = make_instance(), f"vpar{os.getpid() % 100000}"
    subprocess.run(["ip", "link", "add", link, "type", "veth"], check=True)
    try:
        add(lxc, name, "eth9", "nic", "nictype=macvlan", f"parent={link}", "name=eth9")
        assert "eth9" in run(lxc, name, "ip", "link")
        lxc("restart", "--force", name)
        assert "eth9" in run(lxc, name, "ip", "link")
        lxc("config", "device", "remove", name, "eth9")
        assert "eth9" not in run(lxc, name, "ip", "link")
        lxc("stop", "--force", name)
    finally:
        subprocess.run(["ip", "link", "delete", link], check=True)


def test_a_routed_address_is_known_to_the_host(lxc: Client, make_instance: Make) -> None:
    name = make_instance(start=False)
    lxc("config", "device", "add", name, "eth9", "nic", "nictype=routed", "ipv4.address=192.0.2.99", "name=eth9")
    lxc("start", name)
    assert "192.0.2.99" in subprocess.run(["ip", "-4", "route"], check=True, capture_output=True, text=True).stdout
    assert "169.254.0.1 dev eth9" in run(lxc, name, "ip", "-4", "route")
    lxc("stop", "--force", name)
    assert "192.0.2.99" not in subprocess.run(["ip", "-4", "route"], check=True, capture_output=True, text=True).stdout
    assert f"{name}.eth9" not in rules()


def read_limits(pid: int) -> str:
    """What the control group of a container limits of reading."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        # The container's own group may be one level below the one that is limited.
        for directory in (path, os.path.dirname(path)):
            for root, file in (("blkio", "blkio.throttle.read_bps_device"), ("", "io.max")):
                found = Path("/sys/fs/cgroup", root, directory.lstrip("/"), file)
                if (root in controllers.split(",") or not controllers) and found.exists() and found.read_text():
                    return found.read_text()
    return ""


def test_reading_is_limited_live(lxc: Client, api: Api, make_instance: Make) -> None:
    name = make_instance()
    pid = api.get(f"/1.0/instances/{name}/state")["pid"]
    lxc("config", "device", "override", name, "root", "limits.read=10MB")
    assert "10000000" in read_limits(pid)
    lxc("config", "device", "unset", name, "root", "limits.read")
    assert "10000000" not in read_limits(pid)
    lxc("config", "device", "set", name, "root", "limits.read=20MB")
    lxc("restart", "--force", name)
    assert "20000000" in read_limits(api.get(f"/1.0/instances/{name}/state")["pid"])


def test_limits_of_several_disks_on_one_device(lxc: Client, api: Api, make_instance: Make, daemon: Daemon) -> None:
    """A block device has one limit: the mean of what its disks ask for, live and at a start."""
    lxc("storage", "volume", "create", "default", "vol")
    name = make_instance()
    pid = api.get(f"/1.0/instances/{name}/state")["pid"]
    lxc("config", "device", "override", name, "root", "limits.read=10MB")
    words = ("pool=default", "source=vol", "path=/mnt/vol")
    add(lxc, name, "vol", "disk", *words, "limits.read=20MB")
    assert "15000000" in read_limits(pid)
    lxc("config", "device", "set", name, "vol", "limits.read=30MB")
    assert "20000000" in read_limits(pid)
    lxc("restart", "--force", name)
    pid = api.get(f"/1.0/instances/{name}/state")["pid"]
    assert "20000000" in read_limits(pid)
    # What a disk asks for goes with it; one without a limit changes nothing.
    lxc("config", "device", "remove", name, "vol")
    assert "10000000" in read_limits(pid)
    add(lxc, name, "vol", "disk", *words)
    assert "10000000" in read_limits(pid)
    lxc("config", "device", "unset", name, "root", "limits.read")
    assert not re.search(r"[1-9]0000000", read_limits(pid))
    lxc("delete", "--force", name)
    lxc("storage", "volume", "delete", "default", "vol")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_connections_of_proxies_outlive_the_daemon(
    lxc: Client, daemon: Daemon, make_instance: Make, tmp_path: Path, number: signal.Signals
) -> None:
    name, path = make_instance(), tmp_path / "echo.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    tmp_path.chmod(0o755)
    with echo(listener):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        # From the host into the container, and from there to the host again.
        add(lxc, name, "in", "proxy", f"listen=tcp:127.0.0.1:{port}", "connect=tcp:127.0.0.1:4321")
        add(lxc, name, "out", "proxy", "bind=instance", "listen=tcp:127.0.0.1:4321", f"connect=unix:{path}")
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:

            def answered(text: bytes) -> bool:
                client.sendall(text)
                return client.recv(len(text), socket.MSG_WAITALL) == text

            assert answered(b"before")
            daemon.kill(number)
            assert answered(b"while no daemon runs")
            daemon.start()
            assert answered(b"after")
        with socket.create_connection(("127.0.0.1", port), timeout=20) as another:
            another.sendall(b"new")
            assert another.recv(3, socket.MSG_WAITALL) == b"new"
        lxc("config", "device", "remove", name, "in")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=20)
