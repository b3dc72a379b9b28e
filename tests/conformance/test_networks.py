"""`lxc network` by the unmodified client: what it prints and what it says of mistakes."""

import csv
import io
import ipaddress
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.api import Api
from harness.client import Client
from harness.daemon import Daemon
from harness.waiting import until


@pytest.fixture
def network(lxc: Client, api: Api) -> Iterator[str]:
    """A network by the client, with the name that it has at the end of the test."""
    lxc("network", "create", "tbr0", "ipv4.address=10.88.1.1/24", "ipv6.address=none", "user.colour=blue")
    yield "tbr0"
    for name in ("tbr0", "tbr1"):
        if f"/1.0/networks/{name}" in api.get("/1.0/networks"):
            api.call("DELETE", f"/1.0/networks/{name}")


def rows(lxc: Client) -> dict[str, list[str]]:
    return {row[0]: row[1:] for row in csv.reader(io.StringIO(lxc("network", "list", "--format", "csv")))}


def test_list(lxc: Client, network: str) -> None:
    listed = rows(lxc)
    assert listed[network] == ["bridge", "YES", "10.88.1.1/24", "none", "", "0", "CREATED"]
    assert "lo" not in listed


def test_show(lxc: Client, network: str) -> None:
    assert yaml.safe_load(lxc("network", "show", network)) == {
        "config": {"ipv4.address": "10.88.1.1/24", "ipv6.address": "none", "user.colour": "blue"},
        "description": "",
        "name": network,
        "type": "bridge",
        "used_by": [],
        "managed": True,
        "status": "Created",
        "locations": ["none"],
    }


def test_info(lxc: Client, network: str) -> None:
    shown = yaml.safe_load(lxc("network", "info", network).replace("\t", " "))
    assert (shown["Name"], shown["MTU"], shown["State"], shown["Type"]) == (network, 1500, "up", "broadcast")
    assert shown["Bridge"]["STP"] is False
    assert "10.88.1.1/24 (global)" in lxc("network", "info", network)


def test_leases(lxc: Client, network: str) -> None:
    listed = list(csv.reader(io.StringIO(lxc("network", "list-leases", network, "--format", "csv"))))
    assert listed == [[f"{network}.gw", "", "10.88.1.1", "GATEWAY"]]


def test_keys(lxc: Client, network: str) -> None:
    lxc("network", "set", network, "ipv4.nat=true")
    assert lxc("network", "get", network, "ipv4.nat") == "true\n"
    lxc("network", "unset", network, "ipv4.nat")
    assert lxc("network", "get", network, "ipv4.nat") == ""
    said = lxc.fails("network", "set", network, "bogus=1")
    assert f'Invalid option for network "{network}" option "bogus"' in said


def test_edit(lxc: Client, network: str) -> None:
    text = lxc("network", "show", network).replace('description: ""', "description: of mine")
    lxc("network", "edit", network, stdin=text)
    assert "description: of mine" in lxc("network", "show", network)


def test_rename_and_delete(lxc: Client, network: str) -> None:
    assert "Network tbr0 renamed to tbr1" in lxc("network", "rename", network, "tbr1")
    assert Path("/sys/class/net/tbr1").exists()
    assert "Network tbr1 deleted" in lxc("network", "delete", "tbr1")
    assert "tbr1" not in rows(lxc)


def test_a_used_network_stays(lxc: Client, network: str) -> None:
    lxc("network", "attach-profile", network, "default", "eth9")
    try:
        assert rows(lxc)[network][5] == "1"
        assert "The network is currently in use" in lxc.fails("network", "delete", network)
        assert "Network is currently in use" in lxc.fails("network", "rename", network, "tbr1")
    finally:
        lxc("network", "detach-profile", network, "default", "eth9")


def test_mistakes(lxc: Client, network: str) -> None:
    assert "Network not found" in lxc.fails("network", "show", "no-such")
    assert "Network not found" in lxc.fails("network", "delete", "no-such")
    assert "The network already exists" in lxc.fails("network", "create", network)
    assert "Network interface is too short (minimum 2 characters)" in lxc.fails("network", "create", "x")
    assert 'Parent interface "no-such" not found' in lxc.fails(
        "network", "create", "tbr1", "--type=macvlan", "parent=no-such"
    )


