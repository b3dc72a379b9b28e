"""NICs that take an interface of the host, and a daemon that dies while they do: the host gets back what it had."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from harness.api import Api
from harness.daemon import Daemon
from harness.waiting import until

Make = Callable[..., str]

DELAYS_MS = (3, 8, 18)
"""When the daemon is killed, counted from the request."""
MAC, OTHER_MAC = "0a:00:00:00:00:01", "0a:00:00:00:00:02"
NO_NETWORK = {"eth0": {"type": "none"}}


def kill_and_restart(daemon: Daemon, delay_ms: int) -> None:
    time.sleep(delay_ms / 1000)
    daemon.kill()
    daemon.start()


def ip(*argv: str) -> list[dict[str, object]]:
    done = subprocess.run(["ip", "-json", *argv], check=False, capture_output=True, text=True)
    found: list[dict[str, object]] = json.loads(done.stdout) if done.stdout.strip() else []
    return found


def seen_on_host(link: str) -> tuple[object, object] | None:
    """MAC address and MTU of an interface of the host; None where it is not there."""
    found = ip("link", "show", "dev", link)
    return (found[0]["address"], found[0]["mtu"]) if found else None


def seen_inside(api: Api, name: str, link: str) -> tuple[str, int] | None:
    """The same of an interface of a running container."""
    networks = api.get(f"/1.0/instances/{name}/state")["network"]
    return (networks[link]["hwaddr"], networks[link]["mtu"]) if link in networks else None


@pytest.fixture
def card() -> Iterator[str]:
    """An interface of the host to lend."""
    link = f"vlend{os.getpid() % 100000}"
    subprocess.run(["ip", "link", "add", link, "mtu", "1480", "address", MAC, "type", "veth"], check=True)
    yield link
    subprocess.run(["ip", "link", "delete", link], check=True)


def physical(card: str) -> dict[str, dict[str, str]]:
    return {
        "wire": {
            "type": "nic",
            "nictype": "physical",
            "parent": card,
            "name": "eth7",
            "mtu": "1400",
            "hwaddr": OTHER_MAC,
        }
    }


def check_lent(api: Api, daemon: Daemon, name: str, card: str) -> bool:
    """Whether the container has the interface, on which all agree."""
    record = api.get(f"/1.0/instances/{name}")
    if "wire" in record["devices"] and record["status"] == "Running":
        assert seen_on_host(card) is None
        assert seen_inside(api, name, "eth7") == (OTHER_MAC, 1400)
        return True
    assert seen_on_host(card) == (MAC, 1480)
    assert not (daemon.state_dir / "devices" / name).exists()
    return False


@pytest.mark.parametrize("delay_ms", DELAYS_MS)
def test_killed_while_an_interface_is_plugged(
    daemon: Daemon, api: Api, make_instance: Make, card: str, delay_ms: int
) -> None:
    name = make_instance(devices=NO_NETWORK)
    url = f"/1.0/instances/{name}"
    for devices in (physical(card), {}):
        body = {**api.get(url), "devices": NO_NETWORK | devices}
        api.start("PUT", url, body)
        kill_and_restart(daemon, delay_ms)
        check_lent(api, daemon, name, card)
        api.run("PUT", url, {**api.get(url), "devices": NO_NETWORK | devices})
        assert check_lent(api, daemon, name, card) == bool(devices)


@pytest.mark.parametrize("delay_ms", [8, 20, 50])
def test_killed_while_a_container_with_an_interface_starts_or_stops(
    daemon: Daemon, api: Api, make_instance: Make, card: str, delay_ms: int
) -> None:
    name = make_instance(start=False, devices=NO_NETWORK | physical(card))
    url = f"/1.0/instances/{name}"
    api.start("PUT", f"{url}/state", {"action": "start"})
    kill_and_restart(daemon, delay_ms)
    if not check_lent(api, daemon, name, card):
        api.set_state(name, "start")
    assert check_lent(api, daemon, name, card)
    api.start("PUT", f"{url}/state", {"action": "stop", "force": True})
    kill_and_restart(daemon, delay_ms)
    if check_lent(api, daemon, name, card):
        api.set_state(name, "stop", force=True)
    until(lambda: not check_lent(api, daemon, name, card), "the interface is back")


def test_an_interface_that_was_renamed_inside_comes_back(api: Api, make_instance: Make, card: str) -> None:
    name = make_instance(devices=NO_NETWORK | physical(card))
    script = "ip link set eth7 down && ip link set eth7 name mine"
    assert api.execute(name, "sh", "-c", script) == 0
    url = f"/1.0/instances/{name}"
    api.run("PUT", url, {**api.get(url), "devices": NO_NETWORK})
    assert seen_on_host(card) == (MAC, 1480)
    assert seen_inside(api, name, "mine") is None


@pytest.mark.parametrize("delay_ms", DELAYS_MS)
def test_killed_while_a_macvlan_interface_is_plugged(
    daemon: Daemon, api: Api, make_instance: Make, delay_ms: int
) -> None:
    name, link = make_instance(devices=NO_NETWORK), f"vpar{os.getpid() % 100000}"
    url = f"/1.0/instances/{name}"
    subprocess.run(["ip", "link", "add", link, "type", "veth"], check=True)
    before = set(os.listdir("/sys/class/net"))
    try:
        for devices in ({"wire": {"type": "nic", "nictype": "macvlan", "parent": link, "name": "eth7"}}, {}):
            api.start("PUT", url, {**api.get(url), "devices": NO_NETWORK | devices})
            kill_and_restart(daemon, delay_ms)
            recorded = "wire" in api.get(url)["devices"]
            assert (seen_inside(api, name, "eth7") is not None) == recorded
            api.run("PUT", url, {**api.get(url), "devices": NO_NETWORK | devices})
            assert (seen_inside(api, name, "eth7") is not None) == bool(devices)
            assert set(os.listdir("/sys/class/net")) == before
    finally:
        subprocess.run(["ip", "link", "delete", link], check=True)


def test_an_emulator_that_nobody_noted_is_ended(daemon: Daemon, api: Api, make_instance: Make) -> None:
    """A daemon that dies while it starts the emulator of a TPM leaves it running, with the state locked."""
    device = {"type": "tpm", "path": "/dev/tpm0", "pathrm": "/dev/tpmrm0"}
    name = make_instance(start=False, devices={"chip": device})
    place = daemon.state_dir / "devices" / name
    daemon.kill()
    place.mkdir()
    starting = place / "tpm-starting.chip"
    starting.write_text("")
    script = "import time; time.sleep(60)"
    emulator = subprocess.Popen([sys.executable, "-c", script, "--pid", f"file={starting}"])
    another = subprocess.Popen([sys.executable, "-c", script, "--pid", f"file={starting}.other"])
    try:
        daemon.start()
        assert emulator.wait(60) != 0
        assert another.poll() is None
        assert not place.exists()
    finally:
        for process in (emulator, another):
            process.kill()
            process.wait()
