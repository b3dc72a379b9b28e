"""The config keys of each network type."""

import ipaddress
import re
from collections.abc import Mapping

from corral.errors import InvalidRequest
from corral.server.keys import BOOL, IPV4, IPV6, STRING, UNSIGNED, Key, KeyTable, KeyType, enum, integer_between
from corral.server.networks.addresses import (
    AddressRange,
    Interface,
    Subnet,
    parse_interface,
    parse_ranges,
    parse_subnet,
)

INTERFACE_NAME = re.compile(r"[-_a-zA-Z0-9.]+")


def check_interface_name(name: str) -> None:
    """Raise InvalidRequest where a name cannot be that of a network interface."""
    if len(name) < 2:
        raise InvalidRequest("Network interface is too short (minimum 2 characters)")
    if len(name) > 15:
        raise InvalidRequest("Network interface is too long (maximum 15 characters)")
    if INTERFACE_NAME.fullmatch(name) is None or name == "..":
        raise InvalidRequest("Network interface contains invalid characters")


def check_segment(name: str) -> None:
    """Raise InvalidRequest where a name cannot stand in a URL."""
    for char in "/?&+:":
        if char in name:
            raise InvalidRequest(f'Cannot contain "{char}"')


def _interface_name(text: str) -> str:
    check_interface_name(text)
    return text


