"""/1.0/storage-pools/POOL/volumes."""

from corral.api.storage import (
    StorageVolume,
    StorageVolumePost,
    StorageVolumePut,
    StorageVolumeSource,
    StorageVolumesPost,
    StorageVolumeState,
    StorageVolumeStateUsage,
)
from corral.api.urls import url
from corral.errors import Forbidden, InvalidRequest, NotSupported
from corral.server.backups import volumes as backups
from corral.server.backups.index import CUSTOM
from corral.server.backups.upload import Wanted, receive
from corral.server.instances import custom_volumes
from corral.server.instances.backup import backup_file
from corral.server.instances.sessions.channels import Connections
from corral.server.migration import volume_sink
from corral.server.migration.session import Remote
from corral.server.migration.source import send_volume
from corral.server.operations.model import Operation
from corral.server.rest import migrations, uploads
from corral.server.rest.request import Request
from corral.server.rest.responses import Created, Listing
from corral.server.rest.routing import Routes
from corral.server.storage import custom, custom_copies, pools, scope, store, volumes
from corral.server.storage.copies import Origin
from corral.server.storage.keys import quoted
from corral.server.storage.model import ContentType, Volume, VolumeType

routes = Routes("/1.0/storage-pools/{pool}/volumes")


def _to_wire(request: Request, volume: Volume, users: list[str]) -> StorageVolume:
    return StorageVolume(
        config=dict(volume.config),
        description=volume.description,
        name=volume.name,
        type=volume.type.value,
        used_by=users,
        location=request.context.member.location,
        content_type=volume.content_type.value,
        project=volume.project,
        created_at=volume.created_at or "0001-01-01T00:00:00Z",
    )


async def _listing(request: Request, pool: str, kinds: list[VolumeType]) -> Listing[StorageVolume]:
    project = None if request.all_projects else request.requested_project
    found = await request.db.read(scope.list_volumes, pool, project, kinds)
    return Listing(
        [_to_wire(request, volume, users) for volume, users in found],
        url=lambda volume: _url(pool, volume),
    )


def _url(pool: str, volume: StorageVolume) -> str:
    name, slash, snapshot = volume.name.partition("/")
    parts = ("snapshots", snapshot) if slash else ()
    return url("/1.0/storage-pools", pool, "volumes", volume.type, name, *parts, project=volume.project)


async def _find(request: Request, pool: str, type: str, name: str) -> Volume:
    kind = VolumeType.parse(type)
    return await request.db.read(scope.get_volume, pool, request.requested_project, kind, name)


@routes.get("")
async def list_volumes(request: Request, pool: str) -> Listing[StorageVolume]:
    """List the volumes of a storage pool."""
    return await _listing(request, pool, list(VolumeType))


@routes.get("/{type}")
async def list_volumes_of_type(request: Request, pool: str, type: str) -> Listing[StorageVolume]:
    """List the volumes of one type."""
    return await _listing(request, pool, [VolumeType.parse(type)])


async def import_volume(request: Request) -> Operation:
    """Make a custom volume from a backup that is the body; its name may be told by a header."""
    pool, type = request.arguments["pool"], request.arguments.get("type", VolumeType.CUSTOM.value)
    if type != VolumeType.CUSTOM.value:
        raise InvalidRequest(f"Currently not allowed to create storage volumes of type {quoted(type)}")
    project = await request.db.read(scope.project_of, request.requested_project, VolumeType.CUSTOM)
    wanted = Wanted(project, request.raw.headers.get("X-LXD-name", ""), pool)
    await pools.get_usable(request.context, pool)
    upload = await receive(request.context, uploads.body_chunks(request.raw), wanted, CUSTOM)
    resources = {"storage_volumes": [upload.name]}
    return request.start_on(resources, "Restoring custom volume backup", backups.import_volume, upload)


@routes.post("", upload=import_volume)
async def create_volume(request: Request, pool: str, body: StorageVolumesPost) -> Operation | None:
    """Create a custom volume; its type is in the body."""
    if not body.name:
        raise InvalidRequest("No name provided")
    if not body.type:
        raise InvalidRequest("You must provide a storage volume type of the storage volume")
    return await _create(request, pool, body.type, body)


@routes.post("/{type}", upload=import_volume)
async def create_volume_of_type(request: Request, pool: str, type: str, body: StorageVolumesPost) -> Operation | None:
    """Create a custom volume."""
    return await _create(request, pool, type, body)


async def _create(request: Request, pool: str, type: str, body: StorageVolumesPost) -> Operation | None:
    custom.validate_name(body.name)
    if type != VolumeType.CUSTOM.value:
        raise InvalidRequest(f"Currently not allowed to create storage volumes of type {quoted(type)}")
    if body.source is not None and body.source.type == "copy":
        return await _copy(request, pool, body, body.source)
    if body.source is not None and body.source.type == "migration":
        return await _receive_volume(request, pool, body, body.source)
    if body.source is not None and body.source.type:
        raise InvalidRequest(f"Unknown source type {body.source.type!r}")
    if body.content_type not in ("", ContentType.FILESYSTEM.value):
        if body.content_type != ContentType.BLOCK.value:
            raise InvalidRequest("Invalid volume content type name")
        raise NotSupported("Custom volumes of the content type block are not supported yet: use filesystem")
    project = await request.db.read(scope.project_of, request.requested_project, VolumeType.CUSTOM)
    await custom.create(request.context, pool, project, body.name, body.config or {}, body.description)
    return None


