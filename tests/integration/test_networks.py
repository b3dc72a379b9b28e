"""Managed bridges on the real kernel: addresses, names, NAT, other people's firewalls, and what is repaired."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from corral.product import LXD
from corral.server.context import Context, Member
from corral.server.db.database import Database
from corral.server.events.bus import Events
from corral.server.locks import Locks
from corral.server.networks import reservations
from corral.server.networks.model import Network, NetworkType
from corral.server.networks.reservations import Reservation
from harness.api import Api, ApiError
from harness.daemon import Daemon
from harness.programs import Programs
from harness.waiting import until

MAC = "00:16:3e:11:22:33"
CONFIG = {"ipv4.address": "10.77.1.1/24", "ipv4.nat": "true", "ipv6.address": "fd42:77:1::1/64", "ipv6.nat": "true"}
OUTSIDE = "192.0.2.1"


def sh(*argv: str, ok: bool = True) -> str:
    """Run a program and return what it says."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0 or not ok, f"{argv}: {done.stderr}"
    return done.stdout + done.stderr


class Guest:
    """A process in a network namespace of its own, with an interface `eth0` whose other end is here."""

    def __init__(self, interface: str, mac: str = MAC) -> None:
        self.interface = interface
        self._holder = subprocess.Popen(["unshare", "-n", "sleep", "infinity"])
        own = os.readlink("/proc/self/ns/net")
        until(lambda: os.readlink(f"/proc/{self._holder.pid}/ns/net") != own, "the guest has a namespace")
        sh("ip", "link", "add", interface, "type", "veth", "peer", "name", "guest", "address", mac)
        sh("ip", "link", "set", "guest", "netns", str(self._holder.pid))
        self.run("ip", "link", "set", "guest", "name", "eth0")
        self.run("ip", "link", "set", "eth0", "up")

    def run(self, *argv: str, ok: bool = True) -> str:
        """Run a program in the guest."""
        return sh("nsenter", "-n", "-t", str(self._holder.pid), *argv, ok=ok)

    def close(self) -> None:
        """End it; its interface goes with its namespace."""
        self._holder.kill()
        self._holder.wait(60)
        sh("ip", "link", "delete", self.interface, ok=False)

    def ask_for_address(self, tmp_path: Path, hostname: str = "guest") -> str:
        """Get an address by DHCP and configure it with its router; returns it."""
        script = tmp_path / "udhcpc"
        script.write_text(
            '#!/bin/sh\n[ "$1" = bound ] || exit 0\n'
            'ip addr replace "$ip/$mask" dev "$interface"\nip route replace default via "$router"\n'
        )
        script.chmod(0o755)
        self.run("busybox", "udhcpc", "-i", "eth0", "-n", "-q", "-f", "-x", f"hostname:{hostname}", "-s", str(script))
        shown = self.run("ip", "-4", "-o", "addr", "show", "dev", "eth0")
        return shown.split()[3].partition("/")[0]

    def can_reach(self, address: str) -> bool:
        """Whether an address answers."""
        return "bytes from" in self.run("busybox", "ping", "-c", "1", "-W", "1", address, ok=False)


@pytest.fixture
def repairs(peer: Programs) -> None:
    """For tests of what the real LXD does not do: it repairs nothing."""
    if peer.kind == "real":
        pytest.skip("the real LXD repairs nothing")


@pytest.fixture
def calls(bare: Daemon) -> Iterator[Api]:
    with bare.api() as api:
        yield api


@pytest.fixture
def bridge(bare: Daemon, calls: Api) -> Iterator[str]:
    """A managed bridge."""
    calls.call("POST", "/1.0/networks", {"name": bare.bridge, "config": CONFIG})
    yield bare.bridge
    calls.call("DELETE", f"/1.0/networks/{bare.bridge}")


@pytest.fixture
def guest(bridge: str) -> Iterator[Guest]:
    """A guest on the bridge."""
    made = Guest("vguest0")
    sh("ip", "link", "set", made.interface, "master", bridge, "up")
    yield made
    made.close()


@pytest.fixture
def outside() -> Iterator[Guest]:
    """A machine beyond this host that knows no way back to the bridge's subnet."""
    made = Guest("vuplink0", "00:16:3e:aa:bb:cc")
    sh("ip", "addr", "add", "192.0.2.2/24", "dev", made.interface)
    sh("ip", "link", "set", made.interface, "up")
    made.run("ip", "addr", "add", f"{OUTSIDE}/24", "dev", "eth0")
    yield made
    made.close()


def dnsmasq_pid(daemon: Daemon) -> int:
    record = daemon.state_dir / "networks" / daemon.bridge / "dnsmasq.pid"
    with contextlib.suppress(FileNotFoundError):
        return int(yaml.safe_load(record.read_text())["pid"])
    return 0


