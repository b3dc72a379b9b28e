"""Network interfaces, addresses and routes by a routing socket; its messages are in rtnetlink.py.

`Netlink` is one socket in one network namespace. Names are those of the namespace. Errors of the kernel are OSError
(FileExistsError, PermissionError, errno ENODEV for a missing interface).
"""

import errno
import os
import socket
import struct
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from corral.server.host import syscalls
from corral.server.host.network import rtnetlink as rt
from corral.server.host.network.rtnetlink import Address, Link, Route

TIMEOUT_S = 10.0


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
        body = rt.IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + rt.attribute(rt.IFLA_EXT_MASK, rt.pack_u32(8))
        links = [rt.parse_link(message) for message in self._dump(rt.GETLINK, rt.NEWLINK, body)]
        if with_addresses:
            by_index = {link.index: link for link in links}
            for index, address in self.list_addresses():
                if index in by_index:
                    by_index[index].addresses.append(address)
        return links

    def get_link(self, name: str) -> Link:
        """One interface. Raises OSError ENODEV."""
        body = rt.IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + rt.attribute(rt.IFLA_IFNAME, rt.pack_name(name))
        return rt.parse_link(self._request(rt.GETLINK, 0, body))

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
        data = rt.attribute(rt.VLAN_ID, struct.pack("=H", vlan))
        if gvrp:
            data += rt.attribute(rt.VLAN_FLAGS, struct.pack("=II", rt.VLAN_FLAG_GVRP, rt.VLAN_FLAG_GVRP))
        self._create(name, "vlan", data, parent=self.get_link(parent).index, mac=mac)

    def create_macvlan(self, name: str, parent: str, *, mac: str = "", mode: int = rt.MACVLAN_BRIDGE) -> None:
        """Create a macvlan interface on a parent, down."""
        data = rt.attribute(rt.MACVLAN_MODE, rt.pack_u32(mode))
        self._create(name, "macvlan", data, parent=self.get_link(parent).index, mac=mac)

    def create_veth(self, name: str, peer: str, *, mac: str = "", peer_mac: str = "", mtu: int = 0) -> None:
        """Create a pair of connected interfaces, down."""
        body = rt.IFINFO.pack(0, 0, 0, 0, 0) + rt.attribute(rt.IFLA_IFNAME, rt.pack_name(peer))
        if peer_mac:
            body += rt.attribute(rt.IFLA_ADDRESS, rt.parse_mac(peer_mac))
        if mtu:
            body += rt.attribute(rt.IFLA_MTU, rt.pack_u32(mtu))
        self._create(name, "veth", rt.attribute(rt.VETH_INFO_PEER, body), mac=mac, mtu=mtu)

    def _create(self, name: str, kind: str, data: bytes, *, parent: int = 0, mac: str = "", mtu: int = 0) -> None:
        body = rt.IFINFO.pack(0, 0, 0, 0, 0) + rt.attribute(rt.IFLA_IFNAME, rt.pack_name(name))
        if mac:
            body += rt.attribute(rt.IFLA_ADDRESS, rt.parse_mac(mac))
        if mtu:
            body += rt.attribute(rt.IFLA_MTU, rt.pack_u32(mtu))
        if parent:
            body += rt.attribute(rt.IFLA_LINK, rt.pack_u32(parent))
        info = rt.attribute(rt.IFLA_INFO_KIND, kind.encode() + b"\0")
        if data:
            info += rt.attribute(rt.IFLA_INFO_DATA, data)
        self._request(rt.NEWLINK, rt.CREATE | rt.EXCL, body + rt.attribute(rt.IFLA_LINKINFO, info))

    def delete_link(self, name: str) -> None:
        """Delete an interface."""
        self._request(rt.DELLINK, 0, rt.IFINFO.pack(0, 0, 0, 0, 0) + rt.attribute(rt.IFLA_IFNAME, rt.pack_name(name)))

    def ensure_link_deleted(self, name: str) -> None:
        """Delete an interface if it exists."""
        try:
            self.delete_link(name)
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise

    def set_up(self, name: str, up: bool = True) -> None:
        """Bring an interface up or down."""
        self._change(name, b"", flags=rt.IFF_UP if up else 0, mask=rt.IFF_UP)

    def set_master(self, name: str, master: str | None) -> None:
        """Make an interface a port of a bridge, or free it."""
        index = self.get_link(master).index if master is not None else 0
        self._change(name, rt.attribute(rt.IFLA_MASTER, rt.pack_u32(index)))

    def set_mtu(self, name: str, mtu: int) -> None:
        """Set the MTU in bytes."""
        self._change(name, rt.attribute(rt.IFLA_MTU, rt.pack_u32(mtu)))

    def set_mac(self, name: str, mac: str) -> None:
        """Set the hardware address."""
        self._change(name, rt.attribute(rt.IFLA_ADDRESS, rt.parse_mac(mac)))

    def rename_link(self, name: str, new_name: str) -> None:
        """Rename an interface (which must be down on older kernels)."""
        index = self.get_link(name).index
        self._request(
            rt.SETLINK, 0, rt.IFINFO.pack(0, 0, index, 0, 0) + rt.attribute(rt.IFLA_IFNAME, rt.pack_name(new_name))
        )

    def move_link(self, name: str, *, pid: int | None = None, namespace: int | None = None, new_name: str = "") -> None:
        """Move an interface into the network namespace of a process or of a descriptor."""
        index = self.get_link(name).index
        body = rt.IFINFO.pack(0, 0, index, 0, 0)
        if namespace is not None:
            body += rt.attribute(rt.IFLA_NET_NS_FD, rt.pack_u32(namespace))
        else:
            body += rt.attribute(rt.IFLA_NET_NS_PID, rt.pack_u32(pid or os.getpid()))
        if new_name:
            body += rt.attribute(rt.IFLA_IFNAME, rt.pack_name(new_name))
        self._request(rt.SETLINK, 0, body)

    def _change(self, name: str, attributes: bytes, *, flags: int = 0, mask: int = 0) -> None:
        body = rt.IFINFO.pack(0, 0, 0, flags, mask) + rt.attribute(rt.IFLA_IFNAME, rt.pack_name(name)) + attributes
        self._request(rt.NEWLINK, 0, body)

    # Addresses

    def list_addresses(self) -> list[tuple[int, Address]]:
        """All addresses with the index of their interface."""
        messages = self._dump(rt.GETADDR, rt.NEWADDR, rt.IFADDR.pack(0, 0, 0, 0, 0))
        return [found for found in map(rt.parse_address, messages) if found is not None]

    def add_address(self, name: str, address: str) -> None:
        """Give an interface an address in CIDR notation. Raises FileExistsError."""
        self._request(rt.NEWADDR, rt.CREATE | rt.EXCL, self._address_body(name, address))

    def ensure_address(self, name: str, address: str) -> None:
        """Give an interface an address unless it has it."""
        self._request(rt.NEWADDR, rt.CREATE | rt.REPLACE, self._address_body(name, address))

    def delete_address(self, name: str, address: str) -> None:
        """Take an address from an interface. Raises OSError EADDRNOTAVAIL."""
        self._request(rt.DELADDR, 0, self._address_body(name, address))

    def _address_body(self, name: str, address: str) -> bytes:
        return rt.compose_address(self.get_link(name).index, address)

    # Routes

    def list_routes(self, family: int = socket.AF_UNSPEC) -> list[Route]:
        """The routes of all tables."""
        messages = self._dump(rt.GETROUTE, rt.NEWROUTE, rt.RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0))
        return [found for found in map(rt.parse_route, messages) if found is not None]

    def add_route(self, route: Route) -> None:
        """Add a route. Raises FileExistsError where there is one to its destination."""
        self._request(rt.NEWROUTE, rt.CREATE | rt.EXCL, rt.compose_route(route))

    def ensure_route(self, route: Route) -> None:
        """Add or replace a route."""
        self._request(rt.NEWROUTE, rt.CREATE | rt.REPLACE, rt.compose_route(route))

    def delete_route(self, route: Route) -> None:
        """Delete a route. Raises ProcessLookupError (ESRCH) where there is none."""
        self._request(rt.DELROUTE, 0, rt.compose_route(route))

    # Messages

    def _send(self, kind: int, flags: int, body: bytes) -> int:
        self._sequence += 1
        header = rt.HEADER.pack(rt.HEADER.size + len(body), kind, rt.REQUEST | flags, self._sequence, 0)
        self._socket.send(header + body)
        return self._sequence

    def _request(self, kind: int, flags: int, body: bytes) -> bytes:
        """Send a request and return the body of its answer, if it has one besides the acknowledgement."""
        sequence = self._send(kind, flags | rt.ACK, body)
        answer = b""
        for answered, message in self._messages(sequence):
            if answered == rt.NLMSG_ERROR:
                return answer
            answer = message
        return answer

    def _dump(self, kind: int, wanted: int, body: bytes) -> list[bytes]:
        sequence = self._send(kind, rt.ROOT_MATCH, body)
        return [message for answered, message in self._messages(sequence) if answered == wanted]

    def _messages(self, sequence: int) -> Iterator[tuple[int, bytes]]:
        while True:
            data = self._socket.recv(262144)
            offset = 0
            while offset + rt.HEADER.size <= len(data):
                length, kind, _, answered, _ = rt.HEADER.unpack_from(data, offset)
                body = data[offset + rt.HEADER.size : offset + length]
                offset += (length + rt.ALIGN - 1) & ~(rt.ALIGN - 1)
                if answered != sequence:
                    continue
                if kind == rt.NLMSG_ERROR:
                    _raise_kernel_error(body)
                if kind == rt.NLMSG_DONE:
                    return
                yield kind, body
                if kind == rt.NLMSG_ERROR:
                    return


def _raise_kernel_error(body: bytes) -> None:
    number = -struct.unpack_from("=i", body)[0]
    if number:
        raise OSError(number, os.strerror(number))
