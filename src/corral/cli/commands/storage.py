"""`storage`: storage pools; their volumes are in `storage volume`."""

from __future__ import annotations

from corral.cli import keyed, output, table
from corral.cli.command import ANY_NUMBER_OF, FORMAT, TARGET, Command, Invocation, switch
from corral.cli.commands import storage_volume
from corral.cli.keyed import Kind, bind
from corral.cli.records import POOL, POOL_WRITABLE
from corral.cli.session import order
from corral.client.server import escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

KIND = Kind(
    "/storage-pools",
    "Missing pool name",
    POOL,
    POOL_WRITABLE,
    """This is a YAML representation of a storage pool.
Any line starting with a '#' will be ignored.

A storage pool consists of a set of configuration items.

An example would look like:
name: default
driver: zfs
used_by: []
config:
  size: "61203283968"
  source: default
  zfs.pool_name: default""",
)
KIND.sorts_users = True


def create(invocation: Invocation) -> int:
    """Create a pool."""
    resource = invocation.session.resource(invocation.args[0])
    target = invocation.text("target")
    body = {
        "name": resource.name,
        "driver": invocation.args[1],
        "config": keyed.pairs(invocation.args[2:], "Bad key=value pair"),
        "description": "",
    }
    server = resource.server.with_target(target) if target else resource.server
    server.post("/storage-pools", body)
    outcome = f"pending on member {target}" if target else "created"
    invocation.session.say(f"Storage pool {resource.name} {outcome}")
    return 0


def list_pools(invocation: Invocation) -> int:
    """List the pools."""
    server = invocation.session.server(invocation.arg(0))
    pools = server.get("/storage-pools", {"recursion": "1"}) or []
    is_clustered = server.is_clustered
    rows = []
    for pool in pools:
        source = [] if is_clustered else [(pool.get("config") or {}).get("source", "")]
        users = str(len(pool.get("used_by") or ()))
        rows.append([pool["name"], pool["driver"], *source, pool["description"], users, pool["status"].upper()])
    table.sort_rows(rows)
    header = ["NAME", "DRIVER", *([] if is_clustered else ["SOURCE"]), "DESCRIPTION", "USED BY", "STATE"]
    table.show(invocation.text("format"), header, rows, [order(pool, POOL) for pool in pools])
    return 0


def info(invocation: Invocation) -> int:
    """Show the space of a pool and what uses it."""
    from corral.client.yaml_output import render_yaml
    from corral.units import format_size_iec

    resource = invocation.session.resource(invocation.args[0], KIND.missing)
    server = resource.server
    if invocation.text("target"):
        server.require_cluster()
        server = server.with_target(invocation.text("target"))
    pool = server.get(f"/storage-pools/{escape(resource.name)}")
    space = server.get(f"/storage-pools/{escape(resource.name)}/resources")["space"]
    total, used = space.get("total", 0), space.get("used", 0)
    in_bytes = invocation.switch("bytes")
    details = {
        "name": pool["name"],
        "driver": pool["driver"],
        "description": pool["description"],
        "total space": str(total) if in_bytes else format_size_iec(total),
        "space used": str(used) if in_bytes else format_size_iec(used),
    }
    output.write(render_yaml({"info": details}, any_value=True))
    output.write(render_yaml({"used by": _users(pool.get("used_by") or [])}, any_value=True))
    return 0


def _users(urls: list[str]) -> dict[str, list[str]]:
    """Names of what uses a pool, by kind: `/1.0/instances/c1?project=p` is `c1 (project "p")` in `instances`."""
    users: dict[str, list[str]] = {}
    for url in urls:
        path, _, query = url.partition("?")
        fields = path.removeprefix("/1.0/").split("/")
        kind, name = ("volumes", fields[4]) if fields[0] == "storage-pools" else (fields[0], fields[1])
        values = dict(pair.partition("=")[::2] for pair in query.split("&") if pair)
        notes = ", ".join(f'{key} "{values[key]}"' for key in ("project", "target") if values.get(key))
        users.setdefault(kind, []).append(f"{name} ({notes})" if notes else name)
    return users


def show(invocation: Invocation) -> int:
    """Print a pool as YAML, or its resources."""
    if not invocation.switch("resources"):
        return keyed.show(KIND, invocation)
    from corral.client.yaml_output import render_yaml

    server, path, _ = KIND.locate(invocation)
    body: dict[str, Any] = server.get(f"{path}/resources")
    output.write(render_yaml(body))
    return 0


_ONE = "[<remote>:]<pool>"

COMMAND = Command(
    "storage",
    "Manage storage pools and volumes",
    commands=(
        Command(
            f"create {_ONE} <driver> [key=value...]",
            "Create storage pools",
            create,
            (2, ANY_NUMBER_OF),
            flags=(TARGET,),
        ),
        Command(
            f"delete {_ONE}", "Delete storage pools", bind(keyed.delete, KIND, "Storage pool"), (1, 1), aliases=("rm",)
        ),
        Command(
            f"edit {_ONE}",
            "Edit storage pool configurations as YAML",
            bind(keyed.edit, KIND),
            (1, 1),
            examples=f"{{client}} storage edit {_ONE} < pool.yaml\n    Update a storage pool from pool.yaml.",
        ),
        Command(
            f"get {_ONE} <key>",
            "Get values for storage pool configuration keys",
            bind(keyed.get, KIND),
            (2, 2),
            flags=(keyed.PROPERTY, TARGET),
        ),
        Command(
            f"info {_ONE}",
            "Show useful information about storage pools",
            info,
            (1, 1),
            flags=(switch("bytes", "Show the used and free space in bytes"), TARGET),
        ),
        Command(
            "list [<remote>:]", "List available storage pools", list_pools, (0, 1), aliases=("ls",), flags=(FORMAT,)
        ),
        Command(
            f"set {_ONE} <key> <value>",
            "Set storage pool configuration keys",
            bind(keyed.set_keys, KIND),
            (2, ANY_NUMBER_OF),
            flags=(keyed.PROPERTY, TARGET),
            long=f"""Set storage pool configuration keys

A single key may also be set with:
    {{client}} storage set {_ONE} <key> <value>""",
        ),
        Command(
            f"show {_ONE}",
            "Show storage pool configurations and resources",
            show,
            (1, 1),
            flags=(switch("resources", "Show the resources available to the storage pool"), TARGET),
        ),
        Command(
            f"unset {_ONE} <key>",
            "Unset storage pool configuration keys",
            bind(keyed.unset_key, KIND),
            (2, 2),
            flags=(keyed.PROPERTY, TARGET),
        ),
        storage_volume.COMMAND,
    ),
)
