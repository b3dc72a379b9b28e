"""Takes snapshots of instances: asked for, at a start, or by the schedule."""

from datetime import datetime

from corral.api.urls import url
from corral.errors import Forbidden, InvalidRequest
from corral.server.context import Context
from corral.server.events.model import Lifecycle, format_time, utc_now
from corral.server.host.threads import in_thread
from corral.server.instances import busy, root_volume, running, saved_state, store
from corral.server.instances.backup import backup_file
from corral.server.instances.model import Instance
from corral.server.instances.snapshots import snapshot_store, stillness
from corral.server.instances.snapshots.snapshot_store import NewSnapshot
from corral.server.rollback import Rollback
from corral.server.snapshots import naming, schedule
from corral.server.storage import snapshots as volume_snapshots
from corral.server.storage import volumes


async def plan_snapshot(context: Context, instance: Instance) -> NewSnapshot:
    """A snapshot that nobody named: called by the instance's pattern, kept as long as its config says."""
    moment = datetime.now().astimezone()
    present = await context.db.read(snapshot_store.list_names, instance.id)
    pattern = instance.expanded_config.get("snapshots.pattern", "")
    return NewSnapshot(
        name=await in_thread(naming.next_name, pattern, moment, present),
        created_at=format_time(utc_now()),
        expires_at=default_expiry(instance),
        counted=True,
    )


def default_expiry(instance: Instance) -> str | None:
    """When a snapshot that is taken now expires, by the instance's config."""
    return naming.expiry_of(instance.expanded_config.get("snapshots.expiry"), utc_now())


async def create_snapshot(context: Context, instance: Instance, new: NewSnapshot) -> None:
    """Take a snapshot of an instance, running or not."""
    async with busy.claim(context, instance.id, "snapshot"):
        await take(context, await context.db.read(store.reload, instance.id), new)


async def take(context: Context, instance: Instance, new: NewSnapshot) -> None:
    """Take a snapshot of an instance that the caller has claimed."""
    container = running.find(context, instance)
    if new.stateful:
        if container is None:
            raise InvalidRequest("Unable to create a stateful snapshot. The instance isn't running")
        await saved_state.check(context, instance, "Stateful snapshot")
    volume = await root_volume.get(context, instance)
    await backup_file.write(context, instance, volume)
    async with Rollback() as undo:
        snapshot_id, name = await context.db.write(snapshot_store.insert_snapshot, instance, new)
        undo.add(context.db.write, snapshot_store.delete_snapshot, snapshot_id, volume.id, name)
        undo.add(volume_snapshots.delete_snapshot, context, volume, name)
        if new.stateful and container is not None:
            undo.add(saved_state.discard, context, instance, volumes.path(context.member, volume))
            await saved_state.save(context, instance, container, stops=False)
        async with stillness.keep_still(context, instance, volume):
            await volume_snapshots.create_snapshot(context, volume, name)
        await context.db.write(snapshot_store.finish_snapshot, snapshot_id, volume.id)
        undo.commit()
    directory = volumes.path(context.member, volume)
    if new.stateful:
        await saved_state.discard(context, instance, directory)
    await in_thread(root_volume.link_snapshots, context.member, instance, directory)
    await backup_file.write(context, instance, volume)
    publish(context, instance, name, "created")


async def take_at_start(context: Context, instance: Instance) -> None:
    """Take the snapshot that a start takes, where the schedule says so and the project lets it."""
    if not schedule.takes_at_start(instance.expanded_config.get("snapshots.schedule", "")):
        return
    try:
        await take(context, instance, await plan_snapshot(context, instance))
    except Forbidden:
        # The project allows no snapshots: its instances start without.
        return


def publish(context: Context, instance: Instance, name: str, verb: str, **more: str) -> None:
    """Tell the listeners what happened to a snapshot."""
    source = url("/1.0/instances", instance.name, "snapshots", name, project=instance.project)
    context.events.publish(Lifecycle(f"instance-snapshot-{verb}", source, instance.project, more))
