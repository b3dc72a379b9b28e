"""Custom volumes: what clients make, rename and delete by the API, apart from the volumes of instances and images."""

import shutil
from collections.abc import Mapping

from corral.errors import InvalidRequest
from corral.server.context import Context
from corral.server.db import references
from corral.server.events.model import Lifecycle
from corral.server.host.threads import in_thread
from corral.server.storage import (
    creation,
    custom_snapshots,
    image_volumes,
    keys,
    model,
    pools,
    server_volumes,
    snapshot_store,
    volumes,
)
from corral.server.storage.keys import quoted
from corral.server.storage.model import Volume, VolumeType

MAX_NAME = 200
"""Bytes of a name, so that with its project it fits into a directory's entry."""


def validate_name(name: str) -> None:
    """Raise InvalidRequest for a name that cannot be a custom volume's."""
    if not name:
        raise InvalidRequest("No name provided")
    if "/" in name:
        raise InvalidRequest("Storage volume names may not contain slashes")
    if "\0" in name or len(name.encode()) > MAX_NAME:
        raise InvalidRequest(f"Invalid storage volume name {quoted(name)}")


async def create(
    context: Context, pool: str, project: str, name: str, config: Mapping[str, str], description: str
) -> Volume:
    """Make an empty custom volume. Raises AlreadyExists."""
    validate_name(name)
    usable = await pools.get_usable(context, pool)
    draft = volumes.draft(usable, project, name, VolumeType.CUSTOM, config, description)
    volume = await creation.create_empty(context, draft, keys.quota_of(config, usable.config, VolumeType.CUSTOM))
    _publish(context, "storage-volume-created", volume)
    return volume


async def rename(context: Context, volume: Volume, name: str) -> Volume:
    """Give a custom volume another name; the devices that attach it follow.

    The caller sees to it that nothing that runs uses it.
    """
    if volume.type is not VolumeType.CUSTOM:
        raise InvalidRequest(f"Renaming storage volumes of type {quoted(volume.type.value)} is not allowed")
    validate_name(name)
    await server_volumes.check_unused(context, volume, "renamed")
    async with context.locks.hold("volume", volume.id):
        renamed = await volumes.rename(context, volume, name)
    context.events.publish(
        Lifecycle("storage-volume-renamed", volumes.url_of(renamed), volume.project, {"old_name": volume.name})
    )
    return renamed


async def delete(context: Context, volume: Volume) -> None:
    """Remove a custom volume that nothing uses, or an image's cached volume."""
    if volume.type is VolumeType.IMAGE:
        await image_volumes.delete_cached(context, volume.pool, volume.name)
    elif volume.type is VolumeType.CUSTOM:
        await _check_unused(context, volume, "deleted")
        for snapshot in await context.db.read(snapshot_store.list_snapshots, [volume]):
            await custom_snapshots.delete(context, snapshot)
        await volumes.delete(context, volume)
        await in_thread(shutil.rmtree, model.custom_backups_dir(context.member, volume), ignore_errors=True)
    else:
        raise InvalidRequest(
            f"Storage volumes of type {quoted(volume.type.value)} cannot be deleted with the storage API"
        )
    _publish(context, "storage-volume-deleted", volume)


async def _check_unused(context: Context, volume: Volume, action: str) -> None:
    await server_volumes.check_unused(context, volume, action)
    users = await context.db.read(references.list_custom_volume_users, volume.pool.name, volume.project, volume.name)
    if users:
        raise InvalidRequest(f"The storage volume is still in use: {', '.join(users[:10])}")


def _publish(context: Context, action: str, volume: Volume) -> None:
    context.events.publish(Lifecycle(action, volumes.url_of(volume), volume.project, {"type": volume.type.value}))
