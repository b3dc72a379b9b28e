"""The headers that proxies send in front of a connection."""

import ipaddress

import pytest

from corral.errors import InvalidRequest
from corral.server.rest.proxy_protocol import V2_SIGNATURE, parse


def _v2(source: str, port: int, *, command: int = 1, rest: bytes = b"") -> bytes:
    address = ipaddress.ip_address(source)
    family = 0x11 if address.version == 4 else 0x21
    block = address.packed * 2 + port.to_bytes(2, "big") * 2 + rest
    return V2_SIGNATURE + bytes([0x20 | command, family]) + len(block).to_bytes(2, "big") + block


def test_version_1() -> None:
    line = b"PROXY TCP4 192.0.2.1 192.0.2.2 1234 8443\r\n"
    assert parse(line + b"\x16more") == (len(line), ("192.0.2.1", 1234))
    six = b"PROXY TCP6 2001:db8::1 2001:db8::2 1234 8443\r\n"
    assert parse(six) == (len(six), ("2001:db8::1", 1234))
    assert parse(b"PROXY UNKNOWN\r\n\x16") == (15, None)


def test_version_2() -> None:
    data = _v2("192.0.2.1", 1234)
    assert parse(data + b"\x16") == (len(data), ("192.0.2.1", 1234))
    data = _v2("2001:db8::1", 99, rest=b"\x04\x00\x01\x00")
    assert parse(data) == (len(data), ("2001:db8::1", 99))
    data = _v2("192.0.2.1", 1234, command=0)
    assert parse(data) == (len(data), None)


@pytest.mark.parametrize("whole", [b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", _v2("192.0.2.1", 1)])
def test_half_a_header_waits_for_the_rest(whole: bytes) -> None:
    assert all(parse(whole[:length]) is None for length in range(1, len(whole)))


@pytest.mark.parametrize("data", [b"\x16\x03\x01", b"GET / HTTP/1.1\r\n", b"PRO\r"])
def test_without_a_header(data: bytes) -> None:
    assert parse(data) == (0, None)


@pytest.mark.parametrize(
    "data",
    [
        b"PROXY TCP4 nonsense 192.0.2.2 1 2\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 99999 2\r\n",
        b"PROXY TCP9 192.0.2.1 192.0.2.2 1 2\r\n",
        b"PROXY " + b"x" * 200,
        V2_SIGNATURE + b"\x31\x11\x00\x0c" + b"\0" * 12,
        V2_SIGNATURE + b"\x21\x11\xff\xff",
        V2_SIGNATURE + b"\x21\x21\x00\x0c" + b"\0" * 12,
    ],
)
def test_damaged_headers(data: bytes) -> None:
    with pytest.raises(InvalidRequest, match="PROXY protocol"):
        parse(data)
