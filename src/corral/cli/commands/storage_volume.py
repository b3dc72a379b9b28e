"""`storage volume`: the volumes of a pool."""

from __future__ import annotations

from corral.cli import keyed, output, table
from corral.cli.command import ANY_NUMBER_OF, TARGET, Command, Invocation, switch, text
from corral.cli.commands import (
    storage_volume_backup,
    storage_volume_copy,
    storage_volume_devices,
    storage_volume_list,
)
from corral.cli.records import VOLUME, VOLUME_SNAPSHOT, VOLUME_WRITABLE
from corral.cli.session import order, parse_settings, pick
from corral.client.server import escape
from corral.errors import CorralError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corral.client.server import Server

_HEADER = """This is a YAML representation of a storage volume.
Any line starting with a '#' will be ignored.

A storage volume consists of a set of configuration items.

name: vol1
type: custom
used_by: []
config:
  size: "61203283968\""""


class Volume:
    """A volume or one of its snapshots, as the first two arguments name it."""

    def __init__(self, invocation: Invocation) -> None:
        resource = invocation.session.resource(invocation.args[0], "Missing pool name")
        self.server: Server = resource.server
        target = str(invocation.values.get("target") or "")
        if target:
            self.server = self.server.with_target(target)
        self.pool = resource.name
        name, self.kind = storage_volume_devices.parse_volume(invocation.args[1])
        fields = name.split("/")
        if len(fields) > 2:
            raise CorralError("Invalid snapshot name")
        self.name = fields[0]
        self.snapshot = fields[1] if len(fields) == 2 else ""

    @property
    def writable(self) -> tuple[str, ...]:
        """The fields that can be changed."""
        return ("description", "expires_at") if self.snapshot else VOLUME_WRITABLE

    @property
    def collection(self) -> str:
        """The path of the pool's volumes of this kind."""
        return f"/storage-pools/{escape(self.pool)}/volumes/{self.kind}"

    @property
    def parent_path(self) -> str:
        """The path of the volume itself."""
        return f"{self.collection}/{escape(self.name)}"

    @property
    def path(self) -> str:
        """The path of the volume or snapshot."""
        return self.parent_path + (f"/snapshots/{escape(self.snapshot)}" if self.snapshot else "")


def create(invocation: Invocation) -> int:
    """Create a custom volume."""
    volume = Volume(invocation)
    body = {
        "name": volume.name,
        "type": volume.kind,
        "content_type": invocation.text("type"),
        "config": keyed.pairs(invocation.args[2:], "Bad key=value pair"),
        "description": "",
    }
    volume.server.post(volume.collection, body)
    invocation.session.say(f"Storage volume {invocation.args[1]} created")
    return 0


def delete(invocation: Invocation) -> int:
    """Delete a volume or a snapshot."""
    volume = Volume(invocation)
    if volume.snapshot:
        volume.server.run("DELETE", volume.path)
    else:
        volume.server.delete(volume.path)
    invocation.session.say(f"Storage volume {invocation.args[1]} deleted")
    return 0


def edit(invocation: Invocation) -> int:
    """Edit a volume or a snapshot as YAML."""
    from corral.cli.editor import edit_record
    from corral.client.yaml_input import parse_record
    from corral.client.yaml_output import render_yaml

    volume = Volume(invocation)

    def fetch() -> tuple[str, str]:
        body, etag = volume.server.get_tagged(volume.path)
        fields = VOLUME_SNAPSHOT if volume.snapshot else VOLUME
        return render_yaml(order(body, fields, ("restore",))), etag

    def store(content: str, etag: str) -> None:
        volume.server.put(volume.path, parse_record(content, volume.writable), etag)

    edit_record(_HEADER, fetch, store)
    return 0


def get(invocation: Invocation) -> int:
    """Print the value of a key."""
    volume = Volume(invocation)
    body = volume.server.get(volume.path)
    if keyed.wants_property(invocation):
        keyed.show_field(body, volume.writable, invocation.args[2], f'storage volume "{invocation.args[1]}"')
        return 0
    config = body.get("config") or {}
    if invocation.args[2] in config:
        output.line(config[invocation.args[2]])
    return 0