def resolve(guest: Guest, name: str) -> str:
    return guest.run("busybox", "nslookup", name, "10.77.1.1", ok=False)


def chains() -> set[str]:
    shown = sh("nft", "list", "ruleset")
    return {line.split()[1] for line in shown.splitlines() if line.strip().startswith("chain ")}


def wanted_chains(bridge: str) -> set[str]:
    return {f"{prefix}.{bridge}" for prefix in ("fwd", "in", "out", "pstrt")}


def test_a_guest_gets_an_address_and_the_gateway_has_a_name(guest: Guest, tmp_path: Path, bridge: str) -> None:
    address = guest.ask_for_address(tmp_path)
    assert address.startswith("10.77.1.")
    until(lambda: guest.can_reach("10.77.1.1"), "the gateway answers")
    assert "Address: 10.77.1.1" in resolve(guest, "_gateway.lxd")


def test_names_of_clients_resolve_where_they_may_give_them(
    calls: Api, guest: Guest, tmp_path: Path, bridge: str
) -> None:
    calls.call("PUT", f"/1.0/networks/{bridge}", {"config": {**CONFIG, "dns.mode": "dynamic", "dns.domain": "corp"}})
    address = guest.ask_for_address(tmp_path, "named")
    until(lambda: address in resolve(guest, "named.corp"), "the guest's name resolves")


async def test_reserved_addresses_and_names(bare: Daemon, guest: Guest, tmp_path: Path, bridge: str) -> None:
    member = Member(LXD, "here", bare.state_dir, bare.state_dir / "logs", bare.state_dir / "cache")
    context = Context(Database(":memory:"), Events(), Locks(), member)
    network = Network(1, "default", bridge, NetworkType.BRIDGE, config=CONFIG)
    await reservations.reserve(context, network, Reservation("c1", "eth0", MAC, "c1", ipv4="10.77.1.50"))
    until(lambda: guest.ask_for_address(tmp_path) == "10.77.1.50", "the reserved address is leased", 10)
    assert "10.77.1.50" in resolve(guest, "c1.lxd")
    leases = bare.state_dir / "networks" / bridge / "dnsmasq.leases"
    until(lambda: "10.77.1.50" in leases.read_text(), "the lease is written")
    await reservations.release(context, network, "c1", "eth0")
    until(lambda: "10.77.1.50" not in leases.read_text(), "the lease is given back")
    assert not list((bare.state_dir / "networks" / bridge / "dnsmasq.hosts").iterdir())


def test_nat_leads_out(guest: Guest, outside: Guest, tmp_path: Path) -> None:
    guest.ask_for_address(tmp_path)
    until(lambda: guest.can_reach(OUTSIDE), "the outside answers")


def test_ipv6_is_advertised(guest: Guest) -> None:
    until(lambda: "fd42:77:1:" in guest.run("ip", "-6", "addr", "show", "dev", "eth0"), "an address by SLAAC", 15)


@pytest.mark.usefixtures("repairs")
def test_flushed_rules_come_back(guest: Guest, outside: Guest, tmp_path: Path, bridge: str) -> None:
    guest.ask_for_address(tmp_path)
    sh("nft", "flush", "ruleset")
    until(lambda: wanted_chains(bridge) <= chains(), "the rules are back", 15)
    until(lambda: guest.can_reach(OUTSIDE), "the outside answers")


@pytest.mark.usefixtures("repairs")
def test_docker_does_not_cut_the_bridge_off(
    calls: Api, bare: Daemon, guest: Guest, outside: Guest, tmp_path: Path, bridge: str
) -> None:
    guest.ask_for_address(tmp_path)
    mark = f"generated for LXD network {bridge}"
    try:
        sh("iptables", "-P", "FORWARD", "DROP")
        sh("iptables", "-N", "DOCKER-USER")
        sh("iptables", "-I", "FORWARD", "-j", "DOCKER-USER")
        sh("iptables", "-P", "INPUT", "DROP")
        until(lambda: sh("iptables", "-S", "DOCKER-USER").count(mark) == 2, "rules in Docker's chain", 15)
        until(lambda: guest.can_reach(OUTSIDE), "the outside answers")
        assert guest.ask_for_address(tmp_path).startswith("10.77.1.")
        calls.call("PUT", f"/1.0/networks/{bridge}", {"config": {**CONFIG, "ipv4.firewall": "false"}})
        assert mark not in sh("iptables", "-S")
    finally:
        sh("nft", "delete", "table", "ip", "filter")


@pytest.mark.usefixtures("repairs")
def test_a_dead_dnsmasq_is_started_again(bare: Daemon, guest: Guest, tmp_path: Path) -> None:
    before = dnsmasq_pid(bare)
    os.kill(before, signal.SIGKILL)
    until(lambda: dnsmasq_pid(bare) not in (0, before), "another dnsmasq runs", 15)
    assert guest.ask_for_address(tmp_path).startswith("10.77.1.")
    assert "dnsmasq does not run" in bare.log.read_text()


