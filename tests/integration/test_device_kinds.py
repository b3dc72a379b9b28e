"""Devices that become others, that two instances want, that a container cannot have: what is kept, refused, ignored."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.api import Api, ApiError
from harness.client import Client
from harness.daemon import Daemon

Make = Callable[..., str]
Devices = dict[str, dict[str, str]]
ROOT = {"type": "disk", "path": "/", "pool": "default"}
P2P = {"type": "nic", "nictype": "p2p", "name": "eth9"}


def put(api: Api, name: str, devices: Devices) -> None:
    """Replace an instance's devices as a client does that has read the whole of it."""
    found = api.get(f"/1.0/instances/{name}")
    kept = {key: found[key] for key in ("architecture", "config", "description", "ephemeral", "profiles")}
    api.run("PUT", f"/1.0/instances/{name}", {**kept, "devices": devices})


def volatile(api: Api, name: str, key: str) -> str:
    text: str = api.get(f"/1.0/instances/{name}")["config"].get(f"volatile.{key}", "")
    return text


def ip(*argv: str) -> str:
    return subprocess.run(["ip", *argv], check=True, capture_output=True, text=True).stdout


def rules(host_name: str) -> list[str]:
    found = subprocess.run(["nft", "list", "ruleset"], check=True, capture_output=True, text=True).stdout
    return [line for line in found.splitlines() if f'"{host_name}"' in line]


@pytest.fixture
def parent() -> Iterator[str]:
    """An interface of the host that forwards."""
    name = f"vpar{os.getpid() % 100000}"
    ip("link", "add", name, "type", "veth")
    ip("link", "set", name, "up")
    Path(f"/proc/sys/net/ipv4/conf/{name}/forwarding").write_text("1")
    yield name
    ip("link", "delete", name)


def test_a_nic_becomes_another(api: Api, daemon: Daemon, make_instance: Make) -> None:
    name = make_instance(profiles=[], devices={"root": ROOT, "nic": P2P})
    first = volatile(api, name, "nic.hwaddr")
    bridged = {"type": "nic", "nictype": "bridged", "parent": daemon.bridge, "name": "eth9"}
    put(api, name, {"root": ROOT, "nic": {**bridged, "security.mac_filtering": "true"}})
    second, host_name = volatile(api, name, "nic.hwaddr"), volatile(api, name, "nic.host_name")
    assert second not in ("", first)
    assert any(second in line for line in rules(host_name))
    # The same bridge, named as a network: it stays the same NIC.
    put(api, name, {"root": ROOT, "nic": {"type": "nic", "network": daemon.bridge, "name": "eth9"}})
    assert volatile(api, name, "nic.hwaddr") == second
    api.set_state(name, "restart", force=True)
    assert volatile(api, name, "nic.hwaddr") == second
    put(api, name, {"root": ROOT})
    assert volatile(api, name, "nic.hwaddr") == ""


def test_a_routed_nic_comes_and_goes(api: Api, lxc: Client, make_instance: Make, parent: str) -> None:
    name = make_instance(profiles=[], devices={"root": ROOT})
    nic = {"type": "nic", "nictype": "routed", "parent": parent, "name": "eth9", "ipv4.address": "192.0.2.77"}
    before = lxc("exec", name, "--", "ip", "-4", "route")
    put(api, name, {"root": ROOT, "nic": {**nic, "ipv4.routes": "198.51.100.0/24", "ipv4.host_table": "100"}})
    plugged = lxc("exec", name, "--", "ip", "-4", "addr", "show", "eth9"), lxc("exec", name, "--", "ip", "-4", "route")
    assert "192.0.2.77/32" in plugged[0]
    assert "default via 169.254.0.1 dev eth9" in plugged[1]
    host_name = volatile(api, name, "nic.host_name")
    for table, destination in (("main", "192.0.2.77"), ("main", "198.51.100.0/24"), ("100", "192.0.2.77")):
        assert destination in ip("-4", "route", "show", "table", table, "dev", host_name)
    assert "192.0.2.77" in ip("neigh", "show", "proxy", "dev", parent)
    assert any("fib saddr" in line for line in rules(host_name))
    api.set_state(name, "restart", force=True)
    # As it was plugged, so liblxc makes it at a start.
    assert "192.0.2.77/32" in lxc("exec", name, "--", "ip", "-4", "addr", "show", "eth9")
    host_name = volatile(api, name, "nic.host_name")
    put(api, name, {"root": ROOT})
    assert lxc("exec", name, "--", "ip", "-4", "route") == before
    assert "192.0.2.77" not in ip("-4", "route", "show", "table", "main")
    assert "192.0.2.77" not in ip("neigh", "show", "proxy", "dev", parent)
    assert not rules(host_name)


