"""YAML as yaml.v2 writes it: scalars compared with what the Go client printed."""

import pytest

from corral.client.yaml_output import render_yaml, sort_keys


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a", "a"),
        ("", '""'),
        ("true", '"true"'),
        ("yes", '"yes"'),
        ("On", '"On"'),
        ("oN", "oN"),
        ("null", '"null"'),
        ("~", '"~"'),
        ("1", '"1"'),
        ("1.5", '"1.5"'),
        ("1e3", '"1e3"'),
        ("0x1f", '"0x1f"'),
        ("1_000", '"1_000"'),
        ("1.2.3", "1.2.3"),
        ("10.0.0.1/24", "10.0.0.1/24"),
        ("1:30", '"1:30"'),
        ("00:16:3e:00:00:01", "00:16:3e:00:00:01"),
        ("2022-01-01", '"2022-01-01"'),
        ("2022-1-1", '"2022-1-1"'),
        ("2022-13-01", "2022-13-01"),
        ("2022-01-01T10:00:00Z", '"2022-01-01T10:00:00Z"'),
        ("2022-01-01 10:00:00", '"2022-01-01 10:00:00"'),
        ("a: b", "'a: b'"),
        ("a:b", "a:b"),
        ("a #b", "'a #b'"),
        ("#a", "'#a'"),
        ("a'b", "a'b"),
        ("'a'", "'''a'''"),
        ("-", "'-'"),
        ("- a", "'- a'"),
        ("-a", "-a"),
        ("[a", "'[a'"),
        ("a]", "a]"),
        ("@a", "'@a'"),
        (" a", "' a'"),
        ("a ", "'a '"),
        ("a\tb", '"a\\tb"'),
        ("a\nb", "|-\n    a\n    b"),
        ("a\nb\n", "|\n    a\n    b"),
        ("a\n\nb\n\n", "|+\n    a\n\n    b\n"),
        ("  a\nb", "|2-\n      a\n    b"),
        ("a \nb", '"a \\nb"'),
        ("a\x01b", '"a\\x01b"'),
        ("é", "é"),
        ("日本語", "日本語"),
        ("\U0001f600", '"\\U0001F600"'),
        ("a\\b", "a\\b"),
        ('a"b', 'a"b'),
    ],
)
def test_strings(value: str, shown: str) -> None:
    assert render_yaml({"config": {"k": value}}) == f"config:\n  k: {shown}\n"


def test_long_lines_are_broken_at_spaces() -> None:
    text = ("word " * 30).strip()
    assert render_yaml({"description": text}) == (
        "description: word word word word word word word word word word word word word word\n"
        "  word word word word word word word word word word word word word word word word\n"
    )


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "null"), (True, "true"), (0, "0"), (-5, "-5"), (1.5, "1.5"), (2.0, "2"), ([], "[]"), ({}, "{}")],
)
def test_other_scalars(value: object, shown: str) -> None:
    assert render_yaml({"size": value}) == f"size: {shown}\n"


def test_records_keep_their_order_and_maps_are_sorted() -> None:
    body = {"name": "c1", "devices": {"root": {"type": "disk", "path": "/"}, "eth0": {"type": "nic"}}, "b": 1, "a": 2}
    assert render_yaml(body) == (
        "name: c1\ndevices:\n  eth0:\n    type: nic\n  root:\n    path: /\n    type: disk\nb: 1\na: 2\n"
    )


def test_lists_are_not_indented() -> None:
    body = {"profiles": ["default", "1"], "snapshots": [{"name": "s", "profiles": []}], "used_by": None}
    assert render_yaml(body) == ('profiles:\n- default\n- "1"\nsnapshots:\n- name: s\n  profiles: []\nused_by: []\n')


def test_times_are_plain_unless_everything_is_a_map() -> None:
    body = {"created_at": "2022-01-01T10:00:00Z"}
    assert render_yaml(body) == "created_at: 2022-01-01T10:00:00Z\n"
    assert render_yaml(body, any_value=True) == 'created_at: "2022-01-01T10:00:00Z"\n'


def test_nothing_in_maps_and_pointers() -> None:
    assert render_yaml({"config": None, "state": None}) == "config: {}\nstate: null\n"


def test_top_level_lists() -> None:
    assert render_yaml([{"name": "a"}, {"name": "b"}]) == "- name: a\n- name: b\n"
    assert render_yaml([]) == "[]\n"


def test_key_order() -> None:
    keys = ["user.b", "user.a10", "user.a9", "user_x", "User", "eth10", "eth9", "1", "10", "2"]
    assert sort_keys(dict.fromkeys(keys)) == [
        "1",
        "2",
        "10",
        "User",
        "eth9",
        "eth10",
        "user.a9",
        "user.a10",
        "user.b",
        "user_x",
    ]
