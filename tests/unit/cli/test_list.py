"""Columns and filters of `list`."""

import pytest

from corral.cli.commands.list_columns import parse_columns
from corral.cli.commands.list_filters import matches
from corral.errors import CorralError

INSTANCE = {
    "name": "web1",
    "type": "container",
    "status": "Running",
    "status_code": 103,
    "architecture": "x86_64",
    "location": "none",
    "ephemeral": True,
    "created_at": "2022-01-02T03:04:05.123Z",
    "last_used_at": "1970-01-01T00:00:00Z",
    "description": "",
    "project": "default",
    "profiles": ["default", "web"],
    "config": {"user.role": "front", "volatile.base_image": "0123456789abcdef"},
    "expanded_config": {"user.role": "front", "limits.memory": "100MiB", "security.privileged": "true"},
    "devices": {},
    "expanded_devices": {"root": {"type": "disk", "path": "/", "pool": "fast"}, "eth0": {"parent": "br0"}},
    "snapshots": [{}, {}],
    "state": {
        "pid": 42,
        "processes": 7,
        "cpu": {"usage": 2500000000},
        "memory": {"usage": 50 * 2**20},
        "disk": {"root": {"usage": 2048}},
        "network": {
            "lo": {"type": "loopback", "addresses": [{"family": "inet", "address": "127.0.0.1", "scope": "local"}]},
            "eth0": {
                "type": "broadcast",
                "addresses": [
                    {"family": "inet", "address": "10.0.0.2", "scope": "global"},
                    {"family": "inet", "address": "10.0.0.3", "scope": "global"},
                    {"family": "inet6", "address": "fe80::1", "scope": "link"},
                ],
            },
        },
    },
}


@pytest.mark.parametrize(
    ("columns", "cells"),
    [
        ("ns", ["web1", "RUNNING"]),
        ("4", ["10.0.0.3 (eth0)\n10.0.0.2 (eth0)"]),
        ("6", [""]),
        ("tS", ["CONTAINER (EPHEMERAL)", "2"]),
        ("cl", ["2022/01/02 03:04 UTC", ""]),
        ("mM", ["50.00MiB", "50.0%"]),
        ("Du", ["2.00KiB", "2s"]),
        ("NpP", ["7", "42", "default\nweb"]),
        ("bfF", ["fast", "0123456789ab", "0123456789abcdef"]),
        ("aedL", ["x86_64", "default", "", "none"]),
        ("n,user.role:role:3", ["web1", "fro"]),
        ("limits.memory", ["100MiB"]),
        ("devices:eth0.parent:NET", ["br0"]),
    ],
)
def test_cells(columns: str, cells: list[str]) -> None:
    assert [column.render(INSTANCE) for column in parse_columns(columns)] == cells


def test_headings() -> None:
    assert [column.name for column in parse_columns("n4,user.role,user.role:ROLE,user.role::0")] == [
        "NAME",
        "IPV4",
        "user.role",
        "ROLE",
        "",
    ]


def test_a_stopped_instance_has_no_state() -> None:
    stopped = {**INSTANCE, "status_code": 102, "state": None}
    assert [column.render(stopped) for column in parse_columns("4mMNpu")] == [""] * 6


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("n,,s", "Empty column entry"),
        ("nZ", "Unknown column shorthand char 'Z' in 'nZ'"),
        ("bogus.key", "Invalid config key 'bogus.key' in 'bogus.key'"),
        ("user.a:b:c:d", "too many fields"),
        ("user.a:", "Invalid name in 'user.a:'"),
        ("user.a:b:x", "must be an integer"),
        ("user.a:b:-2", "must -1, 0 or a positive integer"),
    ],
)
def test_bad_columns(columns: str, message: str) -> None:
    with pytest.raises(CorralError, match=message.replace("(", r"\(").replace(")", r"\)")):
        parse_columns(columns)


@pytest.mark.parametrize(
    ("filters", "is_match"),
    [
        ([], True),
        (["web"], True),
        (["eb1"], False),
        (["w.*1"], True),
        (["^web$"], False),
        (["user.role=front"], True),
        (["u.r=front"], True),
        (["u.r=fr.*"], True),
        (["u.r=fro"], False),
        (["s.privileged=true"], True),
        (["user.missing="], True),
        (["user.missing=x"], False),
        (["status=running,frozen"], True),
        (["STATUS=stopped"], False),
        (["type=virtual-machine"], False),
        (["ipv4=10.0.0.2"], True),
        (["ipv4=10.0.0.0/24"], True),
        (["ipv4=10.1.0.0/24"], False),
        (["ipv6=fe80::/10"], True),
        (["web", "user.role=back"], False),
        (["we[b"], False),
    ],
)
def test_filters(filters: list[str], is_match: bool) -> None:
    assert matches(filters, INSTANCE) is is_match
