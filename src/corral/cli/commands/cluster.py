"""`cluster`: the members of a cluster."""

from __future__ import annotations

from corral.cli import keyed, output, table
from corral.cli.command import FORMAT, Command, Invocation, switch, text
from corral.cli.keyed import Kind, bind
from corral.cli.records import MEMBER, MEMBER_WRITABLE
from corral.cli.session import order
from corral.errors import CorralError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corral.client.server import Server

KIND = Kind(
    "/cluster/members",
    "Missing cluster member name",
    MEMBER,
    MEMBER_WRITABLE,
    "This is a YAML representation of the cluster member.\nAny line starting with a '#' will be ignored.",
)


def _cluster(invocation: Invocation) -> Server:
    """The server of the first argument, which is to be part of a cluster."""
    server = invocation.session.resource(invocation.arg(0)).server
    if not server.get("/cluster")["enabled"]:
        raise CorralError(f"{invocation.session.product.title} server isn't part of a cluster")
    return server


def _of_a_cluster(invocation: Invocation) -> int:
    """What only a cluster can be asked for."""
    _cluster(invocation)
    raise CorralError(f"This client cannot change clusters: use the lxc client for {invocation.path!r}")


def enable(invocation: Invocation) -> int:
    """Make a server the first member of a cluster."""
    resource = invocation.session.resource(invocation.args[0] if len(invocation.args) > 1 else "")
    name = invocation.args[-1]
    resource.server.run("PUT", "/cluster", {"server_name": name, "enabled": True})
    output.line("Clustering enabled")
    return 0


def list_members(invocation: Invocation) -> int:
    """List the members."""
    server = _cluster(invocation)
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
_GROUP = "[<remote>:]<group>"


def _asking(use: str, short: str, count: tuple[int, int], **more: Any) -> Command:
    return Command(use, short, _of_a_cluster, count, **more)


_GROUPS = Command(
    "group",
    "Manage cluster groups",
    commands=(
        _asking(f"add {_ONE} <group>", "Add member to group", (2, 2)),
        _asking(f"assign {_ONE} <group>", "Assign sets of groups to cluster members", (2, 2), aliases=("apply",)),
        _asking(f"create {_GROUP}", "Create a cluster group", (1, 1)),
        _asking(f"delete {_GROUP}", "Delete a cluster group", (1, 1), aliases=("rm",)),
        _asking(f"edit {_GROUP}", "Edit a cluster group", (1, 1)),
        _asking("list [<remote>:]", "List all the cluster groups", (0, 1), aliases=("ls",), flags=(FORMAT,)),
        _asking(f"remove {_ONE} <group>", "Remove member from group", (2, 2)),
        _asking(f"rename {_GROUP} <new-name>", "Rename a cluster group", (2, 2), aliases=("mv",)),
        _asking(f"show {_GROUP}", "Show cluster group configurations", (1, 1)),
    ),
)
_ROLES = Command(
    "role",
    "Manage cluster roles",
    commands=(
        _asking(f"add {_ONE} <role[,role...]>", "Add roles to a cluster member", (2, 2)),
        _asking(f"remove {_ONE} <role[,role...]>", "Remove roles from a cluster member", (2, 2)),
    ),
)
_FORCE = switch("force", "Force it", "f")
_MEMBERSHIP = (
    _asking(
        "add [[<remote>:]<name>]",
        "Request a join token for adding a cluster member",
        (0, 1),
        flags=(text("name", "Cluster member name (alternative to passing it as an argument)"),),
    ),
    Command("enable [<remote>:] <name>", "Enable clustering on a single non-clustered server", enable, (1, 2)),
    _asking(f"evacuate {_ONE}", "Evacuate cluster member", (1, 1), aliases=("evac",), flags=(_FORCE,)),
    _asking("list-tokens [<remote>:]", "List all active cluster member join tokens", (0, 1), flags=(FORMAT,)),
    _asking(
        f"remove {_ONE}",
        "Remove a member from the cluster",
        (1, 1),
        aliases=("rm",),
        flags=(_FORCE, switch("yes", "Don't require user confirmation for using --force")),
    ),
    _asking(f"restore {_ONE}", "Restore cluster member", (1, 1), flags=(_FORCE,)),
    _asking(f"revoke-token {_ONE}", "Revoke cluster member join token", (1, 1)),
    _asking(
        "update-certificate [<remote>:] <cert.crt> <cert.key>",
        "Update cluster certificate",
        (2, 3),
        aliases=("update-cert",),
    ),
)

COMMAND = Command(
    "cluster",
    "Manage cluster members",
    commands=(
        *_MEMBERSHIP,
        _GROUPS,
        _ROLES,
        Command(
            "list [<remote>:]", "List all the cluster members", list_members, (0, 1), aliases=("ls",), flags=(FORMAT,)
        ),
        Command(f"show {_ONE}", "Show details of a cluster member", bind(keyed.show, KIND), (1, 1)),
        Command(f"edit {_ONE}", "Edit cluster member configurations as YAML", bind(keyed.edit, KIND), (1, 1)),
        Command(
            f"get {_ONE} <key>",
            "Get values for cluster member configuration keys",
            bind(keyed.get, KIND),
            (2, 2),
            flags=(keyed.PROPERTY,),
        ),
        Command(
            f"set {_ONE} <key>=<value>...",
            "Set a cluster member's configuration keys",
            bind(keyed.set_keys, KIND),
            (2, -1),
            flags=(keyed.PROPERTY,),
        ),
        Command(
            f"unset {_ONE} <key>",
            "Unset a cluster member's configuration keys",
            bind(keyed.unset_key, KIND),
            (2, 2),
            flags=(keyed.PROPERTY,),
        ),
        Command(f"rename {_ONE} <new-name>", "Rename a cluster member", rename, (2, 2), aliases=("mv",)),
    ),
)