def set_keys(invocation: Invocation) -> int:
    """Set keys of a volume."""
    volume = Volume(invocation)
    settings = parse_settings(invocation.args[2:])
    if volume.snapshot and not keyed.wants_property(invocation):
        raise CorralError("Snapshots are read-only and can't have their configuration changed")
    body, etag = volume.server.get_tagged(volume.path)
    record = pick(body, volume.writable)
    if keyed.wants_property(invocation):
        keyed.set_fields(record, settings, f'storage volume "{invocation.args[1]}"')
    else:
        record["config"] = {**(record.get("config") or {}), **settings}
    volume.server.put(volume.path, record, etag)
    return 0


def unset(invocation: Invocation) -> int:
    """Unset a key of a volume."""
    invocation.args = [*invocation.args, ""]
    return set_keys(invocation)


def show(invocation: Invocation) -> int:
    """Print a volume or a snapshot as YAML."""
    from corral.client.yaml_output import render_yaml

    volume = Volume(invocation)
    body = volume.server.get(volume.path)
    if volume.snapshot:
        output.write(render_yaml(order(body, VOLUME_SNAPSHOT)))
        return 0
    body["used_by"] = sorted(body.get("used_by") or [])
    output.write(render_yaml(order(body, VOLUME, ("restore",))))
    return 0


def info(invocation: Invocation) -> int:
    """Show the state of a volume."""
    from corral.units import format_size_iec

    volume = Volume(invocation)
    if volume.snapshot or volume.kind == "image":
        raise CorralError("Only instance or custom volumes are supported")
    server = volume.server
    body = server.get(volume.path)
    state = server.get(f"{volume.path}/state") or {}
    snapshots = server.get(f"{volume.path}/snapshots", {"recursion": "1"}) or []
    lines = [f"Name: {body['name']}"]
    if body["description"]:
        lines.append(f"Description: {body['description']}")
    lines.append(f"Type: {body.get('type') or 'custom'}")
    lines.append(f"Content type: {body.get('content_type') or 'filesystem'}")
    if body.get("location") not in ("", "none", None) and server.is_clustered:
        lines.append(f"Location: {body['location']}")
    if state.get("usage"):
        lines.append(f"Usage: {format_size_iec(state['usage'].get('used', 0))}")
        if state["usage"].get("total"):
            lines.append(f"Total: {format_size_iec(state['usage']['total'])}")
    output.line("\n".join(lines))
    if snapshots:
        rows = [
            [entry["name"].rpartition("/")[2], entry["description"], _moment(entry.get("expires_at"))]
            for entry in snapshots
        ]
        table.sort_rows(rows)
        output.line("\nSnapshots:")
        output.write(table.render_table(["Name", "Description", "Expires at"], rows))
    return 0


def _moment(text_: str | None) -> str:
    from corral.cli.times import format_local, is_set

    return format_local(text_) if text_ and is_set(text_) else " "


def rename(invocation: Invocation) -> int:
    """Rename a volume or a snapshot."""
    volume = Volume(invocation)
    new = invocation.args[2]
    if volume.snapshot:
        parent, slash, name = new.partition("/")
        if parent != volume.name:
            raise CorralError("Invalid new snapshot name, parent volume must be the same as source")
        if not slash:
            raise CorralError("Invalid new snapshot name")
        volume.server.run("POST", volume.path, {"name": name})
        output.line(f'Renamed storage volume from "{volume.name}/{volume.snapshot}" to "{name}"')
        return 0
    volume.server.post(volume.path, {"name": new, "migration": False, "volume_only": False})
    invocation.session.say(f'Renamed storage volume from "{volume.name}" to "{new}"')
    return 0


