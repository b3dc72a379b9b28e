"""Names and values of configuration keys, and the texts of what is wrong."""

import pytest

from corral.errors import InvalidRequest
from corral.server.networks import keys


def problem(config: dict[str, str]) -> str:
    with pytest.raises(InvalidRequest) as caught:
        keys.validate(keys.BRIDGE_KEYS, "lxdbr0", config)
    return str(caught.value)


def test_unknown_keys_have_the_text_that_scripts_know() -> None:
    assert problem({"foo": "1"}) == 'Invalid option for network "lxdbr0" option "foo"'


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("bridge.mtu", "12", 'Out of MTU range (1280-16384) "12"'),
        ("bridge.mtu", "big", 'Invalid MTU "big"'),
        ("bridge.hwaddr", "00:11", "Invalid MAC address, must be 6 bytes of hex separated by colons"),
        ("bridge.external_interfaces", "eth0,x", 'Invalid interface name "x": Network interface is too short'),
        ("ipv4.dhcp.ranges", "10.0.0.1", "IP range must contain start and end IP addresses"),
        ("ipv4.nat", "maybe", "Invalid value for a boolean"),
        ("dns.mode", "odd", "not one of managed, dynamic, none"),
        ("ipv6.address", "10.0.0.1/24", "Not an IPv6 address"),
        ("tunnel.a.protocol", "ipip", "not one of gre, vxlan"),
    ],
)
def test_bad_values_name_the_network_and_the_key(key: str, value: str, reason: str) -> None:
    text = problem({key: value})
    assert text.startswith(f'Invalid value for network "lxdbr0" option "{key}": ')
    assert reason in text


def test_user_keys_and_empty_values_are_free() -> None:
    keys.validate(keys.BRIDGE_KEYS, "lxdbr0", {"user.anything": "x", "bridge.mtu": "", "ipv4.address": "auto"})


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a", "Network interface is too short (minimum 2 characters)"),
        ("a" * 16, "Network interface is too long (maximum 15 characters)"),
        ("a/b", "Network interface contains invalid characters"),
        ("..", "Network interface contains invalid characters"),
    ],
)
def test_interface_names(name: str, reason: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        keys.check_interface_name(name)
    assert str(caught.value) == reason


def test_names_that_would_break_a_url_are_refused() -> None:
    with pytest.raises(InvalidRequest, match='Cannot contain "/"'):
        keys.check_segment("a/b")
