"""JSON without the json package."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.client import codec

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
)


@given(VALUES)
def test_round_trip(value: object) -> None:
    assert json.loads(codec.encode(value)) == value
    assert codec.decode(json.dumps(value, indent=1)) == value


@pytest.mark.parametrize("text", ["", "{", "nope", '{"a":}', "1 2", "[1,]"])
def test_decode_refuses(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        codec.decode(text)


def test_encode_refuses_what_json_cannot_hold() -> None:
    with pytest.raises(TypeError, match="object has no JSON form"):
        codec.encode([object()])
