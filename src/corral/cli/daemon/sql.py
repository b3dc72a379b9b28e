"""`sql`: statements on the databases of the local daemon, and dumps of them."""

from __future__ import annotations

import sys

from corral.cli import output
from corral.cli.command import UsageError
from corral.cli.daemon.control import local_server
from corral.errors import InvalidRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from corral.cli.command import Invocation

DATABASES = ("local", "global")


def run(invocation: Invocation) -> int:
    """Run what the arguments say and print tables, counts or a script. Raises CorralError."""
    if len(invocation.args) != 2:
        raise UsageError("Missing required arguments")
    database, query = invocation.args
    if database not in DATABASES:
        raise InvalidRequest("Invalid database type")
    if query == "-":
        query = sys.stdin.read()
    server = local_server(invocation.session.product)
    if query in (".dump", ".schema"):
        schema = "&schema=1" if query == ".schema" else ""
        output.write(server.query("GET", f"/internal/sql?database={database}{schema}").metadata["text"])
        return 0
    reply = server.query("POST", "/internal/sql", {"database": database, "query": query})
    output.write(render(reply.metadata["Results"] or []))
    return 0


def render(results: Sequence[dict[str, Any]]) -> str:
    """The results of statements as people read them."""
    parts = []
    for number, result in enumerate(results):
        text = _table(result) if result["type"] == "select" else f"Rows affected: {result['rows_affected']}\n"
        parts.append(f"=> Query {number}:\n\n{text}\n" if len(results) > 1 else text)
    return "".join(parts)


def _table(result: dict[str, Any]) -> str:
    """A table with borders, as it is told apart from the lists of the client: names as they are, no line per row."""
    from corral.cli.table import width_of

    columns = result["columns"] or []
    rows = [[_cell(value).split("\n") for value in row] for row in result["rows"] or []]
    widths = [width_of(name) for name in columns]
    for row in rows:
        for index, lines in enumerate(row):
            widths[index] = max(widths[index], *(width_of(line) for line in lines))
    border = "+" + "+".join("-" * (width + 2) for width in widths) + "+\n"
    titles = "".join(f"| {_centre(name, width)} " for name, width in zip(columns, widths, strict=True)) + "|\n"
    text = [border, titles, border]
    for row in rows:
        for line in range(max(len(lines) for lines in row)):
            cells = [lines[line] if line < len(lines) else "" for lines in row]
            padded = (cell + " " * (width - width_of(cell)) for cell, width in zip(cells, widths, strict=True))
            text.append("".join(f"| {cell} " for cell in padded) + "|\n")
    return "".join([*text, border])


def _centre(text: str, width: int) -> str:
    from corral.cli.table import width_of

    gap = width - width_of(text)
    return " " * (gap // 2) + text + " " * (gap - gap // 2)


def _cell(value: Any) -> str:
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value)
