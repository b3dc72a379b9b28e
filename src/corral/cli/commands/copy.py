"""`copy`: another instance like one that exists, on this server or between two."""

from __future__ import annotations

from corral.cli import output
from corral.cli.command import TARGET, Command, Invocation, switch, text, texts
from corral.cli.commands.delete import snapshot_path
from corral.cli.migration import Side, check_mode, migrate
from corral.cli.progress import Progress
from corral.cli.records import INSTANCE_WRITABLE
from corral.cli.session import parse_device_overrides, pick, split_pair
from corral.client.server import escape
from corral.errors import CorralError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corral.cli.session import Session

    Body = dict[str, Any]

_RUNNING = 103
TRANSFER_MODES = """Transfer modes (--mode):
 - pull: the target server gets the data from the source server, which must listen on the network (the default)
 - push: the source server sends the data to the target server, which must listen on the network
 - relay: this program carries the data between the servers, which need not reach each other"""


class Plan:
    """What is copied, to where, and how; `move` keeps more of the instance than `copy` does."""

    def __init__(self, invocation: Invocation, source: str, target: str) -> None:
        session = invocation.session
        remotes = session.remotes
        self.session: Session = session
        self.invocation = invocation
        self.is_move = invocation.command.name == "move"
        self.refresh = bool(invocation.values.get("refresh"))
        self.live = not invocation.switch("stateless") and not self.refresh
        self.mode = invocation.text("mode")
        source_remote, self.source_name = remotes.parse(source)
        target_remote, self.target_name = remotes.parse(target)
        self._check(target)
        if not self.target_name and target:
            self.target_name = self.source_name
        self.same_server = source_remote == target_remote
        self.source = remotes.server(source_remote)
        self.target = remotes.server(target_remote)
        if invocation.text("target-project"):
            self.target = self.target.with_project(invocation.text("target-project"))
        if invocation.text("target"):
            self.target.require_cluster()
            self.target = self.target.with_target(invocation.text("target"))

    def _check(self, target: str) -> None:
        invocation = self.invocation
        if not self.source_name:
            raise CorralError("You must specify a source instance name")
        if not self.target_name and not target and invocation.text("target"):
            raise CorralError("You must specify a destination instance name when using --target")
        if self.refresh and invocation.switch("no-profiles"):
            raise CorralError("--no-profiles cannot be used with --refresh")
        if "/" in self.source_name and invocation.switch("instance-only"):
            raise CorralError("--instance-only can't be passed when the source is a snapshot")
        if "/" in self.source_name and self.refresh:
            raise CorralError("--refresh can only be used with instances")
        check_mode(self.mode)


def copy_instance(plan: Plan) -> None:
    """Do what a plan says."""
    source_path, entry = _read_source(plan)
    was_running = entry.get("status_code") == _RUNNING
    body = _compose(plan, entry)
    operation = _transfer(plan, source_path, body, live=plan.live and was_running)
    if plan.refresh:
        _refresh_config(plan, body)
    if not plan.target_name and not plan.invocation.text("target-project"):
        urls = (operation.get("resources") or {}).get("instances") or []
        # A copy within a server works on two: the new one, and its origin.
        if not urls:
            raise CorralError("Failed to get the new instance name")
        output.line(f"Instance name is: {str(urls[0]).partition('?')[0].rpartition('/')[2]}")
    if was_running and plan.is_move and not plan.live:
        state = {"action": "start", "timeout": 0, "force": False, "stateful": False}
        plan.target.run("PUT", f"/instances/{escape(plan.target_name)}/state", state)


def _read_source(plan: Plan) -> tuple[str, Body]:
    path = snapshot_path(plan.source_name) if "/" in plan.source_name else f"/instances/{escape(plan.source_name)}"
    entry: Body = plan.source.get(path)
    return path, entry


