"""`move` and `rename`: another name, pool, project, cluster member or server for an instance."""

from __future__ import annotations

from corral.cli import keyed
from corral.cli.command import Command, Invocation
from corral.cli.commands.copy import COPY_FLAGS, TRANSFER_MODES, Plan, copy_instance
from corral.cli.commands.delete import snapshot_path
from corral.cli.progress import Progress
from corral.cli.session import parse_device_overrides
from corral.client.server import escape
from corral.errors import CorralError
from corral.units import is_true

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corral.client.server import Server


def run(invocation: Invocation) -> int:
    """Move an instance."""
    args = invocation.args
    target, pool = invocation.text("target"), invocation.text("storage")
    project = invocation.text("target-project")
    if len(args) < 2 and not (target or pool or project):
        raise CorralError("Invalid number of arguments")
    remotes = invocation.session.remotes
    source_remote, source_name = remotes.parse(args[0])
    target_remote, target_name = remotes.parse(args[1]) if len(args) == 2 else (source_remote, "")
    if source_remote != target_remote:
        _move_to_server(invocation)
        return 0
    server = remotes.server(source_remote)
    if not (target or pool or project):
        overrides = ("config", "device", "profile", "no-profiles")
        if any(invocation.values[name] for name in overrides):
            raise CorralError("Can't override configuration or profiles in local rename")
        rename(server, source_name, target_name)
        return 0
    _check_flags(invocation)
    _migrate(invocation, server, source_name, target_name)
    return 0


def _check_flags(invocation: Invocation) -> None:
    """Flags that do not go together within one server."""
    by = next(flag for flag in ("target", "storage", "target-project") if invocation.text(flag))
    if by == "target":
        for name in ("instance-only", "storage", "target-project"):
            if invocation.values[name]:
                raise CorralError(f"The --{name} flag can't be used with --target")
    if invocation.text("mode") != "pull":
        raise CorralError(f"The --mode flag can't be used with --{by}")


def rename(server: Server, source: str, target: str) -> None:
    """Rename an instance or a snapshot."""
    if "/" not in source:
        server.run("POST", f"/instances/{escape(source)}", {"name": target, "migration": False})
        return
    parent, slash, name = target.partition("/")
    if parent != source.partition("/")[0]:
        raise CorralError("Invalid new snapshot name, parent must be the same as source")
    if not slash:
        raise CorralError("Invalid new snapshot name")
    server.run("POST", snapshot_path(source), {"name": name, "migration": False})


def _overrides(invocation: Invocation, server: Server, path: str) -> dict[str, Any]:
    """What the instance gets at its new place."""
    found: dict[str, Any] = {}
    if invocation.texts("config"):
        found["Config"] = keyed.pairs(invocation.texts("config"), "Bad key=value pair")
    wanted = parse_device_overrides(invocation.texts("device"))
    if wanted:
        present = server.get(path).get("expanded_devices") or {}
        found["Devices"] = {name: {**present.get(name, {}), **settings} for name, settings in wanted.items()}
    if invocation.texts("profile") or invocation.switch("no-profiles"):
        found["Profiles"] = invocation.texts("profile")
    return found


def _migrate(invocation: Invocation, server: Server, source: str, target: str) -> None:
    """Have one server move an instance to another pool, project or member."""
    if not source:
        raise CorralError("You must specify a source instance name")
    member = invocation.text("target")
    if member and not server.is_clustered:
        raise CorralError(f"The source {invocation.session.product.title} server is not clustered")
    body: dict[str, Any] = {
        "name": target or source,
        "migration": True,
        "live": not invocation.switch("stateless"),
        "pool": invocation.text("storage"),
        "project": invocation.text("target-project"),
        "instance_only": invocation.switch("instance-only"),
        "allow_inconsistent": invocation.switch("allow-inconsistent"),
    }
    if member:
        server = server.with_target(member)
    path = snapshot_path(source) if "/" in source else f"/instances/{escape(source)}"
    body.update(_overrides(invocation, server, path))
    try:
        Progress(invocation.session, "Transferring instance: %s").run(server, "POST", path, body)
    except CorralError as error:
        raise CorralError(f"Migration operation failure: {error}") from error


def _move_to_server(invocation: Invocation) -> None:
    """Copy to the other server, then delete here."""
    plan = Plan(invocation, invocation.args[0], invocation.args[1])
    copy_instance(plan)
    path = f"/instances/{escape(plan.source_name)}"
    try:
        if "/" in plan.source_name:
            plan.source.run("DELETE", snapshot_path(plan.source_name))
            return
        instance, etag = plan.source.get_tagged(path)
        if instance["status_code"] not in (0, 102):
            state = {"action": "stop", "timeout": -1, "force": True, "stateful": False}
            plan.source.run("PUT", f"{path}/state", state)
            if instance["ephemeral"]:
                return
        if is_true((instance.get("expanded_config") or {}).get("security.protection.delete")):
            plan.source.run("PATCH", path, {"config": {"security.protection.delete": "false"}}, etag)
        plan.source.run("DELETE", path)
    except CorralError as error:
        raise CorralError(f"Failed to delete original instance after copying it: {error}") from error


def run_rename(invocation: Invocation) -> int:
    """Rename an instance or a snapshot."""
    remotes = invocation.session.remotes
    source_remote, source = remotes.parse(invocation.args[0])
    target_remote, target = remotes.parse(invocation.args[1])
    if source_remote != target_remote and ":" in invocation.args[1]:
        raise CorralError("Can't specify a different remote for rename")
    rename(remotes.server(source_remote), source, target)
    return 0


COMMAND = Command(
    "move [<remote>:]<instance>[/<snapshot>] [<remote>:][<instance>[/<snapshot>]]",
    "Move instances within or in between {title} servers",
    run,
    (1, 2),
    aliases=("mv",),
    long="Move instances within or in between {title} servers\n\n" + TRANSFER_MODES,
    examples="""{client} move [<remote>:]<source instance> [<remote>:][<destination instance>] [--instance-only]
    Move an instance between two hosts, renaming it if destination name differs.

{client} move <old name> <new name> [--instance-only]
    Rename a local instance.

{client} move <instance>/<old snapshot name> <instance>/<new snapshot name>
    Rename a snapshot.""",
    flags=COPY_FLAGS,
)
RENAME = Command(
    "rename [<remote>:]<instance>[/<snapshot>] <instance>[/<snapshot>]",
    "Rename instances and snapshots",
    run_rename,
    (2, 2),
)
