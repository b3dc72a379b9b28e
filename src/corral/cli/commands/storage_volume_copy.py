"""`storage volume copy` and `move`: custom volumes between pools, projects, cluster members and servers."""

from __future__ import annotations

from corral.cli.command import TARGET, Command, Flag, Invocation, switch, text
from corral.cli.migration import Side, check_mode, migrate
from corral.cli.progress import Progress
from corral.client.server import Server, escape
from corral.errors import CorralError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Place:
    """A volume's place: `[<remote>:]<pool>/<volume>[/<snapshot>]`."""

    def __init__(self, invocation: Invocation, argument: str, noun: str) -> None:
        resource = invocation.session.resource(argument)
        if not resource.name and noun == "source":
            raise CorralError("Missing source volume name")
        self.remote = resource.remote
        self.server: Server = resource.server
        self.pool, slash, self.name = resource.name.partition("/")
        if not slash:
            raise CorralError(f"No storage pool for {noun} volume specified")

    @property
    def collection(self) -> str:
        """The path of the pool's custom volumes."""
        return f"/storage-pools/{escape(self.pool)}/volumes/custom"

    @property
    def parent_path(self) -> str:
        """The path of the volume itself."""
        return f"{self.collection}/{escape(self.name.partition('/')[0])}"

    @property
    def path(self) -> str:
        """The path of the volume or snapshot."""
        snapshot = self.name.partition("/")[2]
        return self.parent_path + (f"/snapshots/{escape(snapshot)}" if snapshot else "")


def run(invocation: Invocation) -> int:
    """Copy or move a volume."""
    is_move = invocation.command.name == "move"
    mode = invocation.text("mode")
    check_mode(mode)
    source = Place(invocation, invocation.args[0], "source")
    target = Place(invocation, invocation.args[1], "target")
    if invocation.text("target"):
        source.server = source.server.with_target(invocation.text("target"))
    volume = _read(source)
    member = invocation.text("destination-target")
    if source.remote != target.remote and member:
        raise CorralError("Cannot use --destination-target when copying to another remote")
    location = "" if volume.get("location") in ("none", None) else str(volume["location"])
    if source.remote == target.remote and (member or location):
        target.server = target.server.with_target(member or location)
    if not invocation.text("target") and location:
        source.server = source.server.with_target(location)
    doing = "Moving" if is_move else "Copying"
    progress = Progress(invocation.session, f"{doing} the storage volume: %s")
    is_local = source.remote == target.remote and source.server.target == target.server.target
    if is_move and is_local:
        body = {"name": target.name, "pool": target.pool, "project": invocation.text("target-project")}
        progress.run(target.server, "POST", source.path, body)
    else:
        _copy(invocation, progress, (source, target), volume)
        if is_move:
            _delete_source(source)
    progress.done(f"Storage volume {'moved' if is_move else 'copied'} successfully!")
    return 0


def _read(source: Place) -> dict[str, Any]:
    volume: dict[str, Any] = source.server.get(source.parent_path)
    if "/" in source.name:
        snapshot = source.server.get(source.path)
        volume["config"], volume["description"] = snapshot["config"], snapshot["description"]
    return volume


def _copy(invocation: Invocation, progress: Progress, places: tuple[Place, Place], volume: dict[str, Any]) -> None:
    source, target = places
    only = bool(invocation.values.get("volume-only"))
    project = invocation.text("target-project")
    server = target.server.with_project(project) if project else target.server
    origin: dict[str, Any] = {
        "name": source.name,
        "type": "copy",
        "pool": source.pool,
        "volume_only": only,
        "refresh": bool(invocation.values.get("refresh")),
    }
    body = {
        "name": target.name,
        "type": "custom",
        "content_type": volume.get("content_type", "filesystem"),
        "config": volume["config"],
        "description": volume["description"],
        "source": origin,
    }
    if source.remote == target.remote and source.server.target == server.target:
        if source.server.project != server.project:
            origin["project"] = source.server.project or "default"
        progress.run(server, "POST", target.collection, body)
        return
    migration = {"migration": True, "name": source.name, "pool": source.pool, "volume_only": only}
    sending = Side(source.server, source.path, migration)
    migrate(progress, invocation.text("mode"), sending, Side(server, target.collection, body))


def _delete_source(source: Place) -> None:
    try:
        if "/" in source.name:
            source.server.run("DELETE", source.path)
        else:
            source.server.delete(source.path)
    except CorralError as error:
        raise CorralError(f"Failed deleting source volume after copy: {error}") from error


_FLAGS: tuple[Flag, ...] = (
    text("mode", "Transfer mode. One of pull (default), push or relay.", default="pull"),
    TARGET,
    text("destination-target", "Destination cluster member name"),
    text("target-project", "Use a project different from the source"),
)
_PLACE = "[<remote>:]<pool>/<volume>"

COMMANDS = (
    Command(
        f"copy {_PLACE}[/<snapshot>] {_PLACE}",
        "Copy storage volumes",
        run,
        (2, 2),
        aliases=("cp",),
        flags=(
            *_FLAGS,
            switch("volume-only", "Copy the volume without its snapshots"),
            switch("refresh", "Refresh and update the existing storage volume copies"),
        ),
    ),
    Command(
        f"move {_PLACE} {_PLACE}",
        "Move storage volumes between pools",
        run,
        (2, 2),
        aliases=("mv",),
        flags=_FLAGS,
    ),
)