def _compose(plan: Plan, entry: Body) -> Body:
    """The new instance: the old one's definition with what the user overrides."""
    invocation = plan.invocation
    config = dict(entry.get("config") or {})
    config.update(split_pair(pair, "Bad key=value pair") for pair in invocation.texts("config"))
    devices = {name: dict(device) for name, device in (entry.get("devices") or {}).items()}
    for name, settings in parse_device_overrides(invocation.texts("device")).items():
        devices.setdefault(name, {}).update(settings)
    if invocation.text("storage"):
        _put_on_pool(devices, invocation.text("storage"))
    keeps_volatile = plan.is_move or plan.refresh
    config.pop("volatile.last_state.power", None)
    if not keeps_volatile:
        config = {
            key: value
            for key, value in config.items()
            if not key.startswith("volatile.") or key == "volatile.base_image"
        }
    body = {**pick(entry, INSTANCE_WRITABLE), "config": config, "devices": devices}
    if invocation.texts("profile"):
        body["profiles"] = invocation.texts("profile")
    elif invocation.switch("no-profiles"):
        body["profiles"] = []
    if not plan.is_move:
        body["ephemeral"] = invocation.switch("ephemeral")
    return body


def _put_on_pool(devices: dict[str, dict[str, str]], pool: str) -> None:
    for device in devices.values():
        if device.get("type") == "disk" and device.get("path") == "/":
            device["pool"] = pool
            return
    devices["root"] = {"type": "disk", "path": "/", "pool": pool}


def _transfer(plan: Plan, source_path: str, body: Body, *, live: bool) -> Body:
    invocation = plan.invocation
    only = invocation.switch("instance-only")
    source: Body = {
        "base-image": body["config"].get("volatile.base_image", ""),
        "live": live,
        "instance_only": only,
        "container_only": only,
        "refresh": plan.refresh,
        "allow_inconsistent": invocation.switch("allow-inconsistent"),
    }
    parent = plan.source_name.partition("/")[0]
    kind = plan.source.get(f"/instances/{escape(parent)}").get("type") or "container"
    request = {**body, "name": plan.target_name, "type": kind, "source": source}
    progress = Progress(plan.session, "Transferring instance: %s")
    if plan.same_server:
        source.update(type="copy", source=plan.source_name)
        if plan.source.project != plan.target.project:
            source["project"] = plan.source.project or "default"
        return progress.run(plan.target, "POST", "/instances", request)
    migration: Body = {
        "migration": True,
        "live": live,
        "instance_only": only,
        "container_only": only,
        "allow_inconsistent": source["allow_inconsistent"],
    }
    if "/" in plan.source_name:
        migration["name"] = plan.target_name
    source_side = Side(plan.source, source_path, migration)
    return migrate(progress, plan.mode, source_side, Side(plan.target, "/instances", request))


def _refresh_config(plan: Plan, body: Body) -> None:
    path = f"/instances/{escape(plan.target_name)}"
    try:
        current, etag = plan.target.get_tagged(path)
    except CorralError as error:
        raise CorralError(f"Failed to refresh target instance '{plan.target_name}': {error}") from error
    idmap = (current.get("config") or {}).get("volatile.idmap.next")
    if idmap is not None:
        body["config"]["volatile.idmap.next"] = idmap
    Progress(plan.session, "Refreshing instance: %s").run(plan.target, "PUT", path, body, etag=etag)


def run(invocation: Invocation) -> int:
    """Copy an instance."""
    copy_instance(Plan(invocation, invocation.args[0], invocation.arg(1)))
    return 0


COPY_FLAGS = (
    texts("config", "Config key/value to apply to the new instance", "c"),
    texts("device", "New key/value to apply to a specific device", "d"),
    texts("profile", "Profile to apply to the new instance", "p"),
    text("mode", "Transfer mode. One of pull, push or relay", default="pull"),
    switch("instance-only", "Copy the instance without its snapshots"),
    switch("stateless", "Copy a stateful instance stateless"),
    text("storage", "Storage pool name", "s"),
    TARGET,
    text("target-project", "Copy to a project different from the source"),
    switch("no-profiles", "Create the instance with no profiles applied"),
    switch("allow-inconsistent", "Ignore copy errors for volatile files"),
)

COMMAND = Command(
    "copy [<remote>:]<source>[/<snapshot>] [[<remote>:]<destination>]",
    "Copy instances within or in between {title} servers",
    run,
    (1, 2),
    aliases=("cp",),
    long="Copy instances within or in between {title} servers\n\n" + TRANSFER_MODES,
    flags=(
        *COPY_FLAGS,
        switch("ephemeral", "Ephemeral instance", "e"),
        switch("refresh", "Perform an incremental copy"),
    ),
)
