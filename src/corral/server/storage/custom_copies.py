"""Custom volumes copied, refreshed and moved within this server: to other names, pools, projects, with snapshots."""

from collections.abc import Mapping, Sequence

from corral.errors import InvalidRequest
from corral.server.context import Context
from corral.server.db import references
from corral.server.db.database import Tx
from corral.server.events.model import Lifecycle
from corral.server.rollback import finish
from corral.server.storage import copies, custom, custom_snapshots, keys, server_volumes, snapshot_store, store, volumes
from corral.server.storage.copies import Origin
from corral.server.storage.model import Volume, VolumeSnapshot, VolumeType


async def copy(  # noqa: PLR0913  (what is copied, where to, and what is to be different)
    context: Context,
    origin: Origin,
    pool: str,
    project: str,
    name: str,
    *,
    volume_only: bool = False,
    config: Mapping[str, str] | None = None,
    new_description: str = "",
) -> None:
    """Make a custom volume with the contents of another one or of its snapshot. Raises AlreadyExists.

    Without `config` it has the source's; it has the source's snapshots too, unless `volume_only`.
    """
    custom.validate_name(name)
    source = origin.volume
    if source.type is not VolumeType.CUSTOM:
        raise InvalidRequest("Only custom volumes can be copied: copy the instance or the image")
    async with context.locks.hold("volume", source.id):
        snapshots: list[VolumeSnapshot] = []
        if origin.snapshot:
            await context.db.read(snapshot_store.get_snapshot, source, origin.snapshot)
        elif not volume_only:
            snapshots = await context.db.read(snapshot_store.list_snapshots, [source])

        def note(tx: Tx, volume: Volume) -> None:
            _write_snapshots(tx, volume, snapshots)
            if new_description:
                store.update_volume(tx, volume.id, new_description, volume.config)

        names = [snapshot.name for snapshot in snapshots]
        copied = await copies.create_copy(
            context, origin, pool, project, name, with_snapshots=names, config=config or None, note=note
        )
    _publish(context, "storage-volume-created", copied)


def _write_snapshots(tx: Tx, volume: Volume, snapshots: Sequence[VolumeSnapshot]) -> None:
    for snapshot in snapshots:
        snapshot_store.insert_copy(tx, volume, snapshot)


async def refresh(context: Context, source: Volume, volume: Volume, *, volume_only: bool = False) -> None:
    """Give a volume the contents of another one, and, unless `volume_only`, its snapshots: those that are missing.

    Snapshots that the source does not have go. The caller sees to it that nothing that runs uses the volume.
    """
    if source.id == volume.id:
        raise InvalidRequest("A storage volume cannot be refreshed from itself")
    first, second = sorted((source.id, volume.id))
    latest = ""
    if not volume_only:
        latest = await _delete_surplus(context, source, volume)
    async with context.locks.hold("volume", first), context.locks.hold("volume", second):
        if not volume_only:
            latest = await _copy_missing(context, source, volume, latest)
        size = keys.quota_of(volume.config, volume.pool.config, volume.type)
        await copies.refresh_contents(context, Origin(source, lenient=True), volume, size, latest=latest)
    _publish(context, "storage-volume-updated", volume)


async def _delete_surplus(context: Context, source: Volume, volume: Volume) -> str:
    """Delete what the source does not have; the name of the last snapshot that both have, or ""."""
    wanted = await context.db.read(snapshot_store.list_snapshots, [source])
    same = {(one.name, one.created_at) for one in wanted}
    latest = ""
    for one in await context.db.read(snapshot_store.list_snapshots, [volume]):
        if (one.name, one.created_at) in same:
            latest = one.name
        else:
            await custom_snapshots.delete(context, one)
    return latest


async def _copy_missing(context: Context, source: Volume, volume: Volume, latest: str) -> str:
    present = {one.name for one in await context.db.read(snapshot_store.list_snapshots, [volume])}
    for one in await context.db.read(snapshot_store.list_snapshots, [source]):
        if one.name in present:
            continue
        base = copies.stored_snapshot(context, volume, latest)
        snapshot_id = await context.db.write(snapshot_store.insert_copy, volume, one, "create")
        try:
            await copies.copy_snapshot(context, source, volume, one.name, base)
            await context.db.write(snapshot_store.mark_snapshot, snapshot_id, "")
        except BaseException:
            await context.db.write(snapshot_store.delete_snapshot, snapshot_id)
            raise
        latest = one.name
    return latest


async def move(context: Context, volume: Volume, pool: str, project: str, name: str) -> None:
    """Move a custom volume to another pool or project; the devices that attach it follow.

    Until the target is whole and recorded, the source is untouched. The caller sees to it that nothing that runs uses
    it.
    """
    custom.validate_name(name)
    if volume.type is not VolumeType.CUSTOM:
        raise InvalidRequest("Only custom volumes can be moved: move the instance")
    await server_volumes.check_unused(context, volume, "renamed")

    def commit(tx: Tx, moved: Volume) -> None:
        if project == volume.project:
            references.repoint_custom_volume(tx, volume.project, (volume.pool.name, volume.name), (pool, name))
        elif users := references.list_custom_volume_users(tx, volume.pool.name, volume.project, volume.name):
            raise InvalidRequest(
                f"The storage volume is still in use: {', '.join(users[:10])}. Detach it to move it to another project"
            )
        snapshot_store.move_all(tx, volume.id, moved.id)
        store.mark_volume(tx, volume.id, "delete")

    async with context.locks.hold("volume", volume.id):
        snapshots = await context.db.read(snapshot_store.list_snapshots, [volume])
        names = [snapshot.name for snapshot in snapshots]
        moved = await copies.create_copy(
            context, Origin(volume, lenient=True), pool, project, name, with_snapshots=names, note=commit
        )
        await finish(copies.discard_contents(context, volume))
    _publish(context, "storage-volume-created", moved)
    _publish(context, "storage-volume-deleted", volume)


def _publish(context: Context, action: str, volume: Volume) -> None:
    context.events.publish(Lifecycle(action, volumes.url_of(volume), volume.project, {"type": volume.type.value}))
