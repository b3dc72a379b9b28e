"""The messages of rtnetlink (rtnetlink(7), linux/if_link.h): interfaces, addresses and routes in bytes; pure."""

import errno
import ipaddress
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

ALIGN = 4
HEADER = struct.Struct("=IHHII")
IFINFO = struct.Struct("=BxHiII")
IFADDR = struct.Struct("=BBBBI")
RTMSG = struct.Struct("=BBBBBBBBI")
ATTR = struct.Struct("=HH")
STATS64 = struct.Struct("=8Q")

REQUEST, ACK, ROOT_MATCH, REPLACE, EXCL, CREATE = 1, 4, 0x300, 0x100, 0x200, 0x400
NLMSG_ERROR, NLMSG_DONE = 2, 3
NEWLINK, DELLINK, GETLINK, SETLINK = 16, 17, 18, 19
NEWADDR, DELADDR, GETADDR = 20, 21, 22
NEWROUTE, DELROUTE, GETROUTE = 24, 25, 26

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER = 1, 3, 4, 5, 10
IFLA_OPERSTATE, IFLA_LINKINFO, IFLA_NET_NS_PID, IFLA_STATS64 = 16, 18, 19, 23
IFLA_NET_NS_FD, IFLA_EXT_MASK = 28, 29
IFLA_INFO_KIND, IFLA_INFO_DATA = 1, 2
VETH_INFO_PEER, MACVLAN_MODE, VLAN_ID, VLAN_FLAGS = 1, 1, 1, 2
VLAN_FLAG_GVRP = 2
IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST, IFA_FLAGS = 1, 2, 4, 8
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PREFSRC, RTA_TABLE = 1, 4, 5, 7, 15
RT_TABLE_MAIN, RTN_UNICAST, RTN_LOCAL = 254, 1, 2

IFF_UP = 1
IFF_BROADCAST = 2
IFF_LOOPBACK = 8
IFF_POINTOPOINT = 16

MACVLAN_BRIDGE = 4
SCOPE_GLOBAL, SCOPE_LINK, SCOPE_HOST = 0, 253, 254
PROTOCOL_STATIC = 4
OPERSTATES = ("unknown", "notpresent", "down", "lowerlayerdown", "testing", "dormant", "up")
SCOPES = {SCOPE_GLOBAL: "global", SCOPE_LINK: "link", SCOPE_HOST: "local"}


@dataclass(frozen=True, slots=True)
class Counters:
    """Totals since the interface was made."""

    bytes_received: int = 0
    bytes_sent: int = 0
    packets_received: int = 0
    packets_sent: int = 0
    errors_received: int = 0
    errors_sent: int = 0
    packets_dropped_inbound: int = 0
    packets_dropped_outbound: int = 0


@dataclass(frozen=True, slots=True)
class Address:
    """An address of an interface; `scope` is global, link or local."""

    address: str
    prefix: int
    scope: str
    family: str
    flags: int = 0


@dataclass(slots=True)
class Link:
    """An interface as the kernel shows it. `state` is the operational state; `link` the lower or peer index."""

    index: int
    name: str
    flags: int
    mac: str = ""
    mtu: int = 0
    state: str = "unknown"
    kind: str = ""
    master: int = 0
    link: int = 0
    counters: Counters = field(default_factory=Counters)
    addresses: list[Address] = field(default_factory=list)

    @property
    def is_up(self) -> bool:
        """Whether it is administratively up."""
        return bool(self.flags & IFF_UP)

    @property
    def type(self) -> str:
        """The word of LXD's API for its kind of flags."""
        if self.flags & IFF_LOOPBACK:
            return "loopback"
        if self.flags & IFF_BROADCAST:
            return "broadcast"
        return "point-to-point" if self.flags & IFF_POINTOPOINT else "unknown"


@dataclass(frozen=True, slots=True)
class Route:
    """A route; `destination` is "default" or a network, the rest is empty where it is absent."""

    destination: str
    gateway: str = ""
    interface: int = 0
    source: str = ""
    protocol: int = PROTOCOL_STATIC
    scope: int = SCOPE_GLOBAL
    table: int = RT_TABLE_MAIN


def attribute(kind: int, payload: bytes) -> bytes:
    """One netlink attribute, padded."""
    return ATTR.pack(ATTR.size + len(payload), kind) + payload + b"\0" * (-len(payload) % ALIGN)