def snapshot(invocation: Invocation) -> int:
    """Snapshot a custom volume."""
    volume = Volume(invocation)
    if volume.kind != "custom":
        raise CorralError('Only "custom" volumes can be snapshotted')
    server = volume.server
    server.get(volume.path)
    name = invocation.arg(2)
    body: dict[str, object] = {"name": name}
    if invocation.switch("no-expiry"):
        body["expires_at"] = "0001-01-01T00:00:00Z"
    if invocation.switch("reuse") and name:
        from corral.client.server import ApiError

        existing = f"{volume.path}/snapshots/{escape(name)}"
        try:
            server.get(existing)
        except ApiError:
            pass  # Nothing to replace.
        else:
            server.run("DELETE", existing)
    server.run("POST", f"{volume.path}/snapshots", body)
    return 0


def restore(invocation: Invocation) -> int:
    """Bring a custom volume back to a snapshot."""
    volume = Volume(invocation)
    _, etag = volume.server.get_tagged(volume.path)
    volume.server.put(volume.path, {"restore": invocation.args[2], "config": None, "description": ""}, etag)
    return 0


_ONE = "[<remote>:]<pool> <volume>"

COMMAND = Command(
    "volume",
    "Manage storage volumes",
    long="""Manage storage volumes

A volume is a custom one unless its type stands before its name, as in container/c1.""",
    commands=(
        *storage_volume_backup.COMMANDS,
        *storage_volume_copy.COMMANDS,
        *storage_volume_devices.COMMANDS,
        storage_volume_list.COMMAND,
        Command(
            f"create {_ONE} [key=value...]",
            "Create new custom storage volumes",
            create,
            (2, ANY_NUMBER_OF),
            flags=(TARGET, text("type", "Content type, block or filesystem", default="filesystem")),
        ),
        Command(
            f"delete {_ONE}[/<snapshot>]", "Delete storage volumes", delete, (2, 2), aliases=("rm",), flags=(TARGET,)
        ),
        Command(
            f"edit {_ONE}[/<snapshot>]",
            "Edit storage volume configurations as YAML",
            edit,
            (2, 2),
            flags=(TARGET,),
            examples=f"{{client}} storage volume edit {_ONE} < volume.yaml\n    Update a volume from volume.yaml.",
        ),
        Command(
            f"get {_ONE}[/<snapshot>] <key>",
            "Get values for storage volume configuration keys",
            get,
            (3, 3),
            flags=(keyed.PROPERTY, TARGET),
        ),
        Command(f"info {_ONE}", "Show storage volume state information", info, (2, 2), flags=(TARGET,)),
        Command(
            "rename [<remote>:]<pool> <old name>[/<old snapshot name>] <new name>[/<new snapshot name>]",
            "Rename storage volumes and storage volume snapshots",
            rename,
            (3, 3),
            flags=(TARGET,),
        ),
        Command(f"restore {_ONE} <snapshot>", "Restore storage volume snapshots", restore, (3, 3), flags=(TARGET,)),
        Command(
            f"set {_ONE} <key>=<value>...",
            "Set storage volume configuration keys",
            set_keys,
            (3, ANY_NUMBER_OF),
            flags=(keyed.PROPERTY, TARGET),
            long=f"""Set storage volume configuration keys

A single key may also be set with:
    {{client}} storage volume set {_ONE} <key> <value>""",
        ),
        Command(
            f"show {_ONE}[/<snapshot>]",
            "Show storage volume configurations",
            show,
            (2, 2),
            flags=(TARGET,),
            examples="""{client} storage volume show default data
    The custom volume "data" of the pool "default".

{client} storage volume show default container/data
    The file system of the container "data".""",
        ),
        Command(
            f"snapshot {_ONE} [<snapshot>]",
            "Snapshot storage volumes",
            snapshot,
            (2, 3),
            flags=(
                switch("no-expiry", "Ignore any configured auto-expiry for the storage volume"),
                switch("reuse", "If the snapshot name already exists, delete and create a new one"),
                TARGET,
            ),
        ),
        Command(
            f"unset {_ONE} <key>",
            "Unset storage volume configuration keys",
            unset,
            (3, 3),
            flags=(keyed.PROPERTY, TARGET),
        ),
    ),
)