def test_a_guest_is_on_the_network(lxc: Client, instance: str, api: Api) -> None:
    managed = [found for found in api.get("/1.0/networks?recursion=1") if found["managed"]]
    (used,) = (found for found in managed if f"/1.0/instances/{instance}" in found["used_by"])
    listed = list(csv.reader(io.StringIO(lxc("network", "list-leases", used["name"], "--format", "csv"))))
    assert any(row[0] == instance for row in listed)


def addresses(api: Api, name: str) -> list[str]:
    """The global IPv4 addresses of an instance's eth0."""
    network = api.get(f"/1.0/instances/{name}/state")["network"] or {}
    found = network.get("eth0", {}).get("addresses", [])
    return [one["address"] for one in found if one["family"] == "inet" and one["scope"] == "global"]


def test_instances_find_each_other_by_name(
    lxc: Client, api: Api, daemon: Daemon, make_instance: Callable[..., str]
) -> None:
    one, other = make_instance(), make_instance()
    (address,) = until(lambda: addresses(api, other), "an address by DHCP")
    until(lambda: addresses(api, one), "an address by DHCP")
    resolved = lxc("exec", one, "--", "nslookup", f"{other}.lxd")
    assert f"Address: {address}" in resolved.replace("Address 1", "Address")
    assert lxc("exec", one, "--", "ping", "-c", "1", "-W", "20", other)

    def listed() -> dict[str, list[list[str]]]:
        found: dict[str, list[list[str]]] = {}
        for row in csv.reader(io.StringIO(lxc("network", "list-leases", daemon.bridge, "-f", "csv"))):
            found.setdefault(row[0], []).append(row)
        return found

    assert address in [row[2] for row in listed()[other]]
    assert {row[3] for row in listed()[other]} == {"DYNAMIC"}
    api.set_state(other, "stop", force=True)
    api.delete(other)
    assert other not in listed()
    directory = daemon.state_dir / "networks" / daemon.bridge
    assert not list((directory / "dnsmasq.hosts").glob(f"{other}.*"))
    until(lambda: address not in (directory / "dnsmasq.leases").read_text(), "the lease is given back")


def test_a_fixed_address_is_leased(lxc: Client, api: Api, daemon: Daemon, make_instance: Callable[..., str]) -> None:
    subnet = ipaddress.ip_interface(api.get(f"/1.0/networks/{daemon.bridge}")["config"]["ipv4.address"]).network
    device = {"type": "nic", "network": daemon.bridge, "name": "eth0", "ipv4.address": str(subnet[77])}
    name = make_instance(devices={"eth0": device})
    assert until(lambda: addresses(api, name), "an address by DHCP") == [str(subnet[77])]
    leases = csv.reader(io.StringIO(lxc("network", "list-leases", daemon.bridge, "-f", "csv")))
    assert [row[3] for row in leases if row[2] == str(subnet[77])] == ["STATIC"]


def test_allocations(api: Api, daemon: Daemon, instance: str) -> None:
    if daemon.programs.kind == "real":
        pytest.skip("LXD 5.0.2 has no list of allocations")

    def mine() -> list[dict[str, Any]]:
        return [one for one in api.get("/1.0/network-allocations") if one["used_by"].endswith(f"/{instance}")]

    until(lambda: any(one["addresses"].endswith("/32") for one in mine()), "the lease is an allocation")
    config = api.get(f"/1.0/networks/{daemon.bridge}")["config"]
    held = {one["addresses"]: one for one in api.get("/1.0/network-allocations")}
    gateway = held[config["ipv4.address"]]
    assert (gateway["type"], gateway["nat"], gateway["hwaddr"]) == ("network", True, "")
    hwaddr = api.get(f"/1.0/instances/{instance}")["config"]["volatile.eth0.hwaddr"]
    assert hwaddr in {one["hwaddr"] for one in mine()}
    assert {one["type"] for one in mine()} == {"instance"}
    assert len(api.get("/1.0/network-allocations?all-projects=true")) == len(held)
    listed = Client(daemon.programs.lxc, daemon)("network", "list-allocations", "--format", "csv")
    assert f"{config['ipv4.address']},NETWORK,YES" in listed
