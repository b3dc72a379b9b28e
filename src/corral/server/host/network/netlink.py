"""Network interfaces, addresses and routes by rtnetlink messages (rtnetlink(7), linux/if_link.h).

`Netlink` is one socket in one network namespace. Names are those of the namespace. Errors of the kernel are OSError
(FileExistsError, PermissionError, errno ENODEV for a missing interface).
"""

import errno
import ipaddress
import os
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from corral.server.host import syscalls

TIMEOUT_S = 10.0

_ALIGN = 4
_HEADER = struct.Struct("=IHHII")
_IFINFO = struct.Struct("=BxHiII")
_IFADDR = struct.Struct("=BBBBI")
_RTMSG = struct.Struct("=BBBBBBBBI")
_ATTR = struct.Struct("=HH")
_STATS64 = struct.Struct("=8Q")

_REQUEST, _ACK, _ROOT_MATCH, _REPLACE, _EXCL, _CREATE = 1, 4, 0x300, 0x100, 0x200, 0x400
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NEWLINK, _DELLINK, _GETLINK, _SETLINK = 16, 17, 18, 19
_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
_NEWROUTE, _DELROUTE, _GETROUTE = 24, 25, 26

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_MASTER = 1, 3, 4, 5, 10
_IFLA_OPERSTATE, _IFLA_LINKINFO, _IFLA_NET_NS_PID, _IFLA_STATS64 = 16, 18, 19, 23
_IFLA_NET_NS_FD, _IFLA_EXT_MASK, _IFLA_LINK_NETNSID = 28, 29, 37
_IFLA_INFO_KIND, _IFLA_INFO_DATA = 1, 2
_VETH_INFO_PEER, _MACVLAN_MODE, _VLAN_ID, _VLAN_FLAGS = 1, 1, 1, 2
_VLAN_FLAG_GVRP = 2
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST, _IFA_FLAGS = 1, 2, 4, 8
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PREFSRC, _RTA_TABLE = 1, 4, 5, 7, 15
_RT_TABLE_MAIN, _RTN_UNICAST, _RTN_LOCAL = 254, 1, 2

IFF_UP = 1
IFF_BROADCAST = 2
IFF_LOOPBACK = 8
IFF_POINTOPOINT = 16

MACVLAN_BRIDGE = 4
SCOPE_GLOBAL, SCOPE_LINK, SCOPE_HOST = 0, 253, 254
PROTOCOL_STATIC = 4
_OPERSTATES = ("unknown", "notpresent", "down", "lowerlayerdown", "testing", "dormant", "up")
_SCOPES = {SCOPE_GLOBAL: "global", SCOPE_LINK: "link", SCOPE_HOST: "local"}


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
    table: int = _RT_TABLE_MAIN


def attribute(kind: int, payload: bytes) -> bytes:
    """One netlink attribute, padded."""
    return _ATTR.pack(_ATTR.size + len(payload), kind) + payload + b"\0" * (-len(payload) % _ALIGN)


def parse_attributes(data: bytes, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """The attributes of a message's tail; flag bits of the kind are masked."""
    while offset + _ATTR.size <= len(data):
        length, kind = _ATTR.unpack_from(data, offset)
        if length < _ATTR.size:
            return
        yield kind & 0x3FFF, data[offset + _ATTR.size : offset + length]
        offset += (length + _ALIGN - 1) & ~(_ALIGN - 1)


def format_mac(raw: bytes) -> str:
    """A hardware address in colon notation."""
    return ":".join(f"{byte:02x}" for byte in raw)


def parse_mac(text: str) -> bytes:
    """The bytes of a hardware address."""
    return bytes.fromhex(text.replace(":", "").replace("-", ""))


def parse_link(body: bytes) -> Link:
    """An RTM_NEWLINK message without its header."""
    _, _, index, flags, _ = _IFINFO.unpack_from(body)
    link = Link(index, "", flags)
    for kind, value in parse_attributes(body, _IFINFO.size):
        if kind == _IFLA_IFNAME:
            link.name = value.rstrip(b"\0").decode(errors="replace")
        elif kind == _IFLA_ADDRESS:
            link.mac = format_mac(value)
        elif kind in (_IFLA_MTU, _IFLA_MASTER, _IFLA_LINK):
            number = struct.unpack("=I", value[:4])[0]
            setattr(link, {_IFLA_MTU: "mtu", _IFLA_MASTER: "master", _IFLA_LINK: "link"}[kind], number)
        elif kind == _IFLA_OPERSTATE:
            link.state = _OPERSTATES[value[0]] if value[0] < len(_OPERSTATES) else "unknown"
        elif kind == _IFLA_STATS64 and len(value) >= _STATS64.size:
            link.counters = _parse_counters(value)
        elif kind == _IFLA_LINKINFO:
            nested = dict(parse_attributes(value))
            link.kind = nested.get(_IFLA_INFO_KIND, b"").rstrip(b"\0").decode()
    return link


def _parse_counters(value: bytes) -> Counters:
    rx_packets, tx_packets, rx_bytes, tx_bytes, rx_errors, tx_errors, rx_dropped, tx_dropped = _STATS64.unpack_from(
        value
    )
    return Counters(rx_bytes, tx_bytes, rx_packets, tx_packets, rx_errors, tx_errors, rx_dropped, tx_dropped)


def parse_address(body: bytes) -> tuple[int, Address] | None:
    """The interface index and the address of an RTM_NEWADDR message without its header."""
    family, prefix, flags, scope, index = _IFADDR.unpack_from(body)
    attributes = dict(parse_attributes(body, _IFADDR.size))
    raw = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS)
    if raw is None or family not in (socket.AF_INET, socket.AF_INET6):
        return None
    if _IFA_FLAGS in attributes:
        flags = struct.unpack("=I", attributes[_IFA_FLAGS])[0]
    word = "inet" if family == socket.AF_INET else "inet6"
    return index, Address(socket.inet_ntop(family, raw), prefix, _SCOPES.get(scope, "global"), word, flags)