@pytest.fixture
def victim(make_daemon: Callable[[], Daemon]) -> Daemon:
    """A daemon to be killed."""
    daemon = make_daemon()
    daemon.start()
    return daemon


@pytest.mark.usefixtures("repairs")
def test_networks_outlive_a_killed_daemon(victim: Daemon, tmp_path: Path) -> None:
    with victim.api() as api:
        api.call("POST", "/1.0/networks", {"name": victim.bridge, "config": CONFIG})
    guest = Guest("vguest1")
    try:
        sh("ip", "link", "set", guest.interface, "master", victim.bridge, "up")
        before = dnsmasq_pid(victim)
        victim.kill()
        assert guest.ask_for_address(tmp_path).startswith("10.77.1.")
        victim.start()
        assert dnsmasq_pid(victim) == before
        os.kill(before, signal.SIGKILL)
        until(lambda: dnsmasq_pid(victim) not in (0, before), "the new daemon watches, too", 15)
        with victim.api() as api:
            assert api.get(f"/1.0/networks/{victim.bridge}")["status"] == "Created"
            api.call("DELETE", f"/1.0/networks/{victim.bridge}")
    finally:
        guest.close()


def test_a_changed_address_takes_effect_and_guests_stay(calls: Api, guest: Guest, tmp_path: Path, bridge: str) -> None:
    config = {**CONFIG, "ipv4.address": "10.77.2.1/24", "ipv6.address": "none", "ipv4.routes": "198.51.100.0/24"}
    calls.call("PUT", f"/1.0/networks/{bridge}", {"config": config})
    state = calls.get(f"/1.0/networks/{bridge}/state")
    assert [address["address"] for address in state["addresses"]] == ["10.77.2.1"]
    assert guest.interface in state["bridge"]["upper_devices"]
    assert "198.51.100.0/24" in sh("ip", "route", "show", "dev", bridge)
    assert guest.ask_for_address(tmp_path).startswith("10.77.2.")


def test_a_failed_update_leaves_the_network_as_it_was(calls: Api, bridge: str) -> None:
    with pytest.raises(ApiError, match="exited prematurely"):
        calls.call("PUT", f"/1.0/networks/{bridge}", {"config": {**CONFIG, "raw.dnsmasq": "no-such-option"}})
    assert "raw.dnsmasq" not in calls.get(f"/1.0/networks/{bridge}")["config"]
    assert wanted_chains(bridge) <= chains()


def test_an_interface_of_the_host_can_join(calls: Api, outside: Guest, bridge: str) -> None:
    with pytest.raises(ApiError, match="Only unconfigured network interfaces can be bridged"):
        calls.call("PATCH", f"/1.0/networks/{bridge}", {"config": {"bridge.external_interfaces": outside.interface}})
    sh("ip", "addr", "flush", "dev", outside.interface)
    calls.call("PATCH", f"/1.0/networks/{bridge}", {"config": {"bridge.external_interfaces": outside.interface}})
    state = calls.get(f"/1.0/networks/{bridge}/state")
    assert state["bridge"]["upper_devices"] == [outside.interface]
    calls.call("PUT", f"/1.0/networks/{bridge}", {"config": CONFIG})
    assert calls.get(f"/1.0/networks/{bridge}/state")["bridge"]["upper_devices"] == []


def test_a_rename_takes_the_bridge_along(calls: Api, bare: Daemon, bridge: str) -> None:
    calls.call("POST", f"/1.0/networks/{bridge}", {"name": "renamed0"})
    assert Path("/sys/class/net/renamed0").exists()
    assert not Path("/sys/class/net", bridge).exists()
    assert wanted_chains("renamed0") <= chains()
    assert not wanted_chains(bridge) & chains()
    calls.call("POST", "/1.0/networks/renamed0", {"name": bridge})


def test_delete_leaves_nothing(calls: Api, bare: Daemon) -> None:
    calls.call("POST", "/1.0/networks", {"name": "brief0", "config": CONFIG})
    pid = int(yaml.safe_load((bare.state_dir / "networks/brief0/dnsmasq.pid").read_text())["pid"])
    calls.call("DELETE", "/1.0/networks/brief0")
    assert not Path("/sys/class/net/brief0").exists()
    assert not (bare.state_dir / "networks/brief0").exists()
    assert not wanted_chains("brief0") & chains()
    until(
        lambda: not Path(f"/proc/{pid}/cmdline").exists() or not Path(f"/proc/{pid}/cmdline").read_bytes(), "it ended"
    )


