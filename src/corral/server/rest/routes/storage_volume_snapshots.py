"""/1.0/storage-pools/POOL/volumes/TYPE/VOLUME/snapshots."""

from corral.api.storage import (
    StorageVolumeSnapshot,
    StorageVolumeSnapshotPost,
    StorageVolumeSnapshotPut,
    StorageVolumeSnapshotsPost,
)
from corral.api.urls import url
from corral.server.operations.model import Operation
from corral.server.rest.request import Request
from corral.server.rest.responses import Listing
from corral.server.rest.routing import Routes
from corral.server.storage import custom_snapshots, scope, snapshot_store
from corral.server.storage.model import Volume, VolumeSnapshot, VolumeType

routes = Routes("/1.0/storage-pools/{pool}/volumes/{type}/{name}/snapshots")


def _to_wire(snapshot: VolumeSnapshot, name: str) -> StorageVolumeSnapshot:
    return StorageVolumeSnapshot(
        description=snapshot.description,
        expires_at=snapshot.expires_at or "0001-01-01T00:00:00Z",
        name=name,
        config=dict(snapshot.config),
        content_type=snapshot.volume.content_type.value,
        created_at=snapshot.created_at or "0001-01-01T00:00:00Z",
    )


async def _volume(request: Request, pool: str, type: str, name: str) -> Volume:
    kind = VolumeType.parse(type)
    return await request.db.read(scope.get_volume, pool, request.requested_project, kind, name)


async def _find(request: Request, pool: str, type: str, name: str, snapshot: str) -> VolumeSnapshot:
    volume = await _volume(request, pool, type, name)
    return await request.db.read(snapshot_store.get_snapshot, volume, snapshot)


@routes.get("")
async def list_snapshots(request: Request, pool: str, type: str, name: str) -> Listing[StorageVolumeSnapshot]:
    """List the snapshots of a volume."""
    volume = await _volume(request, pool, type, name)
    found = await request.db.read(snapshot_store.list_snapshots, [volume])
    place = ("/1.0/storage-pools", pool, "volumes", type, name, "snapshots")
    return Listing(
        [_to_wire(snapshot, f"{name}/{snapshot.name}") for snapshot in found],
        url=lambda snapshot: url(*place, snapshot.name.rpartition("/")[2]),
    )


@routes.post("")
async def create_snapshot(
    request: Request, pool: str, type: str, name: str, body: StorageVolumeSnapshotsPost
) -> Operation:
    """Take a snapshot of a custom volume."""
    volume = await _volume(request, pool, type, name)
    custom_snapshots.check_custom(volume)
    return request.start(
        "Creating storage volume snapshot", custom_snapshots.create, volume, body.name, body.expires_at
    )


@routes.get("/{snapshot}", put=StorageVolumeSnapshotPut)
async def get_snapshot(request: Request, pool: str, type: str, name: str, snapshot: str) -> StorageVolumeSnapshot:
    """Get a snapshot."""
    return _to_wire(await _find(request, pool, type, name, snapshot), snapshot)


@routes.put("/{snapshot}")
async def update_snapshot(
    request: Request, pool: str, type: str, name: str, snapshot: str, body: StorageVolumeSnapshotPut
) -> Operation:
    """Change a snapshot's description and expiry; that of an instance expires with the instance's snapshot."""
    found = await _find(request, pool, type, name, snapshot)
    return request.start(
        "Updating storage volume snapshot", custom_snapshots.update, found, body.description, body.expires_at
    )


@routes.post("/{snapshot}")
async def rename_snapshot(
    request: Request, pool: str, type: str, name: str, snapshot: str, body: StorageVolumeSnapshotPost
) -> Operation:
    """Rename a snapshot."""
    found = await _find(request, pool, type, name, snapshot)
    custom_snapshots.check_custom(found.volume)
    return request.start("Renaming storage volume snapshot", custom_snapshots.rename, found, body.name)


@routes.delete("/{snapshot}")
async def delete_snapshot(request: Request, pool: str, type: str, name: str, snapshot: str) -> Operation:
    """Delete a snapshot."""
    found = await _find(request, pool, type, name, snapshot)
    custom_snapshots.check_custom(found.volume)
    return request.start("Deleting storage volume snapshot", custom_snapshots.delete, found)
