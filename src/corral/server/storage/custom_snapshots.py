"""Snapshots of custom volumes: taken, renamed, changed, restored, deleted."""

import logging
from datetime import UTC, datetime

from corral.api.urls import url
from corral.errors import AlreadyExists, CorralError, InvalidRequest
from corral.server.context import Context
from corral.server.events.model import Lifecycle
from corral.server.projects import permissions
from corral.server.rollback import Rollback, finish
from corral.server.snapshots import naming
from corral.server.storage import keys, pools, server_volumes, snapshot_store, snapshots, volumes
from corral.server.storage.keys import quoted
from corral.server.storage.model import CREATED, Volume, VolumeSnapshot, VolumeType

log = logging.getLogger(__name__)


def check_custom(volume: Volume) -> None:
    """Raise InvalidRequest for volumes whose snapshots belong to their instance or image."""
    if volume.type is not VolumeType.CUSTOM:
        raise InvalidRequest(f"Invalid storage volume type {quoted(volume.type.value)}")


async def create(context: Context, volume: Volume, name: str, expires_at: datetime | None) -> None:
    """Keep the present contents of a volume; without a name its pattern makes one. Raises AlreadyExists.

    Go's zero time as expiry is never, None is by the volume's config.
    """
    if name:
        naming.check_name(name)
    pools.check_usable(context, volume.pool)
    expiry = (
        format_expiry(expires_at)
        if expires_at
        else naming.expiry_of(volume.config.get("snapshots.expiry"), datetime.now(UTC))
    )
    await server_volumes.check_unused(context, volume, "snapshotted")
    async with context.locks.hold("volume", volume.id), Rollback() as undo:
        await context.db.read(permissions.check_snapshots, volume.project)
        snapshot = await context.db.write(snapshot_store.insert_snapshot, volume, name, expiry)
        undo.add(context.db.write, snapshot_store.delete_snapshot, snapshot.id)
        await snapshots.create_snapshot(context, volume, snapshot.name)
        await context.db.write(snapshot_store.mark_snapshot, snapshot.id, "")
        undo.commit()
    _publish(context, "storage-volume-snapshot-created", volume, snapshot.name)


def format_expiry(moment: datetime | None) -> str | None:
    """RFC 3339 text of an expiry; Go's zero time means none."""
    if moment is None or moment.year <= 1:
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return aware.astimezone(UTC).isoformat().replace("+00:00", "Z")


def parse_expiry(text: str | None) -> str | None:
    """An expiry as a backup has it, as rows keep it. Raises InvalidRequest."""
    try:
        return format_expiry(datetime.fromisoformat(text)) if text and not text.startswith("0001-") else None
    except ValueError:
        raise InvalidRequest(f"Invalid time {text!r}: give it as in 2026-01-31T12:00:00Z") from None


async def update(context: Context, snapshot: VolumeSnapshot, description: str, expires_at: datetime | None) -> None:
    """Change a snapshot's description and expiry. The volume's part of an instance's snapshot keeps its expiry."""
    if snapshot.volume.type is VolumeType.IMAGE:
        check_custom(snapshot.volume)
    expiry = format_expiry(expires_at) if snapshot.volume.type is VolumeType.CUSTOM else snapshot.expires_at
    await context.db.write(snapshot_store.update_snapshot, snapshot.id, description, expiry)
    _publish(context, "storage-volume-snapshot-updated", snapshot.volume, snapshot.name)


async def rename(context: Context, snapshot: VolumeSnapshot, name: str) -> None:
    """Give a snapshot another name. Raises AlreadyExists."""
    if not name:
        raise InvalidRequest("No name provided")
    naming.check_name(name)
    if name == snapshot.name:
        raise AlreadyExists(f'Name "{name}" already in use')
    async with context.locks.hold("volume", snapshot.volume.id):
        await finish(_rename(context, snapshot, name))
    former = f"{snapshot.volume.name}/{snapshot.name}"
    _publish(context, "storage-volume-snapshot-renamed", snapshot.volume, name, old_name=former)


async def _rename(context: Context, snapshot: VolumeSnapshot, name: str) -> None:
    async with Rollback() as undo:
        await context.db.write(snapshot_store.rename_snapshot, snapshot, name)
        undo.add(context.db.write, snapshot_store.mark_snapshot, snapshot.id, "")
        undo.add(context.db.write, snapshot_store.rename_snapshot, snapshot, snapshot.name)
        await snapshots.rename_snapshot(context, snapshot.volume, snapshot.name, name)
        undo.commit()
    await context.db.write(snapshot_store.mark_snapshot, snapshot.id, "")


async def restore(context: Context, volume: Volume, name: str) -> None:
    """Replace a volume's contents by those of its snapshot. Raises NotFound."""
    check_custom(volume)
    async with context.locks.hold("volume", volume.id):
        snapshot = await context.db.read(snapshot_store.get_snapshot, volume, name)
        size = keys.quota_of(volume.config, volume.pool.config, volume.type)
        await snapshots.restore_snapshot(context, volume, snapshot.name, size)
    context.events.publish(
        Lifecycle("storage-volume-restored", volumes.url_of(volume), volume.project, {"snapshot": name})
    )


async def delete(context: Context, snapshot: VolumeSnapshot) -> None:
    """Remove a snapshot."""
    async with context.locks.hold("volume", snapshot.volume.id):
        await context.db.write(snapshot_store.mark_snapshot, snapshot.id, "delete")
        await snapshots.delete_snapshot(context, snapshot.volume, snapshot.name)
        await context.db.write(snapshot_store.delete_snapshot, snapshot.id)
    _publish(context, "storage-volume-snapshot-deleted", snapshot.volume, snapshot.name)


async def delete_expired(context: Context, now: datetime) -> None:
    """Remove the snapshots whose time has passed; for a timer."""
    for snapshot in await context.db.read(snapshot_store.list_expired, format_expiry(now) or ""):
        if pools.status(context, snapshot.volume.pool) != CREATED:
            continue
        log.info("Removing the expired snapshot %s/%s", snapshot.volume.name, snapshot.name)
        try:
            await delete(context, snapshot)
        except (CorralError, OSError) as error:
            log.warning("The expired snapshot %s/%s stays for now: %s", snapshot.volume.name, snapshot.name, error)


def _publish(context: Context, action: str, volume: Volume, name: str, **more: str) -> None:
    place = ("/1.0/storage-pools", volume.pool.name, "volumes", volume.type.value, volume.name, "snapshots", name)
    context.events.publish(Lifecycle(action, url(*place, project=volume.project), volume.project, more))
