"""/1.0/instances/NAME/backups."""

from aiohttp import web

from corral.api import instances as wire
from corral.api.instances import InstanceBackupPost, InstanceBackupsPost
from corral.api.urls import url
from corral.errors import NotFound
from corral.server.backups import archive, kept, store
from corral.server.backups.kept import Owner
from corral.server.backups.store import Backup
from corral.server.events.model import format_time, utc_now
from corral.server.instances import render
from corral.server.instances.backup import backups
from corral.server.instances.model import Instance
from corral.server.operations.model import Operation
from corral.server.projects import permissions
from corral.server.rest import files
from corral.server.rest.files import SentFile
from corral.server.rest.request import Request
from corral.server.rest.responses import Listing
from corral.server.rest.routes.instance_snapshots import parse_expiry
from corral.server.rest.routes.instances import load, resources
from corral.server.rest.routing import Routes

routes = Routes("/1.0/instances/{name}/backups")


async def _load(request: Request, name: str, backup_name: str) -> tuple[Instance, Backup, Owner]:
    instance = await load(request, name)
    owner = backups.owner_of(request.context, instance)
    try:
        return instance, await request.db.read(store.get_backup, owner.table, owner.id, backup_name), owner
    except NotFound as error:
        raise NotFound(f"Load backup from database: {error}") from error


@routes.get("")
async def list_backups(request: Request, name: str) -> Listing[wire.InstanceBackup]:
    """List the backups of an instance."""
    instance = await load(request, name)
    found = await request.db.read(store.list_backups, store.INSTANCES, instance.id)
    return Listing(
        [render.backup(one) for one in found],
        lambda one: url(request.base, name, "backups", one.name, project=request.project),
    )


@routes.post("")
async def create_backup(request: Request, name: str, body: InstanceBackupsPost) -> Operation:
    """Make a backup of an instance; without a name it gets the next of its series."""
    instance = await load(request, name)
    await request.db.read(permissions.check_backups, request.project)
    if body.compression_algorithm:
        archive.check_algorithm(body.compression_algorithm)
    wanted = body.name or await kept.next_name(request.context, backups.owner_of(request.context, instance))
    archive.check_name(wanted)
    only = body.instance_only or body.container_only
    optimized = body.optimized_storage and await backups.can_optimize(request.context, instance)
    expires_at = parse_expiry(body.expires_at) or ""
    new = Backup(0, instance.id, wanted, format_time(utc_now()), expires_at, only, optimized)
    return request.start_on(
        {
            **resources(request, name, container=instance.is_container),
            # The client of LXD 5.0 cuts this prefix off to find the name.
            "backups": [f"/1.0/backups/{wanted}"],
        },
        "Backing up instance",
        backups.create_backup,
        instance,
        new,
        body.compression_algorithm,
    )


@routes.get("/{backup_name}")
async def get_backup(request: Request, name: str, backup_name: str) -> wire.InstanceBackup:
    """Get a backup."""
    return render.backup((await _load(request, name, backup_name))[1])


@routes.post("/{backup_name}")
async def rename_backup(request: Request, name: str, backup_name: str, body: InstanceBackupPost) -> Operation:
    """Rename a backup."""
    instance, _, owner = await _load(request, name, backup_name)
    archive.check_name(body.name)
    return request.start_on(
        resources(request, name, container=instance.is_container),
        "Renaming instance backup",
        kept.rename,
        owner,
        backup_name,
        body.name,
    )


@routes.delete("/{backup_name}")
async def delete_backup(request: Request, name: str, backup_name: str) -> Operation:
    """Delete a backup."""
    instance, _, owner = await _load(request, name, backup_name)
    return request.start_on(
        resources(request, name, container=instance.is_container),
        "Removing instance backup",
        kept.delete,
        owner,
        backup_name,
    )


@routes.get("/{backup_name}/export")
async def export_backup(request: Request, name: str, backup_name: str) -> web.StreamResponse:
    """Get the archive of a backup."""
    instance, backup, owner = await _load(request, name, backup_name)
    path = owner.path_of(backup.name)
    kept.publish(request.context, owner, backup.name, "retrieved")
    return await files.send(request.raw, [SentFile("backup", f"{instance.name}-{backup.name}.backup", path)])