def parse_route(body: bytes) -> Route | None:
    """The route of an RTM_NEWROUTE message without its header; None for other than unicast and local ones."""
    family, prefix, _, _, table, protocol, scope, kind, _ = _RTMSG.unpack_from(body)
    if kind not in (_RTN_UNICAST, _RTN_LOCAL) or family not in (socket.AF_INET, socket.AF_INET6):
        return None
    attributes = dict(parse_attributes(body, _RTMSG.size))

    def text(key: int) -> str:
        return socket.inet_ntop(family, attributes[key]) if key in attributes else ""

    destination = f"{text(_RTA_DST)}/{prefix}" if _RTA_DST in attributes else "default"
    interface = struct.unpack("=I", attributes[_RTA_OIF])[0] if _RTA_OIF in attributes else 0
    if _RTA_TABLE in attributes:
        table = struct.unpack("=I", attributes[_RTA_TABLE])[0]
    return Route(destination, text(_RTA_GATEWAY), interface, text(_RTA_PREFSRC), protocol, scope, table)


def _u32(value: int) -> bytes:
    return struct.pack("=I", value)


def _text(value: str) -> bytes:
    encoded = value.encode() + b"\0"
    if not 1 < len(encoded) <= 16:
        raise OSError(errno.EINVAL, "An interface name has 1 to 15 characters", value)
    return encoded


def open_socket(namespace: int | None = None) -> socket.socket:
    """A routing socket in the caller's network namespace or in that of a descriptor (a pidfd works as well).

    A short-lived thread enters the namespace, so the caller's own thread never leaves its own.
    """
    if namespace is None:
        return _bound_socket()
    opened: list[socket.socket] = []
    failed: list[OSError] = []

    def enter() -> None:
        try:
            syscalls.setns(namespace, syscalls.CLONE_NEWNET)
            opened.append(_bound_socket())
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=enter, name="netns")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return opened[0]


def _bound_socket() -> socket.socket:
    routing = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    routing.settimeout(TIMEOUT_S)
    routing.bind((0, 0))
    return routing


