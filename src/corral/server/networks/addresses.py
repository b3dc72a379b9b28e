"""Arithmetic with addresses and subnets (pure): hosts of a subnet, ranges, EUI-64, free subnets and addresses."""

import ipaddress
import random
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from corral.errors import Conflict, InvalidRequest

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Subnet = ipaddress.IPv4Network | ipaddress.IPv6Network
Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface

ATTEMPTS = 1000
"""Random subnets to try before giving up."""


@dataclass(frozen=True, slots=True)
class AddressRange:
    """Addresses from `first` to `last`, both included, of one family."""

    first: Address
    last: Address

    def __contains__(self, address: Address) -> bool:
        return address.version == self.first.version and int(self.first) <= int(address) <= int(self.last)


def parse_interface(text: str, version: int) -> Interface:
    """An address with its prefix length, such as 10.1.2.1/24; the subnet's own address is refused where it is IPv4."""
    family = "IPv4" if version == 4 else "IPv6"
    _, slash, prefix = text.partition("/")
    if not slash or not prefix.isdecimal():
        raise InvalidRequest(f"{text!r} is no {family} address with a prefix length, such as {_EXAMPLE[version]}")
    try:
        found = ipaddress.ip_interface(text)
    except ValueError as error:
        raise InvalidRequest(f"{text!r} is no {family} address with a prefix length: {error}") from error
    if found.version != version:
        raise InvalidRequest(f"Not an {family} address {text!r}")
    if found.ip == found.network.network_address and found.network.prefixlen < found.max_prefixlen:
        raise InvalidRequest(f"Not a usable {family} address {text!r}")
    return found


_EXAMPLE = {4: "10.1.2.1/24", 6: "fd42:1:2:3::1/64"}


def parse_subnet(text: str, version: int) -> Subnet:
    """A subnet such as 10.1.2.0/24, without bits of a host."""
    family = "IPv4" if version == 4 else "IPv6"
    if "/" not in text:
        raise InvalidRequest(f"Not an {family} network {text!r}: give a prefix length, such as {text}/{8 * version}")
    try:
        found = ipaddress.ip_network(text)
    except ValueError as error:
        raise InvalidRequest(f"Not an {family} network address {text!r}: {error}") from error
    if found.version != version:
        raise InvalidRequest(f"Not an {family} network {text!r}")
    return found


def parse_range(text: str, version: int) -> AddressRange:
    """A range such as 10.1.2.10-10.1.2.20."""
    first_text, dash, last_text = text.strip().partition("-")
    if not dash:
        raise InvalidRequest("IP range must contain start and end IP addresses")
    try:
        first, last = ipaddress.ip_address(first_text.strip()), ipaddress.ip_address(last_text.strip())
    except ValueError as error:
        raise InvalidRequest(f"Invalid IP range {text!r}: {error}") from error
    if first.version != version or last.version != version:
        raise InvalidRequest(f"IP range {text!r} is not of IPv{version} addresses")
    if int(first) > int(last):
        raise InvalidRequest(f"Start IP {str(first)!r} must be less than End IP {str(last)!r}")
    return AddressRange(first, last)


def parse_ranges(text: str, version: int) -> tuple[AddressRange, ...]:
    """Ranges divided by commas."""
    return tuple(parse_range(part, version) for part in text.split(",") if part.strip())


def host(subnet: Subnet, number: int) -> Address:
    """The address with this number in a subnet; negative numbers count from its end (-1 is the last address)."""
    return subnet[number]


def eui64(subnet: ipaddress.IPv6Network, hwaddr: str) -> ipaddress.IPv6Address:
    """The address that SLAAC gives to a MAC address in a /64 (RFC 4291, appendix A)."""
    octets = bytes.fromhex(hwaddr.replace(":", ""))
    identifier = bytes([octets[0] ^ 2]) + octets[1:3] + b"\xff\xfe" + octets[3:6]
    prefix = int(subnet.network_address) >> 64 << 64
    return ipaddress.IPv6Address(prefix | int.from_bytes(identifier))


def free_ipv4_subnet(taken: Collection[Subnet], rng: random.Random) -> str:
    """A random 10.x.y.1/24 that overlaps with none of the subnets in use."""
    return _free_subnet(lambda: f"10.{rng.randrange(256)}.{rng.randrange(256)}.1/24", taken, 4)


def free_ipv6_subnet(taken: Collection[Subnet], rng: random.Random) -> str:
    """A random fd42:x:y:z::1/64 that overlaps with none of the subnets in use."""
    return _free_subnet(
        lambda: f"fd42:{rng.randrange(65536):x}:{rng.randrange(65536):x}:{rng.randrange(65536):x}::1/64", taken, 6
    )


def _free_subnet(draw: Callable[[], str], taken: Collection[Subnet], version: int) -> str:
    relevant = [subnet for subnet in taken if subnet.version == version and subnet.prefixlen > 0]
    for _ in range(ATTEMPTS):
        text = draw()
        wanted = ipaddress.ip_interface(text).network
        if not any(overlap(wanted, subnet) for subnet in relevant):
            return text
    raise Conflict(
        f"Failed to automatically find an unused IPv{version} subnet, manual configuration required: "
        f"set ipv{version}.address"
    )


def overlap(one: Subnet, other: Subnet) -> bool:
    """Whether two subnets share addresses; those of different families never do."""
    if isinstance(one, ipaddress.IPv4Network) and isinstance(other, ipaddress.IPv4Network):
        return one.overlaps(other)
    if isinstance(one, ipaddress.IPv6Network) and isinstance(other, ipaddress.IPv6Network):
        return one.overlaps(other)
    return False


def free_address(gateway: Interface, ranges: Sequence[AddressRange], used: Iterable[Address]) -> Address:
    """The first address of the ranges, or of the whole subnet without ranges, that nobody has."""
    taken = {int(address) for address in used if address.version == gateway.version} | {int(gateway.ip)}
    subnet = gateway.network
    pools = list(ranges) or [AddressRange(host(subnet, 1), host(subnet, -2 if subnet.version == 4 else -1))]
    for pool in pools:
        number = int(pool.first)
        while number in taken:
            number += 1
        if number <= int(pool.last):
            return type(gateway.ip)(number)
    raise Conflict(f"No free address is left in {subnet}: widen the subnet or the DHCP ranges, or remove instances")
