"""Gives a DHCP lease back in the client's name, so that a deleted instance keeps no address (RFC 2131)."""

import ipaddress
import os
import socket
import struct

SERVER_PORT = 67
_HEADER = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s4s")
_COOKIE = bytes([99, 130, 83, 99])
_MESSAGE_TYPE, _SERVER_IDENTIFIER, _CLIENT_IDENTIFIER, _END = 53, 54, 61, 255
_RELEASE = 7


def compose_ipv4(server: str, address: str, hwaddr: str, client_id: str) -> bytes:
    """A DHCPRELEASE message. `client_id` is as in dnsmasq's lease file: octets in hex with colons, or `*` for none."""
    mac = bytes.fromhex(hwaddr.replace(":", ""))
    none = bytes(4)
    client = ipaddress.IPv4Address(address).packed
    transaction = int.from_bytes(os.urandom(4))
    header = _HEADER.pack(1, 1, len(mac), 0, transaction, 0, 0, client, none, none, none, mac, b"", b"", _COOKIE)
    options = bytes([_MESSAGE_TYPE, 1, _RELEASE, _SERVER_IDENTIFIER, 4]) + ipaddress.IPv4Address(server).packed
    if client_id != "*":
        identifier = bytes.fromhex(client_id.replace(":", ""))
        options += bytes([_CLIENT_IDENTIFIER, len(identifier)]) + identifier
    return header + options + bytes([_END])


def send_ipv4(interface: str, server: str, address: str, hwaddr: str, client_id: str) -> None:
    """Send the message to the server on this host that serves an interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        sender.sendto(compose_ipv4(server, address, hwaddr, client_id), (server, SERVER_PORT))
