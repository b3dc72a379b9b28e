"""Names of snapshots by their pattern, and when they expire."""

from datetime import UTC, datetime

import pytest

from corral.errors import InvalidRequest
from corral.server.snapshots import naming
from corral.server.snapshots.naming import PATTERN, next_name

MOMENT = datetime(2026, 11, 28, 9, 5, 7, tzinfo=UTC)


@pytest.mark.parametrize(
    ("pattern", "present", "name"),
    [
        ("", [], "snap0"),
        ("", ["snap0", "snap7", "snapx", "snap08"], "snap9"),
        ("", ["snap1234567890123"], "snap0"),
        ("%d-of-it", ["3-of-it", "x4-of-it"], "4-of-it"),
        ("a.%d", ["ab1"], "a.0"),
        ("daily", [], "daily"),
        ("daily", ["daily"], "daily-0"),
        ("daily", ["daily", "daily-0", "daily-4"], "daily-5"),
        ("{{ creation_date|date:'2006-01-02_15-04-05' }}", [], "2026-11-28_09-05-07"),
        ('{{ creation_date|date:"2006-01-02" }}', ["2026-11-28"], "2026-11-28-0"),
        ("{{creation_date|date:'Jan'|lower}}%d", ["nov3"], "nov4"),
        ("{% if true %}x{% endif %}%d", [], "x0"),
    ],
)
def test_names(pattern: str, present: list[str], name: str) -> None:
    assert next_name(pattern, MOMENT, present) == name


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("%d%d", "only once"),
        ("{{ creation_date }}", "white space"),
        ("a/b", "slash"),
        ("a b", "white space"),
        ("..", "Invalid snapshot name"),
        ("{{ nothing }}", "1 to 200 bytes"),
        ("x" * 201, "1 to 200 bytes"),
        ("x" * 1001, "longer than"),
        ("{{", "Invalid snapshot pattern"),
        ("{{ creation_date|nonsense }}", "Invalid snapshot pattern"),
        ("{{ 'x'|date:'2006' }}", "Invalid snapshot pattern"),
        ("{{ creation_date.__class__.__mro__ }}", "Invalid snapshot pattern|Invalid snapshot name"),
        ("{% include '/etc/passwd' %}", "not available"),
        ("{% for a in 'aaaaaaaaaa'|make_list %}" * 5 + "x" + "{% endfor %}" * 5, "too often|longer than"),
        ("{{ 'x'|ljust:9999999 }}", "longer than"),
        ("a\u2028b", "white space"),
        ("a\x1b[31m", "control"),
    ],
)
def test_bad_patterns(pattern: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        next_name(pattern, MOMENT, [])
    with pytest.raises(InvalidRequest):
        PATTERN.parse(pattern)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "a\tb", "a\0", "\x7f", "x" * 201, "\udcff" * 100])
def test_bad_names(name: str) -> None:
    with pytest.raises(InvalidRequest):
        naming.check_name(name)


@pytest.mark.parametrize("name", ["snap0", "-x", "a%20b", "ä", "x" * 200, "…", "..."])
def test_good_names(name: str) -> None:
    naming.check_name(name)


def test_expiry() -> None:
    assert naming.expiry_of(None, MOMENT) is None
    assert naming.expiry_of("", MOMENT) is None
    assert naming.expiry_of("1d 2H", MOMENT) == "2026-11-29T11:05:07Z"
