"""`operation`: what the server does in the background."""

from __future__ import annotations

from corral.cli import output, table
from corral.cli.command import FORMAT, Command, Invocation, switch
from corral.cli.records import OPERATION
from corral.cli.session import order
from corral.client.server import escape
from corral.errors import CorralError


def delete(invocation: Invocation) -> int:
    """Cancel an operation."""
    resource = invocation.session.resource(invocation.args[0])
    resource.server.delete(f"/operations/{escape(resource.name)}")
    invocation.session.say(f"Operation {resource.name} deleted")
    return 0


def list_operations(invocation: Invocation) -> int:
    """List the operations."""
    from corral.cli.times import format_utc

    resource = invocation.session.resource(invocation.arg(0))
    if resource.name:
        raise CorralError("Filtering isn't supported yet")
    query = {"recursion": "1"}
    if invocation.switch("all-projects"):
        query["all-projects"] = "true"
    by_status = resource.server.get("/operations", query) or {}
    operations = [entry for entries in by_status.values() for entry in entries or ()]
    is_clustered = resource.server.is_clustered
    rows = []
    for entry in operations:
        row = [
            entry["id"],
            entry["class"].upper(),
            entry["description"],
            entry["status"].upper(),
            "YES" if entry["may_cancel"] else "NO",
            format_utc(entry["created_at"]),
        ]
        rows.append([*row, entry["location"]] if is_clustered else row)
    table.sort_rows(rows)
    header = ["ID", "TYPE", "DESCRIPTION", "STATUS", "CANCELABLE", "CREATED"]
    if is_clustered:
        header.append("LOCATION")
    table.show(invocation.text("format"), header, rows, [order(entry, OPERATION) for entry in operations])
    return 0


def show(invocation: Invocation) -> int:
    """Print an operation as YAML."""
    from corral.client.yaml_output import render_yaml

    resource = invocation.session.resource(invocation.args[0])
    output.write(render_yaml(order(resource.server.get(f"/operations/{escape(resource.name)}"), OPERATION)))
    return 0


_ONE = "[<remote>:]<operation>"

COMMAND = Command(
    "operation",
    "List, show and delete background operations",
    commands=(
        Command(
            f"delete {_ONE}",
            "Delete a background operation (will attempt to cancel)",
            delete,
            (1, 1),
            aliases=("cancel", "rm"),
        ),
        Command(
            "list [<remote>:]",
            "List background operations",
            list_operations,
            (0, 1),
            aliases=("ls",),
            flags=(switch("all-projects", "List operations from all projects"), FORMAT),
        ),
        Command(
            f"show {_ONE}",
            "Show details on a background operation",
            show,
            (1, 1),
            examples="{client} operation show 344a79e4-d88a-45bf-9c39-c72c26f6ab8a\n    Show that operation",
        ),
    ),
)