async def _receive_volume(
    request: Request, pool: str, body: StorageVolumesPost, source: StorageVolumeSource
) -> Operation:
    volume_sink.check_content(body.content_type)
    project = await request.db.read(scope.project_of, request.requested_project, VolumeType.CUSTOM)
    wanted = volume_sink.VolumeReceiving(
        pool, project, body.name, body.config or {}, body.description, alone=source.volume_only
    )
    wanted = await request.db.read(volume_sink.plan, wanted, source.mode, refresh=source.refresh)
    remote = migrations.remote_of(source) if source.mode == "pull" else None

    async def work(link: Connections | Remote) -> None:
        await volume_sink.receive_volume(request.context, wanted, link)

    described = {"storage_volumes": [f"{pool}/volumes/custom/{body.name}"]}
    return migrations.start(request, "Creating storage volume", described, work, remote)


async def _copy(request: Request, pool: str, body: StorageVolumesPost, source: StorageVolumeSource) -> Operation:
    owner = source.project or request.requested_project
    if not request.caller.may_see(owner):
        raise Forbidden("not authorized")
    custom_type = VolumeType.CUSTOM
    name, _, snapshot = source.name.partition("/")
    volume = await request.db.read(scope.get_volume, source.pool or pool, owner, custom_type, name)
    project = await request.db.read(scope.project_of, request.requested_project, custom_type)
    target_pool = await request.db.read(store.get_pool, pool)
    present = await request.db.read(store.find_volume, target_pool, project, body.name, custom_type)
    if source.refresh and present is not None:
        if snapshot:
            raise InvalidRequest("A storage volume cannot be refreshed from a snapshot")
        alone = source.volume_only
        return request.start("Copying storage volume", custom_volumes.refresh, volume, present, volume_only=alone)
    return request.start(
        "Copying storage volume",
        custom_copies.copy,
        Origin(volume, snapshot, lenient=not snapshot),
        pool,
        project,
        body.name,
        volume_only=source.volume_only,
        config=body.config,
        new_description=body.description,
    )


@routes.get("/{type}/{name}", put=StorageVolumePut)
async def get_volume(request: Request, pool: str, type: str, name: str) -> StorageVolume:
    """Get a volume."""
    volume = await _find(request, pool, type, name)
    users = await request.db.read(store.list_users, volume, request.requested_project)
    return _to_wire(request, volume, users)


@routes.put("/{type}/{name}")
async def update_volume(request: Request, pool: str, type: str, name: str, body: StorageVolumePut) -> None:
    """Change a volume's description and config."""
    volume = await _find(request, pool, type, name)
    if body.restore:
        await custom_volumes.restore(request.context, volume, body.restore)
        if body.config is None:
            return
    await volumes.update(request.context, volume, body.description, body.config or {})
    if volume.type.is_instance:
        await backup_file.write_of(request.context, volume)


@routes.post("/{type}/{name}")
async def rename_volume(
    request: Request, pool: str, type: str, name: str, body: StorageVolumePost
) -> Created | Operation:
    """Rename a custom volume, or move it to another pool or project."""
    volume = await _find(request, pool, type, name)
    if body.migration:
        return _send_volume(request, volume, body)
    wanted = body.project or request.requested_project
    if not request.caller.may_see(wanted):
        raise Forbidden("not authorized")
    project = await request.db.read(scope.project_of, wanted, volume.type)
    if body.pool not in ("", pool) or project != volume.project:
        return request.start(
            "Moving storage volume", custom_volumes.move, volume, body.pool or pool, project, body.name
        )
    renamed = await custom_volumes.rename(request.context, volume, body.name)
    return Created(volumes.url_of(renamed))


def _send_volume(request: Request, volume: Volume, body: StorageVolumePost) -> Operation:
    if volume.type is not VolumeType.CUSTOM:
        raise InvalidRequest("Only custom volumes can be moved: move the instance")

    async def work(link: Connections | Remote) -> None:
        await send_volume(request.context, volume, link, volume_only=body.volume_only)

    described = {"storage_volumes": [f"{volume.pool.name}/volumes/custom/{volume.name}"]}
    remote = migrations.remote_of(body.target) if body.target is not None else None
    return migrations.start(request, "Migrating storage volume", described, work, remote)


@routes.delete("/{type}/{name}")
async def delete_volume(request: Request, pool: str, type: str, name: str) -> None:
    """Delete a custom volume that nothing uses, or an image's cached volume."""
    await custom.delete(request.context, await _find(request, pool, type, name))


@routes.get("/{type}/{name}/state")
async def get_state(request: Request, pool: str, type: str, name: str) -> StorageVolumeState:
    """Get how full a volume is."""
    volume = await _find(request, pool, type, name)
    if volume.type is VolumeType.IMAGE:
        raise InvalidRequest(f"Invalid storage volume type {quoted(type)}")
    usage = await volumes.usage(request.context, volume)
    if usage.used is None and volume.type is VolumeType.CUSTOM:
        raise NotSupported(f"Not supported: storage pool {quoted(pool)} does not count the use of its volumes")
    return StorageVolumeState(usage=StorageVolumeStateUsage(total=usage.total or 0, used=usage.used or 0))
