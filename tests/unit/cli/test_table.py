"""Tables: golden texts as the Go client prints them, and the natural order."""

import pytest

from corral.cli import table
from corral.errors import InvalidRequest

HEADER = ["NAME", "STATE", "IPV4"]
ROWS = [["c1", "RUNNING", "10.0.0.2 (eth0)\n10.0.0.1 (eth1)"], ["c2", "STOPPED", ""]]

TABLE = """+------+---------+-----------------+
| NAME |  STATE  |      IPV4       |
+------+---------+-----------------+
| c1   | RUNNING | 10.0.0.2 (eth0) |
|      |         | 10.0.0.1 (eth1) |
+------+---------+-----------------+
| c2   | STOPPED |                 |
+------+---------+-----------------+
"""
EMPTY = """+------+-------+------+
| NAME | STATE | IPV4 |
+------+-------+------+
"""
COMPACT = (
    "  NAME   STATE        IPV4        \n"
    "  c1    RUNNING  10.0.0.2 (eth0)  \n"
    "                 10.0.0.1 (eth1)  \n"
    "  c2    STOPPED                   \n"
)


def test_table() -> None:
    assert table.render_table(HEADER, ROWS) == TABLE


def test_empty_table() -> None:
    assert table.render_table(HEADER, []) == EMPTY


def test_compact() -> None:
    assert table.render_compact(HEADER, ROWS) == COMPACT


def test_wide_letters_take_two_columns() -> None:
    shown = table.render_table(["NAME"], [["日本"], ["é"]])
    assert shown == "+------+\n| NAME |\n+------+\n| 日本 |\n+------+\n| é    |\n+------+\n"


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        ("plain", "plain"),
        ("a,b", '"a,b"'),
        ('say "hi"', '"say ""hi"""'),
        ("two\nlines", '"two\nlines"'),
        (" lead", '" lead"'),
        ("trail ", "trail "),
        ("", ""),
        ("\\.", '"\\."'),
    ],
)
def test_csv(cell: str, shown: str) -> None:
    assert table.render_csv([["x", cell]]) == f"x,{shown}\n"


def test_json_is_one_line_with_markup_escaped() -> None:
    assert table.render_json([{"a": "<é>&"}]) == '[{"a":"\\u003cé\\u003e\\u0026"}]\n'


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(InvalidRequest, match='Invalid format "xml"'):
        table.show("xml", [], [], [])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("user.foo_bar", "USER FOO BAR"),
        ("IPV4", "IPV4"),
        ("v1.5", "V1.5"),
        ("a.5", "A 5"),
        ("memory usage%", "MEMORY USAGE%"),
        ("_", " "),
    ],
)
def test_title(text: str, shown: str) -> None:
    assert table.title(text) == shown


@pytest.mark.parametrize(
    "ordered",
    [
        ["a1", "a2", "a10", "a10b", "b"],
        ["1", "a", ""],
        ["c1", "c01", "c2"],
        ["a", "a1", "ab"],
    ],
)
def test_natural_order(ordered: list[str]) -> None:
    rows = [[text] for text in reversed(ordered)]
    table.sort_rows(rows)
    assert [row[0] for row in rows] == ordered


def test_equal_first_cells_are_sorted_by_the_next() -> None:
    rows = [["x", "10"], ["x", "9"], ["x", ""]]
    table.sort_rows(rows)
    assert [row[1] for row in rows] == ["9", "10", ""]
