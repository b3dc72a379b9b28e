"""ETags and If-Match."""

from typing import Any

import msgspec
import pytest

from corral.errors import PreconditionFailed
from corral.server.rest import etag


class Put(msgspec.Struct):
    config: dict[str, str]
    description: str


class Whole(msgspec.Struct):
    name: str
    config: dict[str, str]
    description: str


def test_only_what_can_be_edited_counts() -> None:
    first, second = Whole("a", {"x": "1"}, "d"), Whole("b", {"x": "1"}, "d")
    assert etag.writable_part(first, Put) == {"config": {"x": "1"}, "description": "d"}
    assert etag.compute(etag.writable_part(first, Put)) == etag.compute(etag.writable_part(second, Put))
    assert etag.writable_part(first, None) is first


def test_the_order_of_keys_does_not_count() -> None:
    assert etag.compute({"a": 1, "b": 2}) == etag.compute({"b": 2, "a": 1})


@pytest.mark.parametrize("present", [{"a": 1}, "text", None])
def test_check(present: Any) -> None:
    right = etag.compute(present)
    for accepted in (None, "", "*", right, f'"{right}"', f'W/"{right}"'):
        etag.check(accepted, present)
    with pytest.raises(PreconditionFailed, match="ETag doesn't match"):
        etag.check('"other"', present)
