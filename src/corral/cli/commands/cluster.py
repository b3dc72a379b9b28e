"""`cluster`: the members of a cluster."""

from __future__ import annotations

from corral.cli import keyed, output, table
from corral.cli.command import FORMAT, Command, Invocation
from corral.cli.keyed import Kind, bind
from corral.cli.records import MEMBER, MEMBER_WRITABLE
from corral.cli.session import order
from corral.errors import CorralError

KIND = Kind(
    "/cluster/members",
    "Missing cluster member name",
    MEMBER,
    MEMBER_WRITABLE,
    "This is a YAML representation of the cluster member.\nAny line starting with a '#' will be ignored.",
)


def list_members(invocation: Invocation) -> int:
    """List the members."""
    server = invocation.session.server(invocation.arg(0))
    if not server.get("/cluster")["enabled"]:
        raise CorralError(f"{invocation.session.product.title} server isn't part of a cluster")
    members = server.get("/cluster/members", {"recursion": "1"}) or []
    rows = [
        [
            member["server_name"],
            member["url"],
            "\n".join(member.get("roles") or ()),
            member["architecture"],
            member["failure_domain"],
            member["description"],
            member["status"].upper(),
            member["message"],
        ]
        for member in members
    ]
    table.sort_rows(rows)
    header = ["NAME", "URL", "ROLES", "ARCHITECTURE", "FAILURE DOMAIN", "DESCRIPTION", "STATE", "MESSAGE"]
    table.show(invocation.text("format"), header, rows, [order(member, MEMBER) for member in members])
    return 0


def rename(invocation: Invocation) -> int:
    """Rename a member."""
    server, path, name = KIND.locate(invocation)
    server.post(path, {"server_name": invocation.args[1]})
    output.line(f"Member {name} renamed to {invocation.args[1]}")
    return 0


_ONE = "[<remote>:]<member>"

COMMAND = Command(
    "cluster",
    "Manage cluster members",
    commands=(
        Command(
            "list [<remote>:]", "List all the cluster members", list_members, (0, 1), aliases=("ls",), flags=(FORMAT,)
        ),
        Command(f"show {_ONE}", "Show details of a cluster member", bind(keyed.show, KIND), (1, 1)),
        Command(f"edit {_ONE}", "Edit cluster member configurations as YAML", bind(keyed.edit, KIND), (1, 1)),
        Command(f"get {_ONE} <key>", "Get values for cluster member configuration keys", bind(keyed.get, KIND), (2, 2)),
        Command(
            f"set {_ONE} <key>=<value>...",
            "Set a cluster member's configuration keys",
            bind(keyed.set_keys, KIND),
            (2, -1),
        ),
        Command(
            f"unset {_ONE} <key>",
            "Unset a cluster member's configuration keys",
            bind(keyed.unset_key, KIND),
            (2, 2),
        ),
        Command(f"rename {_ONE} <new-name>", "Rename a cluster member", rename, (2, 2), aliases=("mv",)),
    ),
)
