"""Results of statements as the daemon's `sql` shows them."""

from corral.cli.daemon.sql import render


def test_a_table_has_no_line_between_rows_and_names_as_they_are() -> None:
    rows = [[1, "core.https_address", None], [22, "a\nb", True], [3.0, "", 1.5]]
    assert render([{"type": "select", "columns": ["id", "key", "value"], "rows": rows, "rows_affected": 0}]) == (
        "+----+--------------------+-------+\n"
        "| id |        key         | value |\n"
        "+----+--------------------+-------+\n"
        "| 1  | core.https_address | <nil> |\n"
        "| 22 | a                  | true  |\n"
        "|    | b                  |       |\n"
        "| 3  |                    | 1.5   |\n"
        "+----+--------------------+-------+\n"
    )


def test_counts_and_several_results() -> None:
    one = {"type": "exec", "columns": None, "rows": None, "rows_affected": 1}
    none = {"type": "select", "columns": ["n"], "rows": None, "rows_affected": 0}
    assert render([one]) == "Rows affected: 1\n"
    assert render([one, none]) == ("=> Query 0:\n\nRows affected: 1\n\n=> Query 1:\n\n+---+\n| n |\n+---+\n+---+\n\n")
    assert render([]) == ""
