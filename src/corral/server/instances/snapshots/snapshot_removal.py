"""Takes snapshots of instances away: one, all of an instance, or those that a killed daemon left half-made."""

import logging

from corral.server.context import Context
from corral.server.host.threads import in_thread
from corral.server.instances import root_volume, store
from corral.server.instances.backup import backup_file
from corral.server.instances.model import Instance, Snapshot
from corral.server.instances.snapshots import snapshot_store, snapshot_taking
from corral.server.rollback import finish
from corral.server.storage import snapshots as volume_snapshots
from corral.server.storage import volumes

log = logging.getLogger(__name__)


async def remove(context: Context, instance: Instance, snapshot: Snapshot) -> None:
    """Remove contents and row of a snapshot. Repeatable."""
    await context.db.write(snapshot_store.mark_snapshot, snapshot.id, "delete")
    volume = await root_volume.find(context, instance)
    if volume is not None:
        await volume_snapshots.delete_snapshot(context, volume, snapshot.name)
        directory = volumes.path(context.member, volume)
        await in_thread(root_volume.link_snapshots, context.member, instance, directory)
    await context.db.write(
        snapshot_store.delete_snapshot, snapshot.id, volume.id if volume is not None else 0, snapshot.name
    )


async def delete(context: Context, instance: Instance, name: str) -> None:
    """Delete a snapshot of an instance that the caller has claimed.

    Once begun it is finished, at the latest at a restart.
    """
    snapshot = await context.db.read(snapshot_store.get_snapshot, instance.id, name)
    await finish(remove(context, instance, snapshot))
    await backup_file.write(context, instance)
    snapshot_taking.publish(context, instance, name, "deleted")


async def sweep(context: Context) -> None:
    """Undo or finish the snapshots that a killed daemon left half-made, and put in order what their rows lack."""
    if repaired := await context.db.write(snapshot_store.insert_missing_volume_snapshots):
        log.warning("Added the missing records of %s snapshots of instances' volumes", repaired)
    for instance_id, snapshot in await context.db.read(snapshot_store.list_pending):
        instance = await context.db.read(store.find_instance, instance_id)
        if instance is not None:
            await remove(context, instance, snapshot)


async def remove_all(context: Context, instance: Instance) -> None:
    """Remove all snapshots of an instance. Repeatable."""
    found = await context.db.read(store.list_snapshots, [instance.id])
    for snapshot in found.get(instance.id, []):
        await remove(context, instance, snapshot)
        snapshot_taking.publish(context, instance, snapshot.name, "deleted")
