"""The filter language."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.errors import InvalidRequest
from corral.server.rest import filtering


@dataclass
class Thing:
    name: str = "c1"
    status: str = "Running"
    ephemeral: bool = False
    size: int = 7
    config: dict[str, str] = field(default_factory=lambda: {"limits.cpu": "2", "image.os": "Debian"})
    devices: dict[str, dict[str, str]] = field(default_factory=lambda: {"eth0": {"type": "nic"}})
    expiry: None = None


def holds(text: str, thing: Any = None) -> bool:
    return filtering.matches(filtering.parse(text), thing or Thing())


@pytest.mark.parametrize(
    "text",
    [
        "name eq c1",
        "name eq C1",
        "name ne c2",
        "not name eq c2",
        "not name ne c1",
        "NOT name eq c2",
        "name eq c.*",
        "name eq ^c",
        "name eq 1$",
        "status eq running and ephemeral eq false",
        "ephemeral eq False",
        "ephemeral ne true",
        "size eq 7",
        "size ne 8",
        "config.limits.cpu eq 2",
        "config.image.os eq debian",
        "config.limits.memory ne 1",
        "devices.eth0.type eq nic",
        "name eq c2 or status eq Running",
        "name eq c1 and status eq Stopped or size eq 7",
        'name eq "c1"',
        "expiry ne x",
        "missing ne x",
        "devices.eth1.type ne nic",
    ],
)
def test_what_matches(text: str) -> None:
    assert holds(text)


@pytest.mark.parametrize(
    "text",
    [
        "name eq c",
        "name ne c1",
        "not name eq c1",
        "ephemeral eq true",
        "size eq 70",
        "config.limits.cpu eq 1",
        "config.limits.memory eq 1",
        "expiry eq x",
        "missing eq x",
        "name eq c1 and status eq Stopped",
        "name eq c2 or status eq Stopped",
    ],
)
def test_what_does_not_match(text: str) -> None:
    assert not holds(text)


def test_quoted_values_hold_spaces() -> None:
    assert holds('status eq "not running at all"', Thing(status="Not running at all"))


def test_a_bad_pattern_is_plain_text() -> None:
    assert holds("name eq [", Thing(name="["))
    assert not holds("name eq [", Thing(name="x"))


def test_fields_of_plain_maps() -> None:
    assert holds("a.b eq c", {"a": {"b": "c"}})
    assert holds("a eq c", {"a": "c"})
    assert not holds("x.y eq c", {"a": {"b": "c"}})


def test_no_clause_matches_all() -> None:
    assert holds("")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("not", "incomplete not clause"),
        ("name", "clause has no operator"),
        ("name eq", "clause has no value"),
        ('name eq "a b', "unterminated quote"),
        ("name eq a xor size eq 1", "invalid clause composition"),
        ("name eq a and", "unterminated compound clause"),
        ("name eq " + "a" * 5000, "longer than"),
    ],
)
def test_errors_say_what_is_wrong(text: str, problem: str) -> None:
    with pytest.raises(InvalidRequest, match=f"Invalid filter: .*{problem}"):
        filtering.parse(text)


@given(st.text(max_size=60))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        clauses = filtering.parse(text)
    except InvalidRequest:
        return
    assert filtering.matches(clauses, Thing()) in (True, False)
