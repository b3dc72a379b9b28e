"""`network list-allocations`: the addresses in use."""

from __future__ import annotations

from corral.cli import table
from corral.cli.command import FORMAT, Command, Invocation, switch
from corral.cli.session import order

_FIELDS = ("addresses", "used_by", "type", "nat", "hwaddr")


def run(invocation: Invocation) -> int:
    """List the addresses that networks and instances hold."""
    server = invocation.session.server(invocation.arg(0))
    query = {"all-projects": "true"} if invocation.switch("all-projects") else {}
    found = server.get("/network-allocations", query) or []
    rows = [
        [one["used_by"], one["addresses"], one["type"].upper(), "YES" if one["nat"] else "NO", one["hwaddr"]]
        for one in found
    ]
    header = ["USED BY", "ADDRESS", "TYPE", "NAT", "HARDWARE ADDRESS"]
    table.show(invocation.text("format"), header, rows, [order(one, _FIELDS) for one in found])
    return 0


COMMAND = Command(
    "list-allocations [<remote>:]",
    "List network allocations in use",
    run,
    (0, 1),
    flags=(FORMAT, switch("all-projects", "Show the allocations of all projects")),
    long="""List network allocations in use

These are the addresses of networks, and of instances on networks that give out addresses.""",
)
