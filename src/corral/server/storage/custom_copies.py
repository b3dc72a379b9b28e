"""Custom volumes copied and moved within this server: to other names, pools and projects, with their snapshots."""

from collections.abc import Mapping, Sequence

from corral.errors import InvalidRequest
from corral.server.context import Context
from corral.server.db import references
from corral.server.db.database import Tx
from corral.server.events.model import Lifecycle
from corral.server.storage import copies, custom, server_volumes, snapshot_store, store, volumes
from corral.server.storage.model import Volume, VolumeSnapshot, VolumeType


async def copy(  # noqa: PLR0913  (what is copied, where to, and what is to be different)
    context: Context,
    source: Volume,
    pool: str,
    project: str,
    name: str,
    *,
    volume_only: bool = False,
    config: Mapping[str, str] | None = None,
    new_description: str = "",
) -> None:
    """Make a custom volume with the contents of another one. Raises AlreadyExists.

    Without `config` it has the source's; it has the source's snapshots too, unless `volume_only`.
    """
    custom.validate_name(name)
    if source.type is not VolumeType.CUSTOM:
        raise InvalidRequest("Only custom volumes can be copied: copy the instance or the image")
    async with context.locks.hold("volume", source.id):
        copied = await _copy(context, source, pool, project, name, volume_only=volume_only, config=config)
        if new_description:
            await context.db.write(store.update_volume, copied.id, new_description, copied.config)
    _publish(context, "storage-volume-created", copied)


async def _copy(  # noqa: PLR0913
    context: Context,
    source: Volume,
    pool: str,
    project: str,
    name: str,
    *,
    volume_only: bool = False,
    config: Mapping[str, str] | None = None,
) -> Volume:
    snapshots = [] if volume_only else await context.db.read(snapshot_store.list_snapshots, [source])

    def note(tx: Tx, volume: Volume) -> None:
        _write_snapshots(tx, volume, snapshots)

    return await copies.create_copy(
        context,
        source,
        pool,
        project,
        name,
        with_snapshots=[snapshot.name for snapshot in snapshots],
        config=config or None,
        note=note,
    )


def _write_snapshots(tx: Tx, volume: Volume, snapshots: Sequence[VolumeSnapshot]) -> None:
    for snapshot in snapshots:
        snapshot_store.insert_copy(tx, volume, snapshot)


async def move(context: Context, volume: Volume, pool: str, project: str, name: str) -> None:
    """Move a custom volume that nothing uses to another pool or project. The original goes once the copy is whole."""
    custom.validate_name(name)
    if volume.type is not VolumeType.CUSTOM:
        raise InvalidRequest("Only custom volumes can be moved: move the instance")
    users = await context.db.read(references.list_custom_volume_users, volume.pool.name, volume.project, volume.name)
    if users:
        raise InvalidRequest(f"The storage volume is still in use: {', '.join(users[:10])}")
    await server_volumes.check_unused(context, volume, "moved")
    async with context.locks.hold("volume", volume.id):
        moved = await _copy(context, volume, pool, project, name)
        await custom.delete(context, volume)
    _publish(context, "storage-volume-created", moved)


def _publish(context: Context, action: str, volume: Volume) -> None:
    context.events.publish(Lifecycle(action, volumes.url_of(volume), volume.project, {"type": volume.type.value}))
