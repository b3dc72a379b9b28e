"""Small pure parts: settings and devices from arguments, times, tokens, log lines, addresses."""

import pytest

from corral.cli.commands.config_trust import encode_token
from corral.cli.commands.console import Detach
from corral.cli.commands.image_build import parse_recipe
from corral.cli.commands.monitor import format_pretty
from corral.cli.commands.remote_add import decode_token, normalize_address
from corral.cli.commands.storage import _users
from corral.cli.commands.storage_volume_devices import parse_volume
from corral.cli.session import order, parse_device_overrides, parse_settings, pick
from corral.cli.times import format_local, format_long_utc, format_utc, is_set
from corral.errors import CorralError


def test_recipes() -> None:
    assert parse_recipe("debian/12", "") == ("debian", "12", "default")
    assert parse_recipe("debian/12/cloud", "") == ("debian", "12", "cloud")
    assert parse_recipe("debian/12", "minimal") == ("debian", "12", "minimal")
    assert parse_recipe("debian/12/cloud", "cloud") == ("debian", "12", "cloud")
    assert parse_recipe("busybox", "") == ("busybox", "", "default")
    with pytest.raises(CorralError, match="Two variants"):
        parse_recipe("debian/12/cloud", "minimal")
    for nonsense in ("", "/12", "debian/12/cloud/more"):
        with pytest.raises(CorralError, match="Say what to build"):
            parse_recipe(nonsense, "")


def test_settings() -> None:
    assert parse_settings(["a", "b"]) == {"a": "b"}
    assert parse_settings(["a=b=c", "d="]) == {"a": "b=c", "d": ""}
    with pytest.raises(CorralError, match="Invalid key=value configuration: b"):
        parse_settings(["a=1", "b"])


def test_device_overrides() -> None:
    assert parse_device_overrides(["root,size=1GiB", "root,pool=p", "eth0,name=x,y"]) == {
        "root": {"size": "1GiB", "pool": "p"},
        "eth0": {"name": "x,y"},
    }
    with pytest.raises(CorralError, match="Bad device override syntax"):
        parse_device_overrides(["root"])


def test_pick_and_order() -> None:
    body = {"b": 1, "a": 2, "c": None}
    assert pick(body, ("a", "x")) == {"a": 2}
    assert list(order(body, ("a", "b"))) == ["a", "b", "c"]
    assert list(order(body, ("a", "b"), ("c",))) == ["a", "b"]


def test_times(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "CET-1")
    time.tzset()
    try:
        assert format_utc("2022-01-02T23:04:05.123456789Z") == "2022/01/02 23:04 UTC"
        assert format_utc("2022-01-02T23:04:05+02:00") == "2022/01/02 21:04 UTC"
        assert format_local("2022-01-02T23:04:05Z") == "2022/01/03 00:04 CET"
        assert format_long_utc("2022-01-02T00:04:05Z") == "Jan 2, 2022 at 12:04am (UTC)"
        assert format_long_utc("2022-11-12T15:04:05.5Z") == "Nov 12, 2022 at 3:04pm (UTC)"
    finally:
        monkeypatch.undo()
        time.tzset()
    assert is_set("2022-01-02T23:04:05Z")
    assert not is_set("0001-01-01T00:00:00Z")
    assert not is_set("1970-01-01T00:00:00Z")
    assert not is_set(None)


def test_tokens_round_trip() -> None:
    metadata = {"request": {"name": "n"}, "fingerprint": "f", "addresses": ["10.0.0.1:8443"], "secret": "s"}
    token = decode_token(encode_token({"metadata": metadata}))
    assert token == {
        "client_name": "n",
        "fingerprint": "f",
        "addresses": ["10.0.0.1:8443"],
        "secret": "s",
        "expires_at": "0001-01-01T00:00:00Z",
    }
    assert decode_token("10.0.0.1") is None
    assert decode_token("aGVsbG8=") is None
    with pytest.raises(CorralError, match="Failed converting token operation"):
        encode_token({"metadata": {}})


@pytest.mark.parametrize(
    ("typed", "url"),
    [
        ("10.0.0.1", "https://10.0.0.1:8443"),
        ("host:443", "https://host:443"),
        ("https://host", "https://host:8443"),
        ("https://host:9/path", "https://host:9"),
        ("fd00::1", "https://[fd00::1]:8443"),
        ("[fd00::1]:9", "https://[fd00::1]:9"),
        ("unix:/run/x", "unix:///run/x"),
        ("unix:///run/x", "unix:///run/x"),
        ("/run/x", "unix:///run/x"),
    ],
)
def test_addresses(typed: str, url: str) -> None:
    assert normalize_address(typed) == url


def test_a_strange_scheme_is_refused() -> None:
    with pytest.raises(CorralError, match='Invalid URL scheme "ftp" in "ftp://x"'):
        normalize_address("ftp://x")


def test_pretty_events() -> None:
    event = {
        "type": "logging",
        "timestamp": "2022-01-02T03:04:05.5Z",
        "metadata": {"level": "warning", "message": "hm", "context": {"b": "two words", "a": "1"}},
    }
    assert format_pretty(event, 5) == f'WARNING [2022-01-02T03:04:05Z] {"hm":<44} a=1 b="two words"'
    assert format_pretty(event, 2) == ""
    lifecycle = {
        "type": "lifecycle",
        "timestamp": "2022-01-02T03:04:05+01:00",
        "metadata": {"action": "instance-created", "source": "/1.0/instances/c1"},
    }
    assert format_pretty(lifecycle, 5) == (
        "INFO    [2022-01-02T03:04:05+01:00] Action: instance-created, Source: /1.0/instances/c1"
    )


def test_detaching_from_a_console() -> None:
    keys = Detach()
    assert keys(b"ls\r") == b"ls\r"
    assert keys(b"a\x01") == b"a"
    assert keys(b"x") == b"x"
    assert keys(b"q\x01\x01b") == b"q\x01b"
    assert keys(b"\x01q") is None


def test_volume_names() -> None:
    assert parse_volume("v1") == ("v1", "custom")
    assert parse_volume("container/c1") == ("c1", "container")
    assert parse_volume("v1/snap") == ("v1/snap", "custom")


def test_who_uses_a_pool() -> None:
    urls = [
        "/1.0/instances/c1",
        "/1.0/instances/c2?project=p",
        "/1.0/storage-pools/default/volumes/custom/v1?project=p&target=m",
    ]
    assert _users(urls) == {"instances": ["c1", 'c2 (project "p")'], "volumes": ['v1 (project "p", target "m")']}
