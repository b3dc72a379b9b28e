"""The X-LXD-* headers of files, as clients send and read them."""

import pytest

from corral.errors import InvalidRequest
from corral.server.rest.routes.instance_files import FileHeaders, format_headers, parse_headers


def test_without_headers_a_file_is_overwritten() -> None:
    assert parse_headers({}) == FileHeaders(None, None, None, "file", "overwrite")


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("0644", 0o644),
        ("420", 420),
        ("04755", 0o755),
        ("0", 0),
        ("", None),
        ("rw", None),
        ("0o644", None),
        ("-1", None),
    ],
)
def test_modes(text: str, mode: int | None) -> None:
    assert parse_headers({"X-LXD-mode": text}).mode == mode


def test_owners() -> None:
    found = parse_headers({"X-LXD-uid": "1000", "X-LXD-gid": "-1"})
    assert (found.uid, found.gid) == (1000, None)
    assert parse_headers({"X-LXD-uid": "4294967296"}).uid is None


@pytest.mark.parametrize("headers", [{"X-LXD-type": "device"}, {"X-LXD-write": "prepend"}])
def test_unknown_kinds_are_refused(headers: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest):
        parse_headers(headers)


def test_facts_become_headers() -> None:
    facts = {"uid": 1, "gid": 2, "mode": 0o4755, "mtime_ns": 1_700_000_000_900_000_000, "type": "file"}
    assert format_headers(facts) == {
        "X-LXD-uid": "1",
        "X-LXD-gid": "2",
        "X-LXD-mode": "0755",
        "X-LXD-modified": "2023-11-14 22:13:20 +0000 UTC",
        "X-LXD-type": "file",
    }


def test_what_is_changed_of_a_file_that_is_there() -> None:
    assert parse_headers({"X-LXD-modify-perm": "mode, uid"}).modify == ("mode", "uid")
    with pytest.raises(InvalidRequest, match="modify-perm"):
        parse_headers({"X-LXD-modify-perm": "mtime"})
