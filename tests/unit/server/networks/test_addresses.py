"""Subnets, ranges, and free ones."""

import ipaddress
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.errors import Conflict, InvalidRequest
from corral.server.networks import addresses


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("10.0.0.1", 4),
        ("10.0.0.0/24", 4),
        ("10.0.0.1/33", 4),
        ("fd42::1/64", 4),
        ("10.0.0.1/24", 6),
        ("x/24", 4),
        ("", 4),
    ],
)
def test_an_interface_needs_a_host_and_a_prefix(text: str, version: int) -> None:
    with pytest.raises(InvalidRequest):
        addresses.parse_interface(text, version)


def test_an_interface_keeps_its_host_part() -> None:
    found = addresses.parse_interface("10.1.2.3/24", 4)
    assert (str(found.ip), str(found.network)) == ("10.1.2.3", "10.1.2.0/24")


@pytest.mark.parametrize("text", ["10.1.2.0", "10.1.2.3/24", "fd42::/64", "nonsense/8"])
def test_a_subnet_has_a_prefix_and_no_host(text: str) -> None:
    with pytest.raises(InvalidRequest):
        addresses.parse_subnet(text, 4)


@pytest.mark.parametrize("text", ["10.0.0.5", "10.0.0.9-10.0.0.5", "10.0.0.1-fd42::1", "a-b"])
def test_a_range_is_two_addresses_in_order(text: str) -> None:
    with pytest.raises(InvalidRequest):
        addresses.parse_range(text, 4)


def test_a_range_holds_its_ends() -> None:
    (found,) = addresses.parse_ranges(" 10.0.0.5-10.0.0.9 ,", 4)
    assert ipaddress.ip_address("10.0.0.5") in found
    assert ipaddress.ip_address("10.0.0.9") in found
    assert ipaddress.ip_address("10.0.0.10") not in found
    assert ipaddress.ip_address("::a00:5") not in found


def test_eui64_flips_the_local_bit() -> None:
    subnet = ipaddress.IPv6Network("fd42:1:2:3::/64")
    assert str(addresses.eui64(subnet, "00:16:3e:12:34:56")) == "fd42:1:2:3:216:3eff:fe12:3456"


@given(st.integers(), st.lists(st.integers(0, 255), max_size=200))
def test_a_free_subnet_overlaps_with_none_in_use(seed: int, second_octets: list[int]) -> None:
    taken = [ipaddress.ip_network(f"10.{octet}.0.0/16") for octet in second_octets]
    found = ipaddress.ip_interface(addresses.free_ipv4_subnet(taken, random.Random(seed)))
    assert found.network.prefixlen == 24
    assert str(found.ip).endswith(".1")
    assert not any(found.network.overlaps(subnet) for subnet in taken if isinstance(subnet, ipaddress.IPv4Network))


def test_without_a_free_subnet_there_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(Conflict, match=r"manual configuration required: set ipv4\.address"):
        addresses.free_ipv4_subnet([ipaddress.ip_network("10.0.0.0/8")], random.Random(1))


def test_the_default_route_takes_no_subnet() -> None:
    assert addresses.free_ipv6_subnet([ipaddress.ip_network("::/0")], random.Random(1)).startswith("fd42:")


def test_a_free_address_is_in_the_ranges_and_nobodys() -> None:
    gateway = ipaddress.ip_interface("10.0.0.1/29")
    used = [ipaddress.ip_address("10.0.0.2")]
    assert str(addresses.free_address(gateway, (), used)) == "10.0.0.3"
    ranges = addresses.parse_ranges("10.0.0.2-10.0.0.2,10.0.0.6-10.0.0.6", 4)
    assert str(addresses.free_address(gateway, ranges, used)) == "10.0.0.6"
    with pytest.raises(Conflict):
        addresses.free_address(gateway, ranges[:1], used)