def parse_attributes(data: bytes, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """The attributes of a message's tail; flag bits of the kind are masked."""
    while offset + ATTR.size <= len(data):
        length, kind = ATTR.unpack_from(data, offset)
        if length < ATTR.size:
            return
        yield kind & 0x3FFF, data[offset + ATTR.size : offset + length]
        offset += (length + ALIGN - 1) & ~(ALIGN - 1)


def format_mac(raw: bytes) -> str:
    """A hardware address in colon notation."""
    return ":".join(f"{byte:02x}" for byte in raw)


def parse_mac(text: str) -> bytes:
    """The bytes of a hardware address."""
    return bytes.fromhex(text.replace(":", "").replace("-", ""))


def parse_link(body: bytes) -> Link:
    """An RTM_NEWLINK message without its header."""
    _, _, index, flags, _ = IFINFO.unpack_from(body)
    link = Link(index, "", flags)
    for kind, value in parse_attributes(body, IFINFO.size):
        if kind == IFLA_IFNAME:
            link.name = value.rstrip(b"\0").decode(errors="replace")
        elif kind == IFLA_ADDRESS:
            link.mac = format_mac(value)
        elif kind in (IFLA_MTU, IFLA_MASTER, IFLA_LINK):
            number = struct.unpack("=I", value[:4])[0]
            setattr(link, {IFLA_MTU: "mtu", IFLA_MASTER: "master", IFLA_LINK: "link"}[kind], number)
        elif kind == IFLA_OPERSTATE:
            link.state = OPERSTATES[value[0]] if value[0] < len(OPERSTATES) else "unknown"
        elif kind == IFLA_STATS64 and len(value) >= STATS64.size:
            link.counters = _parse_counters(value)
        elif kind == IFLA_LINKINFO:
            nested = dict(parse_attributes(value))
            link.kind = nested.get(IFLA_INFO_KIND, b"").rstrip(b"\0").decode()
    return link


def _parse_counters(value: bytes) -> Counters:
    rx_packets, tx_packets, rx_bytes, tx_bytes, rx_errors, tx_errors, rx_dropped, tx_dropped = STATS64.unpack_from(
        value
    )
    return Counters(rx_bytes, tx_bytes, rx_packets, tx_packets, rx_errors, tx_errors, rx_dropped, tx_dropped)


def parse_address(body: bytes) -> tuple[int, Address] | None:
    """The interface index and the address of an RTM_NEWADDR message without its header."""
    family, prefix, flags, scope, index = IFADDR.unpack_from(body)
    attributes = dict(parse_attributes(body, IFADDR.size))
    raw = attributes.get(IFA_LOCAL) or attributes.get(IFA_ADDRESS)
    if raw is None or family not in (socket.AF_INET, socket.AF_INET6):
        return None
    if IFA_FLAGS in attributes:
        flags = struct.unpack("=I", attributes[IFA_FLAGS])[0]
    word = "inet" if family == socket.AF_INET else "inet6"
    return index, Address(socket.inet_ntop(family, raw), prefix, SCOPES.get(scope, "global"), word, flags)


def parse_route(body: bytes) -> Route | None:
    """The route of an RTM_NEWROUTE message without its header; None for other than unicast and local ones."""
    family, prefix, _, _, table, protocol, scope, kind, _ = RTMSG.unpack_from(body)
    if kind not in (RTN_UNICAST, RTN_LOCAL) or family not in (socket.AF_INET, socket.AF_INET6):
        return None
    attributes = dict(parse_attributes(body, RTMSG.size))

    def text(key: int) -> str:
        return socket.inet_ntop(family, attributes[key]) if key in attributes else ""

    destination = f"{text(RTA_DST)}/{prefix}" if RTA_DST in attributes else "default"
    interface = struct.unpack("=I", attributes[RTA_OIF])[0] if RTA_OIF in attributes else 0
    if RTA_TABLE in attributes:
        table = struct.unpack("=I", attributes[RTA_TABLE])[0]
    return Route(destination, text(RTA_GATEWAY), interface, text(RTA_PREFSRC), protocol, scope, table)


def pack_u32(value: int) -> bytes:
    """Four bytes in the machine's order."""
    return struct.pack("=I", value)


def pack_name(value: str) -> bytes:
    """An interface's name. Raises OSError EINVAL for one that the kernel would cut."""
    encoded = value.encode() + b"\0"
    if not 1 < len(encoded) <= 16:
        raise OSError(errno.EINVAL, "An interface name has 1 to 15 characters", value)
    return encoded


def compose_address(index: int, address: str) -> bytes:
    """The message for an address in CIDR notation on the interface of an index, without its header."""
    interface = ipaddress.ip_interface(address)
    family = socket.AF_INET if interface.version == 4 else socket.AF_INET6
    raw = interface.ip.packed
    scope = SCOPE_LINK if interface.ip.is_link_local else SCOPE_GLOBAL
    body = IFADDR.pack(family, interface.network.prefixlen, 0, scope, index)
    body += attribute(IFA_LOCAL, raw) + attribute(IFA_ADDRESS, raw)
    if interface.version == 4 and interface.network.prefixlen < 31:
        body += attribute(IFA_BROADCAST, interface.network.broadcast_address.packed)
    return body


def compose_route(route: Route) -> bytes:
    """The message for a route, without its header."""
    network = None if route.destination == "default" else ipaddress.ip_network(route.destination, strict=False)
    gateway = ipaddress.ip_address(route.gateway) if route.gateway else None
    source = ipaddress.ip_address(route.source) if route.source else None
    version = next((item.version for item in (network, gateway, source) if item is not None), 4)
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    table = route.table if route.table < 256 else 0
    prefix = network.prefixlen if network is not None else 0
    body = RTMSG.pack(family, prefix, 0, 0, table, route.protocol, route.scope, RTN_UNICAST, 0)
    if network is not None:
        body += attribute(RTA_DST, network.network_address.packed)
    if gateway is not None:
        body += attribute(RTA_GATEWAY, gateway.packed)
    if source is not None:
        body += attribute(RTA_PREFSRC, source.packed)
    if route.interface:
        body += attribute(RTA_OIF, pack_u32(route.interface))
    return body + attribute(RTA_TABLE, pack_u32(route.table))
