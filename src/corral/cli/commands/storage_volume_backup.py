"""`storage volume export` and `import`: custom volumes as files."""

from __future__ import annotations

from corral.cli.backup import expiry, export_backup, import_backup
from corral.cli.command import TARGET, Command, Invocation, switch, text
from corral.cli.commands.storage_volume_devices import parse_volume
from corral.cli.session import Resource
from corral.client.server import escape
from corral.errors import CorralError


def _locate(invocation: Invocation) -> Resource:
    resource = invocation.session.resource(invocation.args[0], "Missing pool name")
    if invocation.text("target"):
        resource.server = resource.server.with_target(invocation.text("target"))
    return resource


def export(invocation: Invocation) -> int:
    """Export a volume."""
    resource = _locate(invocation)
    name, kind = parse_volume(invocation.args[1])
    if kind != "custom":
        raise CorralError('Only "custom" volumes can be exported')
    body = {
        "name": "",
        "expires_at": expiry(),
        "volume_only": invocation.switch("volume-only"),
        "optimized_storage": invocation.switch("optimized-storage"),
        "compression_algorithm": invocation.text("compression"),
    }
    path = f"/storage-pools/{escape(resource.name)}/volumes/custom/{escape(name)}"
    export_backup(invocation.session, resource.server, path, body, invocation.arg(2, "backup.tar.gz"))
    return 0


def import_volume(invocation: Invocation) -> int:
    """Import a volume."""
    resource = _locate(invocation)
    headers = {"X-LXD-name": invocation.args[2]} if len(invocation.args) > 2 else {}
    path = f"/storage-pools/{escape(resource.name)}/volumes/custom"
    import_backup(invocation.session, resource.server, path, invocation.args[1], headers)
    return 0


COMMANDS = (
    Command(
        "export [<remote>:]<pool> <volume> [<path>]",
        "Export custom storage volume",
        export,
        (2, 3),
        flags=(
            switch("volume-only", "Export the volume without its snapshots"),
            switch(
                "optimized-storage",
                "Use storage driver optimized format (can only be restored on a similar pool)",
            ),
            text("compression", "Define a compression algorithm: for backup or none"),
            TARGET,
        ),
    ),
    Command(
        "import [<remote>:]<pool> <backup file> [<volume name>]",
        "Import custom storage volumes",
        import_volume,
        (2, 3),
        long="Import backups of custom volumes, with their snapshots",
        examples="{client} storage volume import default backup0.tar.gz\n  Create a volume from backup0.tar.gz.",
        flags=(TARGET,),
    ),
)