def test_an_address_is_routed_to_one(api: Api, make_instance: Make) -> None:
    nic = {"type": "nic", "nictype": "routed", "name": "eth9", "ipv4.address": "192.0.2.78"}
    first = make_instance(profiles=[], devices={"root": ROOT, "nic": nic})
    second = make_instance(start=False, profiles=[], devices={"root": ROOT, "nic": nic})
    with pytest.raises(ApiError, match="The host has a route to"):
        api.set_state(second, "start")
    assert api.get(f"/1.0/instances/{second}")["status"] == "Stopped"
    assert "192.0.2.78" in ip("-4", "route", "show", "dev", volatile(api, first, "nic.host_name"))
    api.set_state(first, "stop", force=True)
    api.set_state(second, "start")


def test_a_container_goes_without_what_only_machines_have(api: Api, make_instance: Make) -> None:
    devices = {
        "card": {"type": "pci", "address": "0000:00:01.0"},
        "share": {"type": "gpu", "gputype": "mdev", "mdev": "i915-GVTg_V5_4"},
    }
    api.call("POST", "/1.0/profiles", {"name": "machines", "config": {}, "devices": devices})
    try:
        name = make_instance(profiles=["machines"], devices={"root": ROOT})
        assert api.get(f"/1.0/instances/{name}")["status"] == "Running"
        for device in devices.values():
            with pytest.raises(ApiError, match="Unsupported device type"):
                put(api, name, {"root": ROOT, "own": device})
        put(api, name, {"root": ROOT, "card": {"type": "none"}})
        api.set_state(name, "stop", force=True)
        api.delete(name)
    finally:
        api.call("DELETE", "/1.0/profiles/machines")


@pytest.mark.parametrize(
    ("device", "reason"),
    [
        ({"type": "disk", "source": "/tmp"}, 'needs a "path"'),
        ({"type": "disk", "source": "cloud-init:config"}, "Config drives are for virtual machines"),
        ({"type": "disk", "source": "ceph:pool/volume", "path": "/mnt"}, "need the client of Ceph"),
        ({"type": "disk", "source": "cephfs:fs/path", "path": "/mnt"}, "need the client of Ceph"),
        ({"type": "nic", "nictype": "bridged", "parent": "none0"}, 'Parent device "none0" doesn\'t exist'),
        ({"type": "nic", "nictype": "macvlan", "parent": "none0"}, 'Parent device "none0" doesn\'t exist'),
        ({"type": "nic", "nictype": "routed", "parent": "none0"}, 'Parent device "none0" doesn\'t exist'),
        ({"type": "nic", "nictype": "physical", "parent": "none0"}, 'Parent device "none0" doesn\'t exist'),
        ({"type": "nic", "nictype": "ipvlan", "parent": "none0"}, "cannot be added while the instance is running"),
        ({"type": "nic", "network": "none0"}, "Network not found"),
        ({"type": "infiniband", "nictype": "physical", "parent": "none0"}, "isn't an InfiniBand interface"),
    ],
)
def test_what_cannot_be_had(api: Api, make_instance: Make, device: dict[str, str], reason: str) -> None:
    name = make_instance(profiles=[], devices={"root": ROOT})
    with pytest.raises(ApiError, match=reason):
        put(api, name, {"root": ROOT, "x": device})
    assert api.get(f"/1.0/instances/{name}")["devices"] == {"root": ROOT}


def test_what_a_profile_cannot_have(api: Api) -> None:
    api.call("POST", "/1.0/profiles", {"name": "places", "config": {}, "devices": {}})
    try:
        for device, reason in (
            ({"type": "nic", "network": "none0"}, 'Failed to load network "none0"'),
            ({"type": "nic", "nictype": "bridged", "parent": "none0", "ipv4.address": "192.0.2.1"}, "unmanaged parent"),
        ):
            with pytest.raises(ApiError, match=reason):
                api.call("PUT", "/1.0/profiles/places", {"config": {}, "description": "", "devices": {"x": device}})
    finally:
        api.call("DELETE", "/1.0/profiles/places")
