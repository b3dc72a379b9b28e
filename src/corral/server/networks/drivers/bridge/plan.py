"""What a bridge must look like, from its configuration (pure): the plan that `apply` makes true."""

import hashlib
import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from corral.errors import InvalidRequest, NotSupported
from corral.server.keys import Config, Key
from corral.server.networks import keys
from corral.server.networks.addresses import (
    Address,
    AddressRange,
    Interface,
    Subnet,
    free_ipv4_subnet,
    free_ipv6_subnet,
)

DEFAULT_MTU = 1500


@dataclass(frozen=True, slots=True)
class Nat:
    """Source NAT for what leaves a subnet: to one address, or with None to that of the outgoing interface."""

    address: str | None = None


@dataclass(frozen=True, slots=True)
class AddressFamily:
    """One address family of a bridge that has an address.

    `dhcp` means DHCPv4, or for IPv6 any configuration beyond the advertised router; `stateful` leases IPv6 addresses.
    """

    gateway: Interface
    dhcp: bool
    stateful: bool
    expiry: str
    ranges: tuple[AddressRange, ...]
    firewall: bool
    routing: bool
    nat: Nat | None
    routes: tuple[Subnet, ...]
    advertised_gateway: str = ""

    @property
    def subnet(self) -> Subnet:
        return self.gateway.network


@dataclass(frozen=True, slots=True)
class DnsPlan:
    """How names are served: `mode` is managed (from reservations), dynamic (from the clients) or none."""

    mode: str
    domain: str
    search: str


@dataclass(frozen=True, slots=True)
class BridgePlan:
    """All that is to be true of a bridge on the host."""

    name: str
    hwaddr: str
    mtu: int
    fixed_mtu: bool
    ipv4: AddressFamily | None
    ipv6: AddressFamily | None
    dns: DnsPlan
    external_interfaces: tuple[str, ...]
    raw_dnsmasq: str

    @property
    def families(self) -> tuple[AddressFamily, ...]:
        return tuple(family for family in (self.ipv4, self.ipv6) if family is not None)

    @property
    def uses_dnsmasq(self) -> bool:
        """Whether anything on the bridge wants DHCP, router advertisements or names."""
        return bool(self.families)

    @property
    def sysctls(self) -> tuple[tuple[str, str], ...]:
        """Kernel settings of the bridge by path below /proc/sys, apart from forwarding, in order."""
        base = f"net/ipv6/conf/{self.name}"
        if self.ipv6 is None:
            return ((f"{base}/disable_ipv6", "1"),)
        return ((f"{base}/disable_ipv6", "0"), (f"{base}/autoconf", "0"), (f"{base}/accept_dad", "0"))


def fill(config: Mapping[str, str], taken: Collection[Subnet], *, ipv6: bool, rng: random.Random) -> dict[str, str]:
    """The configuration of a new bridge with its defaults; `auto` becomes a free subnet with NAT."""
    filled = {key: value for key, value in config.items() if value != ""}
    if filled.get("bridge.mode") == "fan":
        return filled
    filled.setdefault("ipv4.address", "auto")
    if ipv6:
        filled.setdefault("ipv6.address", "auto")
    for family in ("ipv4", "ipv6"):
        if filled.get(f"{family}.address") == "auto":
            filled.setdefault(f"{family}.nat", "true")
    return resolve_auto(filled, taken, rng)


def resolve_auto(config: Mapping[str, str], taken: Collection[Subnet], rng: random.Random) -> dict[str, str]:
    """The configuration with a free subnet in each place that says `auto`."""
    resolved = dict(config)
    if resolved.get("ipv4.address") == "auto":
        resolved["ipv4.address"] = free_ipv4_subnet(taken, rng)
    if resolved.get("ipv6.address") == "auto":
        resolved["ipv6.address"] = free_ipv6_subnet(taken, rng)
    return resolved


def check(name: str, config: Mapping[str, str]) -> None:
    """Raise InvalidRequest where keys contradict each other, NotSupported where this server cannot do it."""
    fan = config.get("bridge.mode") == "fan"
    for key, value in config.items():
        if value and key.startswith("fan.") and not fan:
            raise InvalidRequest("FAN configuration may only be set when in 'fan' mode")
    if fan:
        raise NotSupported(
            "Fan networking needs a kernel with Ubuntu's FAN patches, which is not supported: use bridge.mode=standard"
        )
    if any(key.startswith("tunnel.") and value for key, value in config.items()):
        raise NotSupported(f'Network "{name}": tunnels between bridges are not supported by this server')
    if any(key.startswith("bgp.peers.") and value for key, value in config.items()):
        raise NotSupported(f'Network "{name}": BGP peers are not supported by this server')
    for key in ("dns.zone.forward", "dns.zone.reverse.ipv4", "dns.zone.reverse.ipv6"):
        if config.get(key):
            raise InvalidRequest(
                f'Invalid value for network "{name}" option "{key}": Network zone "{config[key]}" doesn\'t exist'
            )
    if config.get("security.acls"):
        raise InvalidRequest(f'Network ACL "{config["security.acls"].split(",")[0].strip()}" does not exist')
    _check_hwaddr(config)
    for version in (4, 6):
        _check_ranges(config, version)


