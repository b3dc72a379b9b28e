"""`warning`: what the server found amiss."""

from __future__ import annotations

from corral.cli import output, table
from corral.cli.command import FORMAT, Command, Invocation, switch, text
from corral.cli.records import WARNING
from corral.cli.session import order
from corral.client.server import escape
from corral.errors import CorralError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Warning_ = dict[str, Any]

_DEFAULT = "utSscpLl"


def _moment(field: str) -> Callable[[Warning_], str]:
    def render(warning: Warning_) -> str:
        from corral.cli.times import format_long_utc

        return format_long_utc(warning[field])

    return render


_COLUMNS: dict[str, tuple[str, Callable[[Warning_], str]]] = {
    "c": ("COUNT", lambda warning: str(warning["count"])),
    "f": ("FIRST SEEN", _moment("first_seen_at")),
    "l": ("LAST SEEN", _moment("last_seen_at")),
    "L": ("LOCATION", lambda warning: str(warning["location"])),
    "p": ("PROJECT", lambda warning: str(warning["project"])),
    "s": ("SEVERITY", lambda warning: str(warning["severity"]).upper()),
    "S": ("STATUS", lambda warning: str(warning["status"]).upper()),
    "t": ("TYPE", lambda warning: str(warning["type"])),
    "u": ("UUID", lambda warning: str(warning["uuid"])),
}


def list_warnings(invocation: Invocation) -> int:
    """List the warnings that nobody has dealt with, or all."""
    server = invocation.session.server(invocation.arg(0))
    warnings = server.get("/warnings", {"recursion": "1"}) or []
    if not invocation.switch("all"):
        warnings = [warning for warning in warnings if warning["status"] not in ("acknowledged", "resolved")]
    chosen = table.without_location(invocation.text("columns"), _DEFAULT, is_clustered=server.is_clustered)
    columns = [_COLUMNS[letter] for letter in table.parse_columns(chosen, _COLUMNS)]
    rows = [[render(warning) for _, render in columns] for warning in warnings]
    table.sort_rows(rows)
    raw = [order(warning, WARNING) for warning in warnings]
    table.show(invocation.text("format"), [title for title, _ in columns], rows, raw)
    return 0


def _path(invocation: Invocation) -> tuple[Any, str]:
    resource = invocation.session.resource(invocation.args[0])
    return resource.server, f"/warnings/{escape(resource.name)}"


def acknowledge(invocation: Invocation) -> int:
    """Mark a warning as seen."""
    server, path = _path(invocation)
    server.put(path, {"status": "acknowledged"})
    return 0


def show(invocation: Invocation) -> int:
    """Print a warning as YAML."""
    from corral.client.yaml_output import render_yaml

    server, path = _path(invocation)
    output.write(render_yaml(order(server.get(path), WARNING)))
    return 0


def delete(invocation: Invocation) -> int:
    """Delete a warning, or all of them."""
    if not invocation.switch("all"):
        if not invocation.args:
            raise CorralError("Name the warning to delete, or use --all")
        server, path = _path(invocation)
        server.delete(path)
        return 0
    server = invocation.session.server(invocation.arg(0))
    for warning in server.get("/warnings", {"recursion": "1"}) or ():
        server.delete(f"/warnings/{escape(warning['uuid'])}")
    return 0


_ONE = "[<remote>:]<warning-uuid>"

COMMAND = Command(
    "warning",
    "Manage warnings",
    commands=(
        Command(
            "list [<remote>:]",
            "List warnings",
            list_warnings,
            (0, 1),
            aliases=("ls",),
            flags=(text("columns", "Columns", "c", _DEFAULT), FORMAT, switch("all", "List all warnings", "a")),
            long="""List warnings

The -c option takes columns for the table, compact and csv formats, which may be separated by commas.

Default column layout is: utSscpLl

Column shorthand chars:

    c - Count
    l - Last seen
    L - Location
    f - First seen
    p - Project
    s - Severity
    S - Status
    u - UUID
    t - Type""",
        ),
        Command(f"acknowledge {_ONE}", "Acknowledge warning", acknowledge, (1, 1), aliases=("ack",)),
        Command(f"show {_ONE}", "Show warning", show, (1, 1)),
        Command(
            f"delete {_ONE}",
            "Delete warning",
            delete,
            (0, 1),
            aliases=("rm",),
            flags=(switch("all", "Delete all warnings", "a"),),
        ),
    ),
)
