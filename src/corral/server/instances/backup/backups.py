"""Backups of instances: one archive with the volume, its snapshots and their description, in LXD's layout."""

import contextlib
import logging
from pathlib import Path

from corral.errors import NotFound
from corral.server.backups import index, kept, store, volume_parts
from corral.server.backups.kept import Owner
from corral.server.backups.store import Backup
from corral.server.backups.volume_parts import Packing
from corral.server.context import Context
from corral.server.events.model import format_time, utc_now
from corral.server.instances import busy, root_volume
from corral.server.instances import store as instances
from corral.server.instances.backup import backup_file
from corral.server.instances.model import Instance, backups_dir

log = logging.getLogger(__name__)


def owner_of(context: Context, instance: Instance) -> Owner:
    """An instance as the owner of backups."""
    place = ("/1.0/instances", instance.name)
    return Owner(
        store.INSTANCES, instance.id, backups_dir(context.member, instance), place, instance.project, "instance"
    )


async def can_optimize(context: Context, instance: Instance) -> bool:
    """Whether the pool of an instance has a form of its own for backups."""
    volume = await root_volume.find(context, instance)
    return volume is not None and volume_parts.can_send(context, volume.pool)


async def create_backup(context: Context, instance: Instance, new: Backup, algorithm: str = "") -> None:
    """Make a backup of an instance with its snapshots, running or not."""
    compress = await kept.choose_compressor(context, instance.project, algorithm)
    async with busy.claim(context, instance.id, "backup", ()):
        instance = await context.db.read(instances.reload, instance.id)
        volume = await root_volume.get(context, instance)
        document = await backup_file.compose(context, instance, volume)
        if new.alone:
            document["snapshots"] = document["volume_snapshots"] = []
        names = [str(one["name"]) for one in document["snapshots"]]
        head = {
            "name": instance.name,
            "backend": volume.pool.driver,
            "pool": volume.pool.name,
            **({"snapshots": names} if names else {}),
            "type": index.CONTAINER,
            "config": document,
        }

        async def write(target: Path) -> None:
            await volume_parts.write(context, volume, Packing(names, head, new.optimized, compress, target))

        await kept.create(context, owner_of(context, instance), new, write)


async def delete_expired(context: Context) -> None:
    """Remove the backups whose time is over."""
    for backup in await context.db.read(store.list_expired, store.INSTANCES, format_time(utc_now())):
        instance = await context.db.read(instances.find_instance, backup.owner_id)
        if instance is not None:
            log.info("Backup %s of %s has expired", backup.name, instance.storage_name)
            with contextlib.suppress(NotFound):
                await kept.delete(context, owner_of(context, instance), backup.name)


async def sweep(context: Context) -> None:
    """Remove what a daemon that died left of backups."""
    owners = [owner_of(context, one) for one in await context.db.read(instances.list_instances)]
    await kept.sweep(context, store.INSTANCES, owners)
