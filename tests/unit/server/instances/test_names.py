"""Names of instances."""

import random

import pytest

from corral.errors import InternalError, InvalidRequest
from corral.server.instances.names import check_name, generate_name


@pytest.mark.parametrize("name", ["c1", "a", "A-b-3", "x" * 63])
def test_good_names(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "1-63 characters"),
        ("x" * 64, "1-63 characters"),
        ("-a", "must not start with"),
        ("a-", "must not end with"),
        ("1a", "must not start with a number"),
        ("a_b", "alphanumeric and hyphen"),
        ("a.b", "alphanumeric and hyphen"),
        ("é", "alphanumeric and hyphen"),
        ("a\n", "alphanumeric and hyphen"),
        ("a/b", "reserved for snapshots"),
    ],
)
def test_bad_names(name: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        check_name(name)


def test_a_generated_name_is_good_and_free() -> None:
    first = generate_name((), random.Random(1))
    check_name(first)
    assert generate_name({first}, random.Random(1)) != first


def test_no_name_is_left() -> None:
    class Everything(set[str]):
        def __contains__(self, item: object) -> bool:
            return True

    with pytest.raises(InternalError, match="100 tries"):
        generate_name(Everything())
