"""Types of the server's keys, and addresses."""

import pytest

from corral.errors import InvalidRequest
from corral.server.settings import environment, keys


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("", "", None),
        (":8443", "", 8443),
        ("[::]", "::", None),
        ("[::]:1", "::", 1),
        ("::1", "::1", None),
        ("[fe80::1%eth0]:5", "fe80::1%eth0", 5),
        ("10.0.0.1", "10.0.0.1", None),
        ("10.0.0.1:65535", "10.0.0.1", 65535),
        ("host:2", "host", 2),
        ("host:", "host", None),
    ],
)
def test_addresses(text: str, host: str, port: int | None) -> None:
    assert keys.split_address(text) == (host, port)


@pytest.mark.parametrize("text", ["[::1", "[::1]x", "a:b", "a:0", "a:65536", "1:2:3", "a:-1", "[zz::1]:1"])
def test_bad_addresses(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"Invalid (address|port)"):
        keys.split_address(text)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [("::1", "[::1]:8443"), ("h", "h:8443"), (":1", ":1"), ("[::]:2", "[::]:2"), ("h:3", "h:3")],
)
def test_canonical_addresses(text: str, canonical: str) -> None:
    assert keys.canonical_address(text) == canonical


def test_where_the_server_can_be_reached() -> None:
    assert environment.list_addresses("") == []
    assert environment.list_addresses("::1") == ["[::1]:8443"]
    assert environment.list_addresses("h:1") == ["h:1"]
    for wildcard in (":1", "[::]:1", "0.0.0.0:1"):
        found = environment.list_addresses(wildcard)
        assert all(address.endswith(":1") and "127.0.0.1" not in address for address in found)
    assert not any(address.startswith("[") for address in environment.list_addresses("0.0.0.0:1"))


GOOD = {
    "core.https_address": [":8443", "[::]", "host:1"],
    "cluster.https_address": ["10.0.0.1:1"],
    "core.bgp_asn": ["0", "4294967294"],
    "core.bgp_routerid": ["1.2.3.4"],
    "cluster.max_voters": ["3", "5"],
    "cluster.max_standby": ["0", "5"],
    "cluster.offline_threshold": ["11"],
    "cluster.images_minimal_replica": ["-1", "1"],
    "cluster.join_token_expiry": ["3H", "1d 2H"],
    "images.compression_algorithm": ["none", "gzip", "gzip -9"],
    "images.default_architecture": ["aarch64"],
    "core.https_allowed_credentials": ["true", "Off", "1"],
    "storage.images_volume": ["pool/volume"],
}
BAD = {
    "core.https_address": ["a:99999"],
    "cluster.https_address": [":1", "0.0.0.0", "[::]:1"],
    "core.bgp_asn": ["-1", "4294967295", "x"],
    "core.bgp_routerid": ["::1", "x"],
    "cluster.max_voters": ["1", "4", "x"],
    "cluster.max_standby": ["-1", "6"],
    "cluster.offline_threshold": ["10", "x"],
    "cluster.images_minimal_replica": ["0", "-2"],
    "cluster.join_token_expiry": ["3h", "1d 2d", "x"],
    "images.compression_algorithm": ["no-such-program", "/bin/gzip", "'"],
    "images.default_architecture": ["pdp11"],
    "core.https_allowed_credentials": ["maybe"],
    "core.shutdown_timeout": ["1.5"],
    "storage.images_volume": ["pool", "/x", "a/b/c", "a/"],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in GOOD.items() for text in texts])
def test_good_values(name: str, text: str) -> None:
    key = keys.TABLE.find(name)
    assert key is not None
    key.check(text)


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in BAD.items() for text in texts])
def test_bad_values(name: str, text: str) -> None:
    key = keys.TABLE.find(name)
    assert key is not None
    with pytest.raises(InvalidRequest):
        key.check(text)


def test_defaults_are_values_of_their_keys() -> None:
    for key in keys.TABLE:
        if key.default is not None:
            key.check(key.default)
        assert key.doc
        assert key.scope in ("local", "global")