def _interface_names(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    for name in names:
        try:
            check_interface_name(name)
        except InvalidRequest as error:
            raise InvalidRequest(f'Invalid interface name "{name}": {error}') from error
    return names


def _mac(text: str) -> str:
    if re.fullmatch(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}", text) is None:
        raise InvalidRequest("Invalid MAC address, must be 6 bytes of hex separated by colons")
    return text.lower()


def _mtu(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise InvalidRequest(f'Invalid MTU "{text}"')
    if not 1280 <= int(text) <= 16384:
        raise InvalidRequest(f'Out of MTU range (1280-16384) "{text}"')
    return int(text)


def _address_or_word(version: int) -> KeyType[Interface | None]:
    def parse(text: str) -> Interface | None:
        return None if text in ("none", "auto") else parse_interface(text, version)

    return KeyType(f"IPv{version} address with prefix length, `auto` or `none`", parse)


def _ranges(version: int) -> KeyType[tuple[AddressRange, ...]]:
    return KeyType(f"list of IPv{version} ranges", lambda text: parse_ranges(text, version))


def _subnets(version: int) -> KeyType[tuple[Subnet, ...]]:
    def parse(text: str) -> tuple[Subnet, ...]:
        return tuple(parse_subnet(part.strip(), version) for part in text.split(",") if part.strip())

    return KeyType(f"list of IPv{version} subnets", parse)


def _cidr(version: int) -> KeyType[Interface]:
    return KeyType(f"IPv{version} address with prefix length", lambda text: parse_interface(text, version))


def _addresses(text: str) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, ...]:
    return tuple(ipaddress.ip_address(part.strip()) for part in text.split(",") if part.strip())


INTERFACE: KeyType[str] = KeyType("interface name", _interface_name)
INTERFACES: KeyType[tuple[str, ...]] = KeyType("list of interface names", _interface_names)
MAC: KeyType[str] = KeyType("MAC address", _mac)
MTU: KeyType[int] = KeyType("MTU", _mtu)
ADDRESS: KeyType[ipaddress.IPv4Address | ipaddress.IPv6Address] = KeyType("IP address", ipaddress.ip_address)
ADDRESSES = KeyType("list of IP addresses", _addresses)
DHCP_EXPIRY: KeyType[str] = KeyType("duration", str)

BRIDGE_DRIVER = Key("bridge.driver", enum("native", "openvswitch"), "native", doc="Bridge driver")
BRIDGE_EXTERNAL = Key("bridge.external_interfaces", INTERFACES, scope="local", doc="Unconfigured interfaces to include")
BRIDGE_HWADDR = Key("bridge.hwaddr", MAC, doc="MAC address of the bridge")
BRIDGE_MODE = Key("bridge.mode", enum("standard", "fan"), "standard", doc="Bridge operation mode")
BRIDGE_MTU = Key("bridge.mtu", MTU, doc="Bridge MTU")
DNS_DOMAIN = Key("dns.domain", STRING, doc="Domain to advertise to DHCP clients and to resolve names in")
DNS_MODE = Key("dns.mode", enum("managed", "dynamic", "none"), "managed", doc="DNS registration mode")
DNS_SEARCH = Key("dns.search", STRING, doc="Full domain search list")
RAW_DNSMASQ = Key("raw.dnsmasq", STRING, doc="Configuration to append to dnsmasq's")

IPV4_ADDRESS = Key("ipv4.address", _address_or_word(4), doc="IPv4 address of the bridge, `auto` or `none`")
IPV4_DHCP = Key("ipv4.dhcp", BOOL, "true", doc="Whether to allocate IPv4 addresses using DHCP")
IPV4_DHCP_EXPIRY = Key("ipv4.dhcp.expiry", DHCP_EXPIRY, "1h", doc="When to expire DHCP leases")
IPV4_DHCP_GATEWAY = Key("ipv4.dhcp.gateway", IPV4, doc="Address of the gateway for the subnet")
IPV4_DHCP_RANGES = Key("ipv4.dhcp.ranges", _ranges(4), doc="IPv4 ranges to use for DHCP")
IPV4_FIREWALL = Key("ipv4.firewall", BOOL, "true", doc="Whether to generate filtering firewall rules")
IPV4_NAT = Key("ipv4.nat", BOOL, "false", doc="Whether to use NAT for IPv4")
IPV4_NAT_ADDRESS = Key("ipv4.nat.address", IPV4, doc="Source address of outbound traffic")
IPV4_NAT_ORDER = Key("ipv4.nat.order", enum("before", "after"), "before", doc="Where to add the NAT rules")
IPV4_ROUTES = Key("ipv4.routes", _subnets(4), doc="Additional IPv4 subnets to route to the bridge")
IPV4_ROUTING = Key("ipv4.routing", BOOL, "true", doc="Whether to route IPv4 traffic in and out of the bridge")
IPV4_OVN_RANGES = Key("ipv4.ovn.ranges", _ranges(4), doc="IPv4 ranges for child OVN routers")

IPV6_ADDRESS = Key("ipv6.address", _address_or_word(6), doc="IPv6 address of the bridge, `auto` or `none`")
IPV6_DHCP = Key("ipv6.dhcp", BOOL, "true", doc="Whether to provide network configuration over DHCPv6")
IPV6_DHCP_EXPIRY = Key("ipv6.dhcp.expiry", DHCP_EXPIRY, "1h", doc="When to expire DHCP leases")
IPV6_DHCP_RANGES = Key("ipv6.dhcp.ranges", _ranges(6), doc="IPv6 ranges to use for DHCP")
IPV6_DHCP_STATEFUL = Key("ipv6.dhcp.stateful", BOOL, "false", doc="Whether to allocate IPv6 addresses using DHCP")
IPV6_FIREWALL = Key("ipv6.firewall", BOOL, "true", doc="Whether to generate filtering firewall rules")
IPV6_NAT = Key("ipv6.nat", BOOL, "false", doc="Whether to use NAT for IPv6")
IPV6_NAT_ADDRESS = Key("ipv6.nat.address", IPV6, doc="Source address of outbound traffic")
IPV6_NAT_ORDER = Key("ipv6.nat.order", enum("before", "after"), "before", doc="Where to add the NAT rules")
IPV6_ROUTES = Key("ipv6.routes", _subnets(6), doc="Additional IPv6 subnets to route to the bridge")
IPV6_ROUTING = Key("ipv6.routing", BOOL, "true", doc="Whether to route IPv6 traffic in and out of the bridge")
IPV6_OVN_RANGES = Key("ipv6.ovn.ranges", _ranges(6), doc="IPv6 ranges for child OVN routers")

PARENT = Key("parent", INTERFACE, scope="local", doc="Existing interface that the network uses")
MTU_KEY = Key("mtu", MTU, doc="MTU of the interface")
VLAN = Key("vlan", integer_between(0, 4094), doc="VLAN ID to attach to")
GVRP = Key("gvrp", BOOL, "false", doc="Whether to register the VLAN by GVRP")
VOLATILE_CREATED = Key("volatile.last_state.created", BOOL, doc="Whether the daemon made the interface")

_ACTION = enum("allow", "drop", "reject")
_MAAS = (
    Key("maas.subnet.ipv4", STRING, doc="MAAS IPv4 subnet of the network"),
    Key("maas.subnet.ipv6", STRING, doc="MAAS IPv6 subnet of the network"),
)
_BGP_PEERS = (
    Key("bgp.peers.*.address", ADDRESS, doc="Peer address"),
    Key("bgp.peers.*.asn", integer_between(1, 2**32 - 1), doc="Peer AS number"),
    Key("bgp.peers.*.password", STRING, doc="Peer session password"),
)

BRIDGE_KEYS = KeyTable(
    BRIDGE_DRIVER,
    BRIDGE_EXTERNAL,
    BRIDGE_HWADDR,
    BRIDGE_MODE,
    BRIDGE_MTU,
    DNS_DOMAIN,
    DNS_MODE,
    DNS_SEARCH,
    RAW_DNSMASQ,
    IPV4_ADDRESS,
    IPV4_DHCP,
    IPV4_DHCP_EXPIRY,
    IPV4_DHCP_GATEWAY,
    IPV4_DHCP_RANGES,
    IPV4_FIREWALL,
    IPV4_NAT,
    IPV4_NAT_ADDRESS,
    IPV4_NAT_ORDER,
    IPV4_ROUTES,
    IPV4_ROUTING,
    IPV4_OVN_RANGES,
    IPV6_ADDRESS,
    IPV6_DHCP,
    IPV6_DHCP_EXPIRY,
    IPV6_DHCP_RANGES,
    IPV6_DHCP_STATEFUL,
    IPV6_FIREWALL,
    IPV6_NAT,
    IPV6_NAT_ADDRESS,
    IPV6_NAT_ORDER,
    IPV6_ROUTES,
    IPV6_ROUTING,
    IPV6_OVN_RANGES,
    Key("bgp.ipv4.nexthop", IPV4, scope="local", doc="IPv4 next-hop of advertised prefixes"),
    Key("bgp.ipv6.nexthop", IPV6, scope="local", doc="IPv6 next-hop of advertised prefixes"),
    Key("dns.zone.forward", STRING, doc="DNS zone of forward records"),
    Key("dns.zone.reverse.ipv4", STRING, doc="DNS zone of IPv4 reverse records"),
    Key("dns.zone.reverse.ipv6", STRING, doc="DNS zone of IPv6 reverse records"),
    Key("fan.overlay_subnet", _subnets(4), doc="Subnet to use as the overlay of the FAN"),
    Key("fan.underlay_subnet", STRING, doc="Subnet to use as the underlay of the FAN"),
    Key("fan.type", enum("vxlan", "ipip"), "vxlan", doc="Tunneling type of the FAN"),
    Key("security.acls", STRING, doc="Network ACLs to apply to NICs of this network"),
    Key("security.acls.default.egress.action", _ACTION, "reject", doc="Default action for egress traffic"),
    Key("security.acls.default.egress.logged", BOOL, "false", doc="Whether to log unmatched egress traffic"),
    Key("security.acls.default.ingress.action", _ACTION, "reject", doc="Default action for ingress traffic"),
    Key("security.acls.default.ingress.logged", BOOL, "false", doc="Whether to log unmatched ingress traffic"),
    Key("tunnel.*.group", ADDRESS, doc="Multicast address of a VXLAN tunnel"),
    Key("tunnel.*.id", UNSIGNED, doc="ID of a VXLAN tunnel"),
    Key("tunnel.*.interface", INTERFACE, doc="Host interface of a tunnel"),
    Key("tunnel.*.local", ADDRESS, doc="Local address of a tunnel"),
    Key("tunnel.*.port", integer_between(1, 65535), doc="Port of a VXLAN tunnel"),
    Key("tunnel.*.protocol", enum("gre", "vxlan"), doc="Tunneling protocol"),
    Key("tunnel.*.remote", ADDRESS, doc="Remote address of a tunnel"),
    Key("tunnel.*.ttl", integer_between(0, 255), doc="TTL of a multicast tunnel"),
    *_BGP_PEERS,
    *_MAAS,
)

MACVLAN_KEYS = KeyTable(PARENT, MTU_KEY, VLAN, GVRP, *_MAAS)

SRIOV_KEYS = KeyTable(PARENT, MTU_KEY, VLAN, *_MAAS)

PHYSICAL_KEYS = KeyTable(
    PARENT,
    MTU_KEY,
    VLAN,
    GVRP,
    VOLATILE_CREATED,
    IPV4_OVN_RANGES,
    IPV6_OVN_RANGES,
    IPV4_ROUTES,
    IPV6_ROUTES,
    Key("dns.nameservers", ADDRESSES, doc="DNS servers of the physical network"),
    Key("ipv4.gateway", _cidr(4), doc="IPv4 address of the gateway with the network's prefix length"),
    Key("ipv6.gateway", _cidr(6), doc="IPv6 address of the gateway with the network's prefix length"),
    Key("ipv4.routes.anycast", BOOL, "false", doc="Whether the IPv4 routes may be on several networks"),
    Key("ipv6.routes.anycast", BOOL, "false", doc="Whether the IPv6 routes may be on several networks"),
    Key("ovn.ingress_mode", enum("l2proxy", "routed"), "l2proxy", doc="How addresses of OVN NICs are advertised"),
    *_BGP_PEERS,
    *_MAAS,
)


def validate(table: KeyTable, network: str, config: Mapping[str, str]) -> None:
    """Check all names and values; the texts are those that scripts know from LXD."""
    table.validate(
        config,
        lambda name: f'Invalid option for network "{network}" option "{name}"',
        lambda name: f'Invalid value for network "{network}" option "{name}"',
    )
