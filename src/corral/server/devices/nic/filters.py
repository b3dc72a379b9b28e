"""Filters that keep an instance from sending under other addresses than its own: chains of the nft `bridge` table.

The chains are LXD's: `in.INSTANCE.DEVICE` for what goes to the host and `fwd.INSTANCE.DEVICE` for what passes the
bridge; ACLs and the proxies' translation are elsewhere. Rendering is pure.
"""

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from corral import units
from corral.server.host.network import nftables

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Filter:
    """What a NIC may send. A family's networks are None where it is not filtered, empty where nothing may pass."""

    label: str
    host_name: str
    mac: str
    ipv4: tuple[IPNetwork, ...] | None = None
    ipv6: tuple[IPNetwork, ...] | None = None


def is_filtered(config: Mapping[str, str]) -> bool:
    """Whether a NIC has any filter; those of addresses include that of the MAC address."""
    keys = ("security.mac_filtering", "security.ipv4_filtering", "security.ipv6_filtering")
    return any(units.is_true(config.get(key)) for key in keys)


def label_of(project: str, instance: str, device: str) -> str:
    """The end of the chains' names: the instance with its project outside the default one, and the device."""
    name = instance if project == "default" else f"{project}_{instance}"
    return f"{name}.{device.replace('-', '--').replace('/', '-')}"


def _hex(value: bytes) -> str:
    return "0x" + value.hex()


def _v4_rules(match: str, networks: Sequence[IPNetwork], *, is_input: bool) -> Iterator[str]:
    if networks and is_input:
        yield f"{match} ether type ip ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp dport 67 accept"
    for network in networks:
        yield f"{match} ether type arp arp saddr ip {network} accept"
        yield f"{match} ether type ip ip saddr {network} accept"
    yield f"{match} ether type arp drop"
    yield f"{match} ether type ip drop"


def _v6_rules(match: str, networks: Sequence[IPNetwork], *, is_input: bool) -> Iterator[str]:
    if networks and is_input:
        yield f"{match} ether type ip6 ip6 saddr fe80::/10 ip6 daddr ff02::1:2 udp dport 547 accept"
        yield f"{match} ether type ip6 ip6 saddr fe80::/10 ip6 daddr ff02::2 icmpv6 type 133 accept"
    if networks:
        yield f"{match} ether type ip6 icmpv6 type 134 drop"
    for network in networks:
        # nft has no name for the target address of a neighbour advertisement: 384 bits into the packet.
        bits = max(1, network.prefixlen)
        prefix = network.network_address.packed[: (bits + 7) // 8]
        yield f"{match} ether type ip6 icmpv6 type 136 @nh,384,{bits} {_hex(prefix)} accept"
        yield f"{match} ether type ip6 ip6 saddr {network} accept"
    yield f"{match} ether type ip6 drop"


def _rules(one: Filter, *, is_input: bool) -> Iterator[str]:
    match = f'iifname "{one.host_name}"'
    mac = one.mac.lower()
    yield f"{match} ether saddr != {mac} drop"
    yield f"{match} ether type arp arp saddr ether != {mac} drop"
    # The sender's MAC address in a neighbour advertisement: 528 bits into the packet.
    yield f"{match} ether type ip6 icmpv6 type 136 @nh,528,48 != {_hex(bytes.fromhex(mac.replace(':', '')))} drop"
    if one.ipv4 is not None:
        yield from _v4_rules(match, one.ipv4, is_input=is_input)
    if one.ipv6 is not None:
        yield from _v6_rules(match, one.ipv6, is_input=is_input)
    if one.ipv4 is not None or one.ipv6 is not None:
        yield f"{match} ether type != {{arp, ip, ip6}} drop"


def render(one: Filter, table: str) -> str:
    """One transaction that puts the chains of a NIC in place of those it had."""
    lines = [render_removal(one.label, table).rstrip("\n"), f"table bridge {table} {{"]
    for name, hook, is_input in (("in", "input", True), ("fwd", "forward", False)):
        lines.append(f"\tchain {name}.{one.label} {{")
        lines.append(f"\t\ttype filter hook {hook} priority -200; policy accept;")
        lines += [f"\t\t{rule}" for rule in _rules(one, is_input=is_input)]
        lines.append("\t}")
    lines.append("}")
    return "\n".join(lines) + "\n"


def render_removal(label: str, table: str) -> str:
    """A transaction that removes the chains of a NIC, whether they exist or not."""
    lines = [f"add table bridge {table}"]
    for name in ("in", "fwd"):
        chain = f"bridge {table} {name}.{label}"
        lines += [f"add chain {chain}", f"flush chain {chain}", f"delete chain {chain}"]
    return "\n".join(lines) + "\n"


async def apply(one: Filter, table: str) -> None:
    """Filter a NIC from now on."""
    await nftables.apply(render(one, table))


async def remove(label: str, table: str) -> None:
    """Filter a NIC no more."""
    await nftables.apply(render_removal(label, table))
