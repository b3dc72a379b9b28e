"""Takes snapshots of instances away: one, all of an instance, or those that a killed daemon left half-made."""

from corral.server.context import Context
from corral.server.instances import root_volume, snapshot_store, store
from corral.server.instances.model import Instance, Snapshot
from corral.server.storage import snapshots as volume_snapshots


async def remove(context: Context, instance: Instance, snapshot: Snapshot) -> None:
    """Remove contents and row of a snapshot. Repeatable."""
    await context.db.write(snapshot_store.mark_snapshot, snapshot.id, "delete")
    volume = await root_volume.find(context, instance)
    if volume is not None:
        await volume_snapshots.delete_snapshot(context, volume, snapshot.name)
    await context.db.write(
        snapshot_store.delete_snapshot, snapshot.id, volume.id if volume is not None else 0, snapshot.name
    )


async def sweep(context: Context) -> None:
    """Undo or finish the snapshots that a killed daemon left half-made."""
    for instance_id, snapshot in await context.db.read(snapshot_store.list_pending):
        instance = await context.db.read(store.find_instance, instance_id)
        if instance is not None:
            await remove(context, instance, snapshot)


async def remove_all(context: Context, instance: Instance) -> None:
    """Remove all snapshots of an instance. Repeatable."""
    found = await context.db.read(store.list_snapshots, [instance.id])
    for snapshot in found.get(instance.id, []):
        await remove(context, instance, snapshot)
