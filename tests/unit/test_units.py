"""Sizes, rates, truth values and number sets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral import units
from corral.errors import InvalidRequest


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("", 0),
        ("1024", 1024),
        ("10B", 10),
        ("1kB", 1000),
        ("1KiB", 1024),
        ("2GB", 2 * 10**9),
        ("5GiB", 5 * 2**30),
        ("7 bytes", 7),
    ],
)
def test_parse_size(text: str, size: int) -> None:
    assert units.parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["x", "10XB", "1.5GB", "GB", "10 GB extra", "9999999EiB", "10gib", "1 MB", " 1", "1 ", "-1"]
)
def test_parse_size_refuses(text: str) -> None:
    with pytest.raises(InvalidRequest):
        units.parse_size(text)


def test_parse_bit_rate() -> None:
    assert units.parse_bit_rate("100Mbit") == 100_000_000
    assert units.parse_bit_rate("1Kibit") == 1024
    with pytest.raises(InvalidRequest, match="bit rate"):
        units.parse_bit_rate("10MB")


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0B"),
        (999, "999B"),
        (1000, "1.00kB"),
        (1_500_000, "1.50MB"),
        (-2000, "-2.00kB"),
        (10**18, "1.00EB"),
        (10**21, "1000.00EB"),
    ],
)
def test_format_size(size: int, text: str) -> None:
    assert units.format_size(size) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [(1023, "1023B"), (1024, "1.00KiB"), (3 * 2**30, "3.00GiB"), (2**60, "1.00EiB"), (2**70, "1024.00EiB")],
)
def test_format_size_iec(size: int, text: str) -> None:
    assert units.format_size_iec(size) == text


def test_truth() -> None:
    assert all(units.is_true(word) for word in ("true", "1", "YES", "on"))
    assert not any(units.is_true(word) for word in (None, "", "false", "0", "no", "maybe"))
    assert units.parse_boolean("on") is True
    assert units.parse_boolean("off") is False
    with pytest.raises(InvalidRequest):
        units.parse_boolean("maybe")


def test_id_ranges() -> None:
    assert units.parse_id_ranges("0-3,7, 5") == [0, 1, 2, 3, 5, 7]
    assert units.format_id_ranges([7, 0, 1, 2, 2]) == "0-2,7"
    assert units.format_id_ranges([]) == ""
    for text in ("", "a", "3-1", "1-", "-1", "0-999999999"):
        with pytest.raises(InvalidRequest):
            units.parse_id_ranges(text)


@given(st.sets(st.integers(min_value=0, max_value=5000), min_size=1))
def test_id_ranges_survive_a_round_trip(members: set[int]) -> None:
    assert units.parse_id_ranges(units.format_id_ranges(list(members))) == sorted(members)
