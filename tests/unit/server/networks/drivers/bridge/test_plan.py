"""From configuration to plan."""

import ipaddress
import random

import pytest

from corral.errors import CorralError, InvalidRequest, NotSupported
from corral.server.networks.drivers.bridge import plan
from corral.server.networks.drivers.bridge.plan import Nat


def make(**config: str) -> plan.BridgePlan:
    values = {key.replace("_", "."): value for key, value in config.items()}
    return plan.plan_bridge("lxdbr0", values, seed="seed.1", domain="lxd")


def test_a_new_bridge_gets_addresses_and_nat() -> None:
    filled = plan.fill({"user.x": "1"}, [], ipv6=True, rng=random.Random(1))
    assert filled["ipv4.nat"] == filled["ipv6.nat"] == "true"
    assert ipaddress.ip_interface(filled["ipv4.address"]).network.prefixlen == 24
    assert ipaddress.ip_interface(filled["ipv6.address"]).network.prefixlen == 64
    assert filled["user.x"] == "1"


def test_given_addresses_are_kept_and_get_no_nat() -> None:
    given = {"ipv4.address": "10.9.0.1/16", "ipv6.address": "none"}
    assert plan.fill(given, [], ipv6=True, rng=random.Random(1)) == given


def test_fan_mode_is_left_to_the_check() -> None:
    assert plan.fill({"bridge.mode": "fan", "dns.mode": ""}, [], ipv6=True, rng=random.Random(1)) == {
        "bridge.mode": "fan"
    }


def test_auto_is_resolved_and_nothing_else() -> None:
    given = {"ipv4.address": "auto", "ipv6.address": "auto", "dns.mode": "none"}
    resolved = plan.resolve_auto(given, [], random.Random(1))
    assert resolved["dns.mode"] == "none"
    assert "auto" not in resolved.values()
    assert "ipv4.nat" not in resolved


def test_a_kernel_without_ipv6_gets_none() -> None:
    filled = plan.fill({"ipv4.address": "none"}, [], ipv6=False, rng=random.Random(1))
    assert filled == {"ipv4.address": "none"}


def test_nat_can_be_refused_for_a_chosen_address() -> None:
    assert plan.fill({"ipv4.nat": "false"}, [], ipv6=False, rng=random.Random(1))["ipv4.nat"] == "false"


def test_defaults() -> None:
    made = make(ipv4_address="10.1.2.1/24", ipv6_address="fd42::1/64")
    assert made.mtu == 1500
    assert not made.fixed_mtu
    assert made.dns == plan.DnsPlan("managed", "lxd", "")
    assert made.ipv4 is not None
    assert made.ipv4.dhcp
    assert made.ipv4.routing
    assert made.ipv4.firewall
    assert made.ipv4.nat is None
    assert made.ipv6 is not None
    assert not made.ipv6.stateful
    assert made.hwaddr.startswith("00:16:3e:")
    assert made.hwaddr == make().hwaddr


def test_no_address_means_no_family_and_no_dnsmasq() -> None:
    made = make(ipv4_address="none", ipv6_address="none")
    assert made.families == ()
    assert not made.uses_dnsmasq
    assert made.sysctls == (("net/ipv6/conf/lxdbr0/disable_ipv6", "1"),)


def test_nat_to_an_address() -> None:
    config = {"ipv4.address": "10.1.2.1/24", "ipv4.nat": "true", "ipv4.nat.address": "192.0.2.9"}
    made = plan.plan_bridge("lxdbr0", config, seed="", domain="lxd")
    assert made.ipv4 is not None
    assert made.ipv4.nat == Nat("192.0.2.9")


def test_ipv6_keeps_the_host_from_configuring_itself() -> None:
    assert dict(make(ipv6_address="fd42::1/64").sysctls) == {
        "net/ipv6/conf/lxdbr0/disable_ipv6": "0",
        "net/ipv6/conf/lxdbr0/autoconf": "0",
        "net/ipv6/conf/lxdbr0/accept_dad": "0",
    }


@pytest.mark.parametrize(
    ("config", "error", "text"),
    [
        ({"bridge.mode": "fan"}, NotSupported, "FAN patches"),
        ({"fan.type": "ipip"}, InvalidRequest, "FAN configuration may only be set when in 'fan' mode"),
        ({"tunnel.a.protocol": "gre"}, NotSupported, "tunnels"),
        ({"bgp.peers.a.asn": "65000"}, NotSupported, "BGP"),
        ({"dns.zone.forward": "z"}, InvalidRequest, 'Network zone "z" doesn\'t exist'),
        ({"security.acls": "web, db"}, InvalidRequest, 'Network ACL "web" does not exist'),
        (
            {"ipv4.address": "10.0.0.1/24", "ipv4.dhcp.ranges": "10.0.1.2-10.0.1.9"},
            InvalidRequest,
            "does not fall within the subnet 10.0.0.0/24 of ipv4.address",
        ),
        (
            {"ipv4.address": "10.0.0.1/24", "ipv4.ovn.ranges": "10.0.0.2-10.0.0.9"},
            InvalidRequest,
            "must be used in conjunction with",
        ),
        (
            {
                "ipv4.address": "10.0.0.1/24",
                "ipv4.ovn.ranges": "10.0.0.2-10.0.0.9",
                "ipv4.dhcp.ranges": "10.0.0.9-10.0.0.20",
            },
            InvalidRequest,
            "cannot overlap",
        ),
        (
            {
                "ipv4.address": "none",
                "ipv6.address": "none",
                "bridge.external_interfaces": "eth1",
                "bridge.hwaddr": "00:16:3e:00:00:01",
            },
            InvalidRequest,
            "Cannot use static",
        ),
    ],
)
def test_contradictions(config: dict[str, str], error: type[CorralError], text: str) -> None:
    with pytest.raises(error) as caught:
        plan.check("lxdbr0", config)
    assert text in str(caught.value)


def test_what_is_in_order_passes() -> None:
    plan.check(
        "lxdbr0",
        {
            "ipv4.address": "10.0.0.1/24",
            "ipv4.ovn.ranges": "10.0.0.2-10.0.0.9",
            "ipv4.dhcp.ranges": "10.0.0.10-10.0.0.20",
            "ipv6.address": "fd42::1/64",
            "ipv6.ovn.ranges": "fd42::2-fd42::9",
        },
    )
