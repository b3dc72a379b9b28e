"""dnsmasq's arguments."""

from pathlib import Path

from corral.server.networks.drivers.bridge import dnsmasq, plan
from corral.server.networks.site import Site

SITE = Site("lxd", "LXD", "lxd", Path("/s/networks"), Path("/s/logs"), "seed", "nobody", "nogroup")


def render(config: dict[str, str]) -> str:
    made = plan.plan_bridge("lxdbr0", config, seed="seed", domain="lxd")
    return "\n".join(dnsmasq.render_arguments(made, SITE))


def test_both_families_with_defaults() -> None:
    assert render({"ipv4.address": "10.1.2.1/24", "ipv6.address": "fd42:1::1/64"}) == (
        """--strict-order
--bind-interfaces
--except-interface=lo
--no-ping
--interface=lxdbr0
--dhcp-rapid-commit
--quiet-dhcp
--quiet-dhcp6
--quiet-ra
--dhcp-no-override
--dhcp-authoritative
--dhcp-leasefile=/s/networks/lxdbr0/dnsmasq.leases
--dhcp-hostsfile=/s/networks/lxdbr0/dnsmasq.hosts
--listen-address=10.1.2.1
--dhcp-range
10.1.2.2,10.1.2.254,1h
--listen-address=fd42:1::1
--enable-ra
--dhcp-range
::,constructor:lxdbr0,ra-stateless,ra-names
-s
lxd
--interface-name
_gateway.lxd,lxdbr0
-S
/lxd/
--conf-file=/s/networks/lxdbr0/dnsmasq.raw
--log-facility=/s/logs/dnsmasq.lxdbr0.log
-u
nobody
-g
nogroup"""
    )


def test_everything_that_can_be_chosen() -> None:
    text = render(
        {
            "bridge.mtu": "1400",
            "dns.domain": "corp",
            "dns.search": " corp,example.com ",
            "ipv4.address": "10.1.2.1/24",
            "ipv4.dhcp.expiry": "2h",
            "ipv4.dhcp.gateway": "10.1.2.254",
            "ipv4.dhcp.ranges": "10.1.2.10-10.1.2.19, 10.1.2.30-10.1.2.39",
            "ipv6.address": "fd42:1::1/64",
            "ipv6.dhcp.stateful": "true",
            "ipv6.dhcp.ranges": "fd42:1::10-fd42:1::20",
        }
    )
    for wanted in (
        "--dhcp-option-force=3,10.1.2.254",
        "--dhcp-option-force=26,1400",
        "--dhcp-option-force=119,corp,example.com",
        "--dhcp-range\n10.1.2.10,10.1.2.19,2h",
        "--dhcp-range\n10.1.2.30,10.1.2.39,2h",
        "--dhcp-range\nfd42:1::10,fd42:1::20,64,1h",
        "--interface-name\n_gateway.corp,lxdbr0",
        "-S\n/corp/",
    ):
        assert wanted in text


def test_a_stateful_subnet_without_ranges_is_leased_as_a_whole() -> None:
    text = render({"ipv6.address": "fd42:1::1/64", "ipv6.dhcp.stateful": "true"})
    assert "--dhcp-range\nfd42:1::2,fd42:1::ffff:ffff:ffff:ffff,64,1h" in text


def test_without_dhcp_there_are_only_names_and_advertisements() -> None:
    text = render(
        {"ipv4.address": "10.1.2.1/24", "ipv4.dhcp": "false", "ipv6.address": "fd42:1::1/64", "ipv6.dhcp": "false"}
    )
    assert "--dhcp-leasefile" not in text
    assert "--dhcp-range\n::,constructor:lxdbr0,ra-only" in text
    assert text.count("--dhcp-range") == 1


def test_dns_mode_none_serves_no_names() -> None:
    text = render({"ipv4.address": "10.1.2.1/24", "dns.mode": "none"})
    assert "_gateway" not in text
    assert "\n-S\n" not in text


def test_a_record_is_believed_only_with_its_process(tmp_path: Path) -> None:
    site = Site("lxd", "LXD", "lxd", tmp_path, tmp_path, "seed", "nobody", "nogroup")
    (tmp_path / "lxdbr0").mkdir()
    record = tmp_path / "lxdbr0" / dnsmasq.RECORD
    for text in ("", "pid: 1\n", "pid: x\n", "pid: 999999999\n", "{"):
        record.write_text(text)
        assert dnsmasq.find_running("lxdbr0", site) is None
