"""YAML from users: text stays text, known fields get their types."""

import pytest

from corral.client.yaml_input import parse_mapping, parse_record
from corral.errors import InvalidRequest


def test_config_values_stay_what_was_written() -> None:
    parsed = parse_mapping("config:\n  a: 1.10\n  b: yes\n  c: 0755\n  d: null\n  e: '~'\n  f: 2022-01-01\n")
    assert parsed == {"config": {"a": "1.10", "b": "yes", "c": "0755", "d": "", "e": "~", "f": "2022-01-01"}}


def test_known_fields_get_their_types() -> None:
    parsed = parse_mapping("ephemeral: true\nstateful: no\nprofiles: [a, '1']\ndescription: null\ncreation_date: 12\n")
    assert parsed == {
        "ephemeral": True,
        "stateful": False,
        "profiles": ["a", "1"],
        "description": None,
        "creation_date": 12,
    }


def test_devices_are_maps_of_text() -> None:
    assert parse_mapping("devices:\n  eth0: {mtu: 1500, type: nic}\n") == {
        "devices": {"eth0": {"mtu": "1500", "type": "nic"}}
    }


def test_a_record_has_its_fields_only() -> None:
    record = parse_record("name: c1\nconfig: {a: 1}\nused_by: []\n", ("config", "description", "devices", "ephemeral"))
    assert record == {"config": {"a": "1"}, "devices": {}, "ephemeral": False}


@pytest.mark.parametrize("content", ["", "# nothing\n", b""])
def test_nothing_is_an_empty_mapping(content: str | bytes) -> None:
    assert parse_mapping(content) == {}


@pytest.mark.parametrize("content", ["- a\n", "a: [", "a: b: c", "config:\n  a: [1]\n", "creation_date: soon\n"])
def test_what_is_no_record_is_refused(content: str) -> None:
    with pytest.raises(InvalidRequest, match="yaml"):
        parse_mapping(content)
