"""`storage volume list`: the volumes of a pool in columns of the user's choice."""

from __future__ import annotations

from corral.cli import table
from corral.cli.command import ANY_NUMBER_OF, FORMAT, Command, Invocation, switch, text
from corral.cli.records import VOLUME
from corral.cli.session import order
from corral.client.server import escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corral.client.server import Server

    Volume = dict[str, Any]

_DEFAULT = "etndcuL"
_TITLES = {
    "t": "TYPE",
    "n": "NAME",
    "d": "DESCRIPTION",
    "c": "CONTENT-TYPE",
    "u": "USED BY",
    "U": "USAGE",
    "L": "LOCATION",
    "e": "PROJECT",
}


def _cell(column: str, volume: Volume) -> str:
    if column == "t":
        return str(volume["type"]) + (" (snapshot)" if "/" in volume["name"] else "")
    if column == "c":
        return str(volume.get("content_type") or "filesystem")
    if column == "u":
        return str(len(volume.get("used_by") or ()))
    fields = {"n": "name", "d": "description", "L": "location", "e": "project"}
    return str(volume.get(fields[column]) or "")


def run(invocation: Invocation) -> int:
    """List volumes."""
    resource = invocation.session.resource(invocation.args[0], "Missing pool name")
    server = resource.server
    query = {"recursion": "1"}
    filters = [entry.replace("=", " eq ", 1) for entry in invocation.args[1:] if "=" in entry]
    if filters:
        query["filter"] = " and ".join(filters)
    if invocation.switch("all-projects"):
        query["all-projects"] = "true"
    volumes = server.get(f"/storage-pools/{escape(resource.name)}/volumes", query) or []
    chosen = table.without_location(invocation.text("columns"), _DEFAULT, is_clustered=server.is_clustered)
    if not invocation.switch("all-projects"):
        chosen = chosen.replace("e", "")
    columns = table.parse_columns(chosen, _TITLES)
    rows = [
        [_usage(server, resource.name, volume) if column == "U" else _cell(column, volume) for column in columns]
        for volume in volumes
    ]
    if len(columns) >= 2:
        rows.sort(key=_sort_key)
    raw = [order(volume, VOLUME, ("restore",)) for volume in volumes]
    table.show(invocation.text("format"), [_TITLES[column] for column in columns], rows, raw)
    return 0


def _sort_key(row: list[str]) -> tuple[Any, ...]:
    """By the first column's first word, then by the second column: snapshots stay with their volumes."""
    first = row[0].partition(" ")[0]
    return table.natural_key(first), table.natural_key(row[1])


def _usage(server: Server, pool: str, volume: Volume) -> str:
    if "/" in volume["name"] or volume["type"] == "image":
        return ""
    from corral.units import format_size_iec

    path = f"/storage-pools/{escape(pool)}/volumes/{volume['type']}/{escape(volume['name'])}/state"
    usage = (server.get(path) or {}).get("usage")
    return format_size_iec(usage.get("used", 0)) if usage else ""


COMMAND = Command(
    "list [<remote>:]<pool> [<filter>...]",
    "List storage volumes",
    run,
    (1, ANY_NUMBER_OF),
    aliases=("ls",),
    flags=(text("columns", "Columns", "c", _DEFAULT), switch("all-projects", "All projects"), FORMAT),
    long="""List storage volumes

The -c option takes columns for the table, compact and csv formats, which may be separated by commas.

Column shorthand chars:
    c - Content type (filesystem or block)
    d - Description
    e - Project name
    L - Location of the instance (e.g. its cluster member)
    n - Name
    t - Type of volume (custom, image, container or virtual-machine)
    u - Number of references (used by)
    U - Current disk usage""",
)