def list_dnsmasq(daemon: Daemon) -> list[int]:
    """The pids of all dnsmasq of a daemon."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().decode().split("\0")
            if words[0].endswith("dnsmasq") and any(str(daemon.state_dir) in word for word in words):
                found.append(int(process.name))
    return found


@pytest.mark.usefixtures("repairs")
def test_a_creation_that_a_kill_interrupts_is_whole_or_gone(victim: Daemon) -> None:
    def create() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException), victim.api() as api:
            api.call("POST", "/1.0/networks", {"name": "brief0", "config": CONFIG})

    for delay_s in (0.005, 0.015, 0.025, 0.035, 0.05, 0.07):
        thread = threading.Thread(target=create)
        thread.start()
        time.sleep(delay_s)
        victim.kill()
        thread.join(30)
        victim.start()
        with victim.api() as api:
            if "/1.0/networks/brief0" in api.get("/1.0/networks"):
                assert api.get("/1.0/networks/brief0")["status"] == "Created"
                assert len(list_dnsmasq(victim)) == 1
                api.call("DELETE", "/1.0/networks/brief0")
        assert not Path("/sys/class/net/brief0").exists()
        assert not (victim.state_dir / "networks/brief0").exists()
        assert not wanted_chains("brief0") & chains()
        assert list_dnsmasq(victim) == []


@contextlib.contextmanager
def port_taken(port: int) -> Iterator[None]:
    """Hold a UDP port on all addresses, as another DNS server does."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind(("0.0.0.0", port))
        yield


def test_a_taken_port_is_a_clear_error_and_leaves_nothing(calls: Api, bare: Daemon) -> None:
    with port_taken(53), pytest.raises(ApiError, match=r"exited prematurely: .*in use"):
        calls.call("POST", "/1.0/networks", {"name": "brief0", "config": CONFIG})
    assert not Path("/sys/class/net/brief0").exists()
    assert not (bare.state_dir / "networks/brief0").exists()
    assert "/1.0/networks/brief0" not in calls.get("/1.0/networks")


def test_a_taken_interface_name(calls: Api, outside: Guest) -> None:
    with pytest.raises(ApiError, match=f'Network interface "{outside.interface}" already exists'):
        calls.call("POST", "/1.0/networks", {"name": outside.interface})


def test_a_physical_network_lends_its_parent(calls: Api, outside: Guest) -> None:
    parent = outside.interface
    with pytest.raises(ApiError, match="Required value"):
        calls.call("POST", "/1.0/networks", {"name": "uplink", "type": "physical"})
    body = {"name": "uplink", "type": "physical", "config": {"parent": parent, "mtu": "1400"}}
    calls.call("POST", "/1.0/networks", body)
    try:
        assert calls.get("/1.0/networks/uplink/state")["mtu"] == 1400
        assert calls.get(f"/1.0/networks/{parent}")["used_by"] == ["/1.0/networks/uplink"]
        with pytest.raises(ApiError, match=f'Parent interface "{parent}" in use by another network'):
            calls.call("POST", "/1.0/networks", {**body, "name": "other"})
    finally:
        calls.call("DELETE", "/1.0/networks/uplink")
    assert calls.get(f"/1.0/networks/{parent}/state")["mtu"] == 1500


def test_a_macvlan_network_names_its_parent(calls: Api, outside: Guest) -> None:
    body = {"name": "direct", "type": "macvlan", "config": {"parent": outside.interface}}
    calls.call("POST", "/1.0/networks", body)
    shown = calls.get("/1.0/networks/direct")
    calls.call("DELETE", "/1.0/networks/direct")
    assert (shown["type"], shown["managed"], shown["status"]) == ("macvlan", True, "Created")


def test_interfaces_of_the_host_are_listed_with_their_kind(calls: Api) -> None:
    sh("ip", "link", "add", "foreign0", "type", "bridge")
    try:
        shown = {network["name"]: network for network in calls.get("/1.0/networks?recursion=1")}
        assert (shown["foreign0"]["type"], shown["foreign0"]["managed"]) == ("bridge", False)
        assert shown["lo"]["type"] == "loopback"
        with pytest.raises(ApiError, match="Network not found"):
            calls.call("DELETE", "/1.0/networks/foreign0")
        assert calls.get("/1.0/networks/foreign0/state")["state"] == "down"
    finally:
        sh("ip", "link", "delete", "foreign0")


def test_leases_have_the_gateways(calls: Api, bridge: str) -> None:
    leases = calls.get(f"/1.0/networks/{bridge}/leases")
    assert [(lease["hostname"], lease["address"], lease["type"]) for lease in leases] == [
        (f"{bridge}.gw", "10.77.1.1", "gateway"),
        (f"{bridge}.gw", "fd42:77:1::1", "gateway"),
    ]