class Netlink:
    """A routing socket with the requests that are needed; use as a context manager."""

    def __init__(self, namespace: int | None = None) -> None:
        self._socket = open_socket(namespace)
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    # Links

    def list_links(self, *, with_addresses: bool = False) -> list[Link]:
        """All interfaces in order of their index, with counters."""
        body = _IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + attribute(_IFLA_EXT_MASK, _u32(8))
        links = [parse_link(message) for message in self._dump(_GETLINK, _NEWLINK, body)]
        if with_addresses:
            by_index = {link.index: link for link in links}
            for index, address in self.list_addresses():
                if index in by_index:
                    by_index[index].addresses.append(address)
        return links

    def get_link(self, name: str) -> Link:
        """One interface. Raises OSError ENODEV."""
        body = _IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + attribute(_IFLA_IFNAME, _text(name))
        return parse_link(self._request(_GETLINK, 0, body))

    def find_link(self, name: str) -> Link | None:
        """One interface, or None."""
        try:
            return self.get_link(name)
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
            return None

    def create_bridge(self, name: str, *, mac: str = "", mtu: int = 0) -> None:
        """Create a bridge, down."""
        self._create(name, "bridge", b"", mac=mac)
        if mtu:
            # Only an MTU that is set afterwards survives the joining of ports.
            self.set_mtu(name, mtu)

    def create_vlan(self, name: str, parent: str, vlan: int, *, mac: str = "", gvrp: bool = False) -> None:
        """Create a VLAN interface on a parent, down; with `gvrp` it tells the switches that it wants the VLAN."""
        data = attribute(_VLAN_ID, struct.pack("=H", vlan))
        if gvrp:
            data += attribute(_VLAN_FLAGS, struct.pack("=II", _VLAN_FLAG_GVRP, _VLAN_FLAG_GVRP))
        self._create(name, "vlan", data, parent=self.get_link(parent).index, mac=mac)

    def create_macvlan(self, name: str, parent: str, *, mac: str = "", mode: int = MACVLAN_BRIDGE) -> None:
        """Create a macvlan interface on a parent, down."""
        data = attribute(_MACVLAN_MODE, _u32(mode))
        self._create(name, "macvlan", data, parent=self.get_link(parent).index, mac=mac)

    def create_veth(self, name: str, peer: str, *, mac: str = "", peer_mac: str = "", mtu: int = 0) -> None:
        """Create a pair of connected interfaces, down."""
        body = _IFINFO.pack(0, 0, 0, 0, 0) + attribute(_IFLA_IFNAME, _text(peer))
        if peer_mac:
            body += attribute(_IFLA_ADDRESS, parse_mac(peer_mac))
        if mtu:
            body += attribute(_IFLA_MTU, _u32(mtu))
        self._create(name, "veth", attribute(_VETH_INFO_PEER, body), mac=mac, mtu=mtu)

    def _create(self, name: str, kind: str, data: bytes, *, parent: int = 0, mac: str = "", mtu: int = 0) -> None:
        body = _IFINFO.pack(0, 0, 0, 0, 0) + attribute(_IFLA_IFNAME, _text(name))
        if mac:
            body += attribute(_IFLA_ADDRESS, parse_mac(mac))
        if mtu:
            body += attribute(_IFLA_MTU, _u32(mtu))
        if parent:
            body += attribute(_IFLA_LINK, _u32(parent))
        info = attribute(_IFLA_INFO_KIND, kind.encode() + b"\0")
        if data:
            info += attribute(_IFLA_INFO_DATA, data)
        self._request(_NEWLINK, _CREATE | _EXCL, body + attribute(_IFLA_LINKINFO, info))

    def delete_link(self, name: str) -> None:
        """Delete an interface."""
        self._request(_DELLINK, 0, _IFINFO.pack(0, 0, 0, 0, 0) + attribute(_IFLA_IFNAME, _text(name)))

    def ensure_link_deleted(self, name: str) -> None:
        """Delete an interface if it exists."""
        try:
            self.delete_link(name)
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise

    def set_up(self, name: str, up: bool = True) -> None:
        """Bring an interface up or down."""
        self._change(name, b"", flags=IFF_UP if up else 0, mask=IFF_UP)

    def set_master(self, name: str, master: str | None) -> None:
        """Make an interface a port of a bridge, or free it."""
        index = self.get_link(master).index if master is not None else 0
        self._change(name, attribute(_IFLA_MASTER, _u32(index)))

    def set_mtu(self, name: str, mtu: int) -> None:
        """Set the MTU in bytes."""
        self._change(name, attribute(_IFLA_MTU, _u32(mtu)))

    def set_mac(self, name: str, mac: str) -> None:
        """Set the hardware address."""
        self._change(name, attribute(_IFLA_ADDRESS, parse_mac(mac)))

    def rename_link(self, name: str, new_name: str) -> None:
        """Rename an interface (which must be down on older kernels)."""
        index = self.get_link(name).index
        self._request(_SETLINK, 0, _IFINFO.pack(0, 0, index, 0, 0) + attribute(_IFLA_IFNAME, _text(new_name)))

    def move_link(self, name: str, *, pid: int | None = None, namespace: int | None = None, new_name: str = "") -> None:
        """Move an interface into the network namespace of a process or of a descriptor."""
        index = self.get_link(name).index
        body = _IFINFO.pack(0, 0, index, 0, 0)
        if namespace is not None:
            body += attribute(_IFLA_NET_NS_FD, _u32(namespace))
        else:
            body += attribute(_IFLA_NET_NS_PID, _u32(pid or os.getpid()))
        if new_name:
            body += attribute(_IFLA_IFNAME, _text(new_name))
        self._request(_SETLINK, 0, body)

    def _change(self, name: str, attributes: bytes, *, flags: int = 0, mask: int = 0) -> None:
        body = _IFINFO.pack(0, 0, 0, flags, mask) + attribute(_IFLA_IFNAME, _text(name)) + attributes
        self._request(_NEWLINK, 0, body)

    # Addresses

    def list_addresses(self) -> list[tuple[int, Address]]:
        """All addresses with the index of their interface."""
        messages = self._dump(_GETADDR, _NEWADDR, _IFADDR.pack(0, 0, 0, 0, 0))
        return [found for found in map(parse_address, messages) if found is not None]

    def add_address(self, name: str, address: str) -> None:
        """Give an interface an address in CIDR notation. Raises FileExistsError."""
        self._request(_NEWADDR, _CREATE | _EXCL, self._address_body(name, address))

    def ensure_address(self, name: str, address: str) -> None:
        """Give an interface an address unless it has it."""
        self._request(_NEWADDR, _CREATE | _REPLACE, self._address_body(name, address))

    def delete_address(self, name: str, address: str) -> None:
        """Take an address from an interface. Raises OSError EADDRNOTAVAIL."""
        self._request(_DELADDR, 0, self._address_body(name, address))

    def _address_body(self, name: str, address: str) -> bytes:
        interface = ipaddress.ip_interface(address)
        family = socket.AF_INET if interface.version == 4 else socket.AF_INET6
        raw = interface.ip.packed
        scope = SCOPE_LINK if interface.ip.is_link_local else SCOPE_GLOBAL
        index = self.get_link(name).index
        body = _IFADDR.pack(family, interface.network.prefixlen, 0, scope, index)
        body += attribute(_IFA_LOCAL, raw) + attribute(_IFA_ADDRESS, raw)
        if interface.version == 4 and interface.network.prefixlen < 31:
            body += attribute(_IFA_BROADCAST, interface.network.broadcast_address.packed)
        return body

    # Routes

    def list_routes(self, family: int = socket.AF_UNSPEC) -> list[Route]:
        """The routes of all tables."""
        messages = self._dump(_GETROUTE, _NEWROUTE, _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0))
        return [found for found in map(parse_route, messages) if found is not None]

    def add_route(self, route: Route) -> None:
        """Add a route. Raises FileExistsError where there is one to its destination."""
        self._request(_NEWROUTE, _CREATE | _EXCL, _route_body(route))

    def ensure_route(self, route: Route) -> None:
        """Add or replace a route."""
        self._request(_NEWROUTE, _CREATE | _REPLACE, _route_body(route))

    def delete_route(self, route: Route) -> None:
        """Delete a route. Raises ProcessLookupError (ESRCH) where there is none."""
        self._request(_DELROUTE, 0, _route_body(route))

    # Messages

    def _send(self, kind: int, flags: int, body: bytes) -> int:
        self._sequence += 1
        header = _HEADER.pack(_HEADER.size + len(body), kind, _REQUEST | flags, self._sequence, 0)
        self._socket.send(header + body)
        return self._sequence

    def _request(self, kind: int, flags: int, body: bytes) -> bytes:
        """Send a request and return the body of its answer, if it has one besides the acknowledgement."""
        sequence = self._send(kind, flags | _ACK, body)
        answer = b""
        for answered, message in self._messages(sequence):
            if answered == _NLMSG_ERROR:
                return answer
            answer = message
        return answer

    def _dump(self, kind: int, wanted: int, body: bytes) -> list[bytes]:
        sequence = self._send(kind, _ROOT_MATCH, body)
        return [message for answered, message in self._messages(sequence) if answered == wanted]

    def _messages(self, sequence: int) -> Iterator[tuple[int, bytes]]:
        while True:
            data = self._socket.recv(262144)
            offset = 0
            while offset + _HEADER.size <= len(data):
                length, kind, _, answered, _ = _HEADER.unpack_from(data, offset)
                body = data[offset + _HEADER.size : offset + length]
                offset += (length + _ALIGN - 1) & ~(_ALIGN - 1)
                if answered != sequence:
                    continue
                if kind == _NLMSG_ERROR:
                    _raise_kernel_error(body)
                if kind == _NLMSG_DONE:
                    return
                yield kind, body
                if kind == _NLMSG_ERROR:
                    return


def _raise_kernel_error(body: bytes) -> None:
    number = -struct.unpack_from("=i", body)[0]
    if number:
        raise OSError(number, os.strerror(number))


def _route_body(route: Route) -> bytes:
    network = None if route.destination == "default" else ipaddress.ip_network(route.destination, strict=False)
    gateway = ipaddress.ip_address(route.gateway) if route.gateway else None
    source = ipaddress.ip_address(route.source) if route.source else None
    version = next((item.version for item in (network, gateway, source) if item is not None), 4)
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    table = route.table if route.table < 256 else 0
    prefix = network.prefixlen if network is not None else 0
    body = _RTMSG.pack(family, prefix, 0, 0, table, route.protocol, route.scope, _RTN_UNICAST, 0)
    if network is not None:
        body += attribute(_RTA_DST, network.network_address.packed)
    if gateway is not None:
        body += attribute(_RTA_GATEWAY, gateway.packed)
    if source is not None:
        body += attribute(_RTA_PREFSRC, source.packed)
    if route.interface:
        body += attribute(_RTA_OIF, _u32(route.interface))
    return body + attribute(_RTA_TABLE, _u32(route.table))
