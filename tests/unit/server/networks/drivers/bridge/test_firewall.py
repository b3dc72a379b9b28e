"""Rules of a bridge, in our tables and among those of iptables."""

from typing import Any

from corral.server.networks.drivers.bridge import firewall, plan

DUAL = {
    "ipv4.address": "10.1.2.1/24",
    "ipv4.nat": "true",
    "ipv6.address": "fd42:1::1/64",
    "ipv6.nat": "true",
    "ipv6.nat.address": "2001:db8::9",
}


def make(config: dict[str, str]) -> plan.BridgePlan:
    return plan.plan_bridge("br0", config, seed="seed", domain="lxd")


def listed(made: plan.BridgePlan) -> list[dict[str, Any]]:
    """What nft -j would list of a bridge whose rules are in place."""
    items: list[dict[str, Any]] = [{"table": {"family": "inet", "name": "lxd"}}]
    for chain in firewall.plan_chains(made):
        items.append({"chain": {"name": chain.name}})
        items += [{"rule": {"chain": chain.name}} for _ in chain.rules]
    return items


def test_all_chains() -> None:
    assert firewall.render_nft(make(DUAL), "lxd") == (
        """add table inet lxd
add chain inet lxd pstrt.br0
flush chain inet lxd pstrt.br0
delete chain inet lxd pstrt.br0
add chain inet lxd fwd.br0
flush chain inet lxd fwd.br0
delete chain inet lxd fwd.br0
add chain inet lxd in.br0
flush chain inet lxd in.br0
delete chain inet lxd in.br0
add chain inet lxd out.br0
flush chain inet lxd out.br0
delete chain inet lxd out.br0
table inet lxd {
	chain pstrt.br0 {
		type nat hook postrouting priority 100; policy accept;
		ip saddr 10.1.2.0/24 ip daddr != 10.1.2.0/24 masquerade
		ip6 saddr fd42:1::/64 ip6 daddr != fd42:1::/64 snat ip6 to 2001:db8::9
	}
	chain fwd.br0 {
		type filter hook forward priority 0; policy accept;
		ip version 4 oifname "br0" accept
		ip version 4 iifname "br0" accept
		ip6 version 6 oifname "br0" accept
		ip6 version 6 iifname "br0" accept
	}
	chain in.br0 {
		type filter hook input priority 0; policy accept;
		iifname "br0" tcp dport 53 accept
		iifname "br0" udp dport 53 accept
		iifname "br0" icmp type { destination-unreachable, time-exceeded, parameter-problem } accept
		iifname "br0" udp dport 67 accept
		iifname "br0" icmpv6 type { 1, 2, 3, 4, 133, 135, 136, 143 } accept
		iifname "br0" udp dport 547 accept
	}
	chain out.br0 {
		type filter hook output priority 0; policy accept;
		oifname "br0" tcp sport 53 accept
		oifname "br0" udp sport 53 accept
		oifname "br0" icmp type { destination-unreachable, time-exceeded, parameter-problem } accept
		oifname "br0" udp sport 67 accept
		oifname "br0" icmpv6 type { 1, 2, 3, 4, 128, 134, 135, 136, 143 } accept
		oifname "br0" udp sport 547 accept
	}
}
"""
    )


def test_without_routing_forwarding_is_rejected() -> None:
    text = firewall.render_nft(make({"ipv4.address": "10.1.2.1/24", "ipv4.routing": "false"}), "lxd")
    assert 'ip version 4 oifname "br0" reject' in text
    assert "pstrt.br0 {" not in text


def test_without_filters_only_nat_is_left() -> None:
    made = make({"ipv4.address": "10.1.2.1/24", "ipv4.nat": "true", "ipv4.firewall": "false"})
    assert [chain.name for chain in firewall.plan_chains(made)] == ["pstrt.br0"]


def test_a_missing_chain_or_rule_is_noticed() -> None:
    made = make(DUAL)
    items = listed(made)
    assert firewall.is_complete(made, items)
    assert not firewall.is_complete(made, items[:-1])
    assert not firewall.is_complete(made, [])
    assert not firewall.is_complete(made, [item for item in items if "rule" not in item])


def table(*chains: tuple[str, str | None]) -> list[dict[str, Any]]:
    """A table `filter` of iptables with chains and their policies."""
    return [{"chain": {"name": name, **({"policy": policy} if policy else {})}} for name, policy in chains]


def test_an_open_table_of_iptables_is_left_alone() -> None:
    opened = table(("FORWARD", "accept"), ("INPUT", "accept"))
    assert firewall.render_foreign(make(DUAL), "br0", 4, opened, "LXD") == ""


def test_docker_gets_rules_in_the_chain_that_it_keeps() -> None:
    docker = table(("FORWARD", "drop"), ("DOCKER-USER", None), ("INPUT", "accept"))
    assert firewall.render_foreign(make(DUAL), "br0", 4, docker, "LXD") == (
        'insert rule ip filter DOCKER-USER iifname "br0" counter accept comment "generated for LXD network br0"\n'
        'insert rule ip filter DOCKER-USER oifname "br0" counter accept comment "generated for LXD network br0"\n'
    )


def test_a_dropping_host_lets_dhcp_and_dns_in() -> None:
    closed = table(("FORWARD", "drop"), ("INPUT", "drop"))
    text = firewall.render_foreign(make(DUAL), "br0", 6, closed, "LXD")
    for rule in ("FORWARD iifname", 'INPUT iifname "br0" udp dport 547', "meta l4proto ipv6-icmp", "tcp dport 53"):
        assert rule in text


def test_rules_that_stand_are_not_touched_and_others_are_replaced() -> None:
    made = make({"ipv4.address": "10.1.2.1/24"})
    mark = firewall.comment("br0", "LXD")
    closed = table(("FORWARD", "drop"))
    mine = [{"rule": {"chain": "FORWARD", "handle": number, "comment": mark}} for number in (7, 8)]
    assert firewall.render_foreign(made, "br0", 4, [*closed, *mine], "LXD") == ""
    text = firewall.render_foreign(made, "br0", 4, [*closed, mine[0]], "LXD")
    assert text.startswith("delete rule ip filter FORWARD handle 7\ninsert rule ")


def test_a_bridge_that_goes_takes_its_rules_and_no_others() -> None:
    other = {"rule": {"chain": "FORWARD", "handle": 3, "comment": firewall.comment("br1", "LXD")}}
    mine = {"rule": {"chain": "FORWARD", "handle": 4, "comment": firewall.comment("br0", "LXD")}}
    closed = [*table(("FORWARD", "drop")), other, mine]
    assert firewall.render_foreign(None, "br0", 4, closed, "LXD") == "delete rule ip filter FORWARD handle 4\n"


def test_a_bridge_without_filters_or_routing_opens_nothing() -> None:
    closed = table(("FORWARD", "drop"), ("DOCKER-USER", None))
    for config in ({"ipv4.firewall": "false"}, {"ipv4.routing": "false"}, {"ipv4.address": "none"}):
        made = make({"ipv4.address": "10.1.2.1/24", **config})
        assert firewall.plan_foreign_rules(made, 4, closed) == ()
