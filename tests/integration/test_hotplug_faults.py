"""Devices of running containers and faults: record and container agree afterwards, and nothing else is left."""

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.api import Api, ApiError
from harness.cgroups import cgroup_file
from harness.daemon import Daemon

Make = Callable[..., str]

DELAYS_MS = (0, 4, 9, 16, 26)
"""When the daemon is killed, counted from the request."""


def devices_of(directory: Path) -> dict[str, dict[str, str]]:
    """A device of each kind that is set up in a way of its own."""
    (directory / "shown").mkdir(exist_ok=True)
    (directory / "shown" / "file").touch()
    return {
        "disk": {"type": "disk", "source": str(directory / "shown"), "path": "/mnt/shown"},
        "door": {"type": "proxy", "listen": f"unix:{directory}/door", "connect": "tcp:127.0.0.1:4321"},
        "node": {"type": "unix-char", "source": "/dev/null", "path": "/dev/extra"},
        "wire": {"type": "nic", "nictype": "p2p", "name": "eth7"},
    }


def kill_and_restart(daemon: Daemon, delay_ms: int) -> None:
    """Kill the daemon so long after now, and start it again."""
    time.sleep(delay_ms / 1000)
    daemon.kill()
    daemon.start()


def is_answered(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
        return True


def present(api: Api, name: str, directory: Path) -> set[str]:
    """Which of the devices the container and the host have, whatever the record says."""
    tests = {"disk": "-e /mnt/shown/file", "node": "-c /dev/extra", "wire": "-e /sys/class/net/eth7"}
    found = {device for device, test in tests.items() if api.execute(name, "sh", "-c", f"test {test}") == 0}
    return found | ({"door"} if is_answered(directory / "door") else set())


def veths() -> set[str]:
    return {path.name for path in Path("/sys/class/net").glob("veth*")}


NO_NETWORK = {"eth0": {"type": "none"}}


class Agreement:
    """Sees whether record, container and host agree on the devices of one container."""

    def __init__(self, api: Api, daemon: Daemon, name: str, directory: Path) -> None:
        self.url = f"/1.0/instances/{name}"
        self._api, self._name, self._directory = api, name, directory
        self._place = daemon.state_dir / "devices" / name
        self._veths = veths()

    def put(self, devices: dict[str, dict[str, str]]) -> str:
        """Begin to give the container these devices; returns the operation."""
        return self._api.start("PUT", self.url, {**self._api.get(self.url), "devices": NO_NETWORK | devices})

    def check(self) -> set[str]:
        """The devices, which all agree on."""
        record = self._api.get(self.url)
        recorded = set(record["devices"]) - set(NO_NETWORK)
        assert present(self._api, self._name, self._directory) == recorded
        wire = {record["config"]["volatile.wire.host_name"]} if "wire" in recorded else set()
        assert veths() == self._veths | wire
        assert {path.name.split(".")[1] for path in self._place.glob("*.*")} == recorded - {"wire"}
        assert not (self._place / "changing").exists()
        return recorded


@pytest.fixture
def agreement(api: Api, daemon: Daemon, make_instance: Make, tmp_path: Path) -> Agreement:
    tmp_path.chmod(0o755)
    return Agreement(api, daemon, make_instance(devices=NO_NETWORK), tmp_path)


@pytest.mark.parametrize("delay_ms", DELAYS_MS)
def test_killed_while_devices_come_and_go(
    daemon: Daemon, api: Api, agreement: Agreement, tmp_path: Path, delay_ms: int
) -> None:
    devices = devices_of(tmp_path)
    for wanted in (devices, {}):
        agreement.put(wanted)
        kill_and_restart(daemon, delay_ms)
        assert agreement.check() in (set(), set(devices))
        api.wait(agreement.put(wanted))
        assert agreement.check() == set(wanted)


def test_killed_while_a_profile_changes(daemon: Daemon, api: Api, agreement: Agreement, tmp_path: Path) -> None:
    """From the moment that the profile has a device the containers get it, whoever dies."""
    devices, profile = devices_of(tmp_path), api.get("/1.0/profiles/default")
    try:
        for delay_ms in (2, 6, 12):
            record = api.get(agreement.url)
            body = {**profile, "devices": profile["devices"] | devices}
            killer = threading.Thread(target=kill_and_restart, args=(daemon, delay_ms))
            killer.start()
            with contextlib.suppress(OSError, http.client.HTTPException):
                api.call("PUT", "/1.0/profiles/default", body)
            killer.join()
            expanded = set(api.get(agreement.url)["expanded_devices"])
            assert present(api, record["name"], tmp_path) == expanded & set(devices)
            api.call("PUT", "/1.0/profiles/default", profile)
            assert agreement.check() == set()
    finally:
        api.call("PUT", "/1.0/profiles/default", profile)


def test_a_device_that_cannot_become_what_is_asked_stays(api: Api, agreement: Agreement, tmp_path: Path) -> None:
    devices = devices_of(tmp_path)
    api.wait(agreement.put(devices))
    mac = api.get(agreement.url)["config"]["volatile.wire.hwaddr"]
    for device, key, value in (
        ("disk", "raw.mount.options", "bogus"),
        ("disk", "source", "/nowhere"),
        ("wire", "hwaddr", "01:00:5e:00:00:01"),
        ("wire", "name", "lo"),
        ("node", "source", "/dev/nothing"),
        ("door", "listen", "unix:/nowhere/door"),
    ):
        # All of them go and come again, but for the one that fails.
        changed = {**devices, device: {**devices[device], key: value}}
        others = {name: {**config, "user.round": value} for name, config in changed.items()}
        with pytest.raises(ApiError, match=device):
            api.wait(agreement.put(others))
        assert agreement.check() == set(devices), (device, key)
    assert api.get(agreement.url)["config"]["volatile.wire.hwaddr"] == mac
    api.wait(agreement.put({}))
    assert agreement.check() == set()


def test_a_running_container_stays_what_it_is(api: Api, agreement: Agreement, tmp_path: Path) -> None:
    """Keys of the id map count from the next start on: devices that come before it belong to the users of now."""
    devices = devices_of(tmp_path)
    api.call("PATCH", agreement.url, {"config": {"security.privileged": "true"}})
    api.wait(agreement.put(devices))
    assert agreement.check() == set(devices)
    assert api.execute(agreement.url.rpartition("/")[2], "sh", "-c", "test $(stat -c %u /dev/extra) = 0") == 0


def test_limits_that_the_kernel_refuses(api: Api, agreement: Agreement) -> None:
    """Nothing of a refused change stays: neither in the record nor in the kernel."""
    good = {"limits.processes": "100", "limits.memory": "64MiB", "limits.cpu.allowance": "25ms/100ms"}
    api.call("PATCH", agreement.url, {"config": good})
    name = agreement.url.rpartition("/")[2]
    for bad in (
        {"limits.processes": "99999999999999999", "limits.memory": "128MiB"},
        {"limits.memory": "1", "limits.processes": "50"},
        {"limits.cpu.allowance": "25ms/0ms", "limits.memory": "128MiB"},
    ):
        with pytest.raises(ApiError):
            api.call("PATCH", agreement.url, {"config": bad})
        config = api.get(agreement.url)["config"]
        assert {key: config[key] for key in good} == good
        pid = api.get(f"{agreement.url}/state")["pid"]
        assert cgroup_file(pid, "pids", "pids.max", "pids.max").read_text().strip() == "100"
        assert cgroup_file(pid, "memory", "memory.limit_in_bytes", "memory.max").read_text().strip() == str(64 << 20)
        quota = cgroup_file(pid, "cpu", "cpu.cfs_quota_us", "cpu.max").read_text().split()[0]
        assert quota == "25000"
    assert api.execute(name, "true") == 0


def test_cpus_that_do_not_exist_are_left_out(api: Api, agreement: Agreement) -> None:
    api.call("PATCH", agreement.url, {"config": {"limits.cpu": "0,4000"}})
    pid = api.get(f"{agreement.url}/state")["pid"]
    cpus = cgroup_file(pid, "cpuset", "cpuset.cpus", "cpuset.cpus")
    assert cpus.read_text().strip() == "0"
    name = agreement.url.rpartition("/")[2]
    for wish in ("0,4000", "4000-4001"):
        api.call("PATCH", agreement.url, {"config": {"limits.cpu": wish}})
        api.set_state(name, "restart", force=True)
        assert api.execute(name, "true") == 0