def _check_hwaddr(config: Mapping[str, str]) -> None:
    """One MAC address for all members is unsafe where the bridge only joins members to one segment."""
    without_addresses = config.get("ipv4.address") == "none" and config.get("ipv6.address") == "none"
    if config.get("bridge.hwaddr") and config.get("bridge.external_interfaces") and without_addresses:
        raise InvalidRequest(
            'Cannot use static "bridge.hwaddr" MAC address when bridge has no IP addresses '
            "and has external interfaces set"
        )


def _check_ranges(config: Mapping[str, str], version: int) -> None:
    family = f"ipv{version}"
    typed = Config(config)
    address = typed[keys.IPV4_ADDRESS if version == 4 else keys.IPV6_ADDRESS]
    dhcp_ranges = typed[keys.IPV4_DHCP_RANGES if version == 4 else keys.IPV6_DHCP_RANGES] or ()
    ovn_ranges = typed[keys.IPV4_OVN_RANGES if version == 4 else keys.IPV6_OVN_RANGES] or ()
    for found in dhcp_ranges:
        if address is not None and (found.first not in address.network or found.last not in address.network):
            raise InvalidRequest(
                f'IP range "{found.first}-{found.last}" does not fall within the subnet {address.network} '
                f"of {family}.address"
            )
    if not ovn_ranges or address is None:
        return
    leases = typed[keys.IPV4_DHCP] if version == 4 else typed[keys.IPV6_DHCP_STATEFUL]
    if leases and not dhcp_ranges:
        kind = "DHCPv4 is enabled" if version == 4 else "stateful DHCPv6 is enabled"
        raise InvalidRequest(
            f'"{family}.ovn.ranges" must be used in conjunction with non-overlapping "{family}.dhcp.ranges" when {kind}'
        )
    for found in ovn_ranges:
        if any(found.first in other or other.first in found for other in dhcp_ranges):
            raise InvalidRequest(
                f'The range specified in "{family}.ovn.ranges" ("{found.first}-{found.last}") cannot overlap with '
                f'"{family}.dhcp.ranges"'
            )


def plan_bridge(name: str, values: Mapping[str, str], *, seed: str, domain: str) -> BridgePlan:
    """The plan of a bridge. `seed` makes a generated MAC address stable and unique, `domain` is the default."""
    config = Config(values)
    mtu = config[keys.BRIDGE_MTU]
    return BridgePlan(
        name=name,
        hwaddr=config[keys.BRIDGE_HWADDR] or stable_hwaddr(seed),
        mtu=mtu or DEFAULT_MTU,
        fixed_mtu=mtu is not None,
        ipv4=_plan_ipv4(config),
        ipv6=_plan_ipv6(config),
        dns=DnsPlan(
            mode=config[keys.DNS_MODE] or "managed",
            domain=config[keys.DNS_DOMAIN] or domain,
            search=(config[keys.DNS_SEARCH] or "").strip(),
        ),
        external_interfaces=config[keys.BRIDGE_EXTERNAL] or (),
        raw_dnsmasq=config[keys.RAW_DNSMASQ] or "",
    )


def _plan_ipv4(config: Config) -> AddressFamily | None:
    gateway = config[keys.IPV4_ADDRESS]
    if gateway is None:
        return None
    advertised = config[keys.IPV4_DHCP_GATEWAY]
    return AddressFamily(
        gateway=gateway,
        dhcp=_is_on(config, keys.IPV4_DHCP),
        stateful=True,
        expiry=config[keys.IPV4_DHCP_EXPIRY] or "1h",
        ranges=config[keys.IPV4_DHCP_RANGES] or (),
        firewall=_is_on(config, keys.IPV4_FIREWALL),
        routing=_is_on(config, keys.IPV4_ROUTING),
        nat=_plan_nat(_is_on(config, keys.IPV4_NAT), config[keys.IPV4_NAT_ADDRESS]),
        routes=config[keys.IPV4_ROUTES] or (),
        advertised_gateway=str(advertised) if advertised else "",
    )


def _plan_ipv6(config: Config) -> AddressFamily | None:
    gateway = config[keys.IPV6_ADDRESS]
    if gateway is None:
        return None
    return AddressFamily(
        gateway=gateway,
        dhcp=_is_on(config, keys.IPV6_DHCP),
        stateful=_is_on(config, keys.IPV6_DHCP_STATEFUL),
        expiry=config[keys.IPV6_DHCP_EXPIRY] or "1h",
        ranges=config[keys.IPV6_DHCP_RANGES] or (),
        firewall=_is_on(config, keys.IPV6_FIREWALL),
        routing=_is_on(config, keys.IPV6_ROUTING),
        nat=_plan_nat(_is_on(config, keys.IPV6_NAT), config[keys.IPV6_NAT_ADDRESS]),
        routes=config[keys.IPV6_ROUTES] or (),
    )


def _is_on(config: Config, key: Key[bool]) -> bool:
    value = config[key]
    return value is True


def _plan_nat(wanted: bool, address: Address | None) -> Nat | None:
    if not wanted:
        return None
    return Nat(str(address) if address else None)


def stable_hwaddr(seed: str) -> str:
    """A MAC address with the prefix of LXC that is always the same for a seed."""
    digest = hashlib.sha256(seed.encode()).digest()
    return "00:16:3e:" + ":".join(f"{octet:02x}" for octet in digest[:3])
