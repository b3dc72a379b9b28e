"""/1.0/storage-pools/POOL/volumes/TYPE/VOLUME/backups."""

from aiohttp import web

from corral.api.storage import StorageVolumeBackup, StorageVolumeBackupPost, StorageVolumeBackupsPost
from corral.api.urls import url
from corral.server.backups import archive, kept, store, volume_parts, volumes
from corral.server.backups.kept import Owner
from corral.server.backups.store import NEVER, Backup
from corral.server.events.model import format_time, utc_now
from corral.server.operations.model import Operation
from corral.server.projects import permissions
from corral.server.rest import files
from corral.server.rest.files import SentFile
from corral.server.rest.request import Request
from corral.server.rest.responses import Listing
from corral.server.rest.routing import Routes
from corral.server.storage import scope
from corral.server.storage.custom_snapshots import format_expiry
from corral.server.storage.model import Volume, VolumeType

routes = Routes("/1.0/storage-pools/{pool}/volumes/{type}/{name}/backups")


def _to_wire(backup: Backup) -> StorageVolumeBackup:
    return StorageVolumeBackup(
        name=backup.name,
        created_at=backup.created_at,
        expires_at=backup.expires_at or NEVER,
        volume_only=backup.alone,
        optimized_storage=backup.optimized,
    )


async def _volume(request: Request, pool: str, type: str, name: str) -> tuple[Volume, Owner]:
    kind = VolumeType.parse(type)
    volume = await request.db.read(scope.get_volume, pool, request.requested_project, kind, name)
    return volume, volumes.owner_of(request.context, volume)


async def _find(request: Request, pool: str, type: str, name: str, backup: str) -> tuple[Owner, Backup]:
    _, owner = await _volume(request, pool, type, name)
    return owner, await request.db.read(store.get_backup, owner.table, owner.id, backup)


def _resources(name: str) -> dict[str, list[str]]:
    return {"volume": [name]}


@routes.get("")
async def list_backups(request: Request, pool: str, type: str, name: str) -> Listing[StorageVolumeBackup]:
    """List the backups of a custom volume."""
    _, owner = await _volume(request, pool, type, name)
    found = await request.db.read(store.list_backups, owner.table, owner.id)
    return Listing([_to_wire(one) for one in found], url=lambda one: url(*owner.place, "backups", one.name))


@routes.post("")
async def create_backup(request: Request, pool: str, type: str, name: str, body: StorageVolumeBackupsPost) -> Operation:
    """Make a backup of a custom volume; without a name it gets the next of its series."""
    volume, owner = await _volume(request, pool, type, name)
    await request.db.read(permissions.check_backups, volume.project)
    if body.compression_algorithm:
        archive.check_algorithm(body.compression_algorithm)
    wanted = body.name or await kept.next_name(request.context, owner)
    archive.check_name(wanted)
    optimized = body.optimized_storage and volume_parts.can_send(request.context, volume.pool)
    expires_at = format_expiry(body.expires_at) or ""
    new = Backup(0, volume.id, wanted, format_time(utc_now()), expires_at, body.volume_only, optimized)
    return request.start_on(
        {"storage_volumes": [name], "backups": [wanted]},
        "Creating custom volume backup",
        volumes.create,
        volume,
        new,
        body.compression_algorithm,
    )


@routes.get("/{backup}")
async def get_backup(request: Request, pool: str, type: str, name: str, backup: str) -> StorageVolumeBackup:
    """Get a backup."""
    return _to_wire((await _find(request, pool, type, name, backup))[1])


@routes.post("/{backup}")
async def rename_backup(
    request: Request, pool: str, type: str, name: str, backup: str, body: StorageVolumeBackupPost
) -> Operation:
    """Rename a backup."""
    owner, _ = await _find(request, pool, type, name, backup)
    archive.check_name(body.name)
    what = "Renaming custom volume backup"
    return request.start_on(_resources(name), what, kept.rename, owner, backup, body.name)


@routes.delete("/{backup}")
async def delete_backup(request: Request, pool: str, type: str, name: str, backup: str) -> Operation:
    """Delete a backup."""
    owner, _ = await _find(request, pool, type, name, backup)
    return request.start_on(_resources(name), "Deleting custom volume backup", kept.delete, owner, backup)


@routes.get("/{backup}/export")
async def export_backup(request: Request, pool: str, type: str, name: str, backup: str) -> web.StreamResponse:
    """Get the archive of a backup."""
    owner, found = await _find(request, pool, type, name, backup)
    kept.publish(request.context, owner, found.name, "retrieved")
    return await files.send(request.raw, [SentFile("backup", f"{name}-{found.name}.backup", owner.path_of(found.name))])
