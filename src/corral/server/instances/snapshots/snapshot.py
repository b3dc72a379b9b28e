"""Snapshots of instances: renamed, changed, restored and deleted, with those of their root volume."""

import logging
from dataclasses import replace
from pathlib import Path

from corral.errors import AlreadyExists, InvalidRequest, NotFound
from corral.server.context import Context
from corral.server.db.database import Tx
from corral.server.devices import registry
from corral.server.instances import busy, expand, identities, root_volume, running, saved_state, start, stop, store
from corral.server.instances.attachments import attach
from corral.server.instances.backup import backup_file
from corral.server.instances.inventory import Inventory
from corral.server.instances.model import Instance, Snapshot
from corral.server.instances.sessions import files
from corral.server.instances.snapshots import snapshot_removal, snapshot_store, snapshot_taking
from corral.server.projects import permissions
from corral.server.rollback import Rollback, finish
from corral.server.snapshots import naming
from corral.server.storage import keys
from corral.server.storage import snapshots as volume_snapshots
from corral.server.storage import store as storage
from corral.server.storage.model import Volume

log = logging.getLogger(__name__)

PENDING = "restore "
"""The pending mark's beginning; the snapshot's name follows."""


async def delete_snapshot(context: Context, instance: Instance, name: str) -> None:
    """Delete a snapshot."""
    async with busy.claim(context, instance.id, "snapshot delete"):
        await snapshot_removal.delete(context, instance, name)


async def rename_snapshot(context: Context, instance: Instance, name: str, new_name: str) -> None:
    """Give a snapshot another name."""
    naming.check_name(new_name)
    async with busy.claim(context, instance.id, "snapshot rename"):
        snapshot = await context.db.read(snapshot_store.get_snapshot, instance.id, name)
        if new_name == name:
            raise AlreadyExists(f'Name "{name}" already in use')
        await finish(_rename(context, instance, snapshot, new_name))
    snapshot_taking.publish(context, instance, new_name, "renamed", old_name=f"{instance.name}/{name}")


async def _rename(context: Context, instance: Instance, snapshot: Snapshot, new_name: str) -> None:
    volume = await root_volume.get(context, instance)
    async with Rollback() as undo:
        await context.db.write(snapshot_store.rename_snapshot, snapshot, volume.id, new_name)
        undo.add(context.db.write, snapshot_store.finish_rename, volume.id, snapshot.name)
        undo.add(context.db.write, snapshot_store.rename_snapshot, snapshot, volume.id, snapshot.name)
        await volume_snapshots.rename_snapshot(context, volume, snapshot.name, new_name)
        undo.commit()
    await context.db.write(snapshot_store.finish_rename, volume.id, new_name)
    await backup_file.write(context, instance)


async def update_snapshot(context: Context, instance: Instance, name: str, expires_at: str | None) -> None:
    """Change when a snapshot expires; None is never."""
    snapshot = await context.db.read(snapshot_store.get_snapshot, instance.id, name)
    await context.db.write(snapshot_store.set_expiry, snapshot.id, expires_at)
    await backup_file.write(context, instance)
    snapshot_taking.publish(context, instance, name, "updated")


async def restore_instance(context: Context, project: str, name: str, wanted: str, *, stateful: bool = False) -> None:
    """Bring an instance, its files and its configuration, back to a snapshot; a running one is stopped meanwhile.

    With `stateful` its processes go on, too, where they were when the snapshot was taken.
    """
    instance = await context.parts[Inventory].get(project, name)
    async with busy.claim(context, instance.id, "restore"):
        instance, snapshot = await context.db.read(_with_snapshot, instance.id, wanted.rpartition("/")[2])
        if stateful:
            if not snapshot.stateful:
                raise InvalidRequest("Stateful snapshot restore requested but snapshot is stateless")
            await saved_state.check(context, instance, "Stateful restore")
        container = running.find(context, instance)
        if container is not None:
            await stop.end(context, instance, container, timeout_s=0)
            instance = await context.db.read(store.reload, instance.id)
        volume = await root_volume.get(context, instance)
        files.release(context, instance.id)
        restored = await _restore(context, instance, volume, snapshot, stateful=stateful)
        # Its addresses may be another instance's by now: then they are to be changed before it starts.
        await attach.remove_all(context, instance)
        await attach.reserve_again(context, restored, list(restored.expanded_devices))
        await backup_file.write(context, restored)
        if container is not None or stateful:
            await start.launch(context, restored, stateful=stateful)
            start.publish(context, instance, "instance-started")
    start.publish(context, instance, "instance-restored", snapshot=f"{instance.name}/{snapshot.name}")


def _with_snapshot(tx: Tx, instance_id: int, name: str) -> tuple[Instance, Snapshot]:
    instance = store.reload(tx, instance_id)
    try:
        return instance, snapshot_store.get_snapshot(tx, instance_id, name)
    except NotFound as error:
        raise NotFound(f"Snapshot {instance.name}/{name} does not exist") from error


async def _restore(
    context: Context, instance: Instance, volume: Volume, snapshot: Snapshot, *, stateful: bool
) -> Instance:
    """Exchange the contents and the record. Once the record is written, a daemon that dies finishes it at its start."""
    size = _size(await context.db.read(_preview, instance, snapshot), volume)

    async def before(undo: Rollback, directory: Path) -> None:
        await context.db.write(_take_over, instance, snapshot, volume)
        undo.add(context.db.write, _give_back, instance, volume)

    async def after() -> None:
        await context.db.write(saved_state.set_stateful, instance.id, stateful)

    record = volume_snapshots.Record(before, after)
    await volume_snapshots.restore_snapshot(context, volume, snapshot.name, size, record)
    return await context.db.read(store.reload, instance.id)


def _size(instance: Instance, volume: Volume) -> int | None:
    """The limit of an instance's root disk in bytes."""
    _, root = registry.find_root_disk(instance.expanded_devices)
    return keys.quota_of({"size": root.get("size", "")}, volume.pool.config, volume.type)


def _preview(tx: Tx, instance: Instance, snapshot: Snapshot) -> Instance:
    profiles = store.get_profiles(tx, instance.project, instance.profiles)
    return replace(instance, expanded_devices=expand.expand_devices(profiles, snapshot.devices))


async def resume(context: Context, instance: Instance) -> None:
    """Finish a restore that the daemon's death cut short: the record is the snapshot's, the contents may be not."""
    name = instance.pending.removeprefix(PENDING)
    log.info("Finishing the restore of instance %s to %s", instance.storage_name, name)
    volume = await root_volume.get(context, instance)
    await volume_snapshots.restore_snapshot(context, volume, name, _size(instance, volume))
    await context.db.write(saved_state.set_stateful, instance.id, False)
    restored = await context.db.read(store.reload, instance.id)
    await attach.reserve_again(context, restored, list(restored.expanded_devices))
    await backup_file.write(context, restored)


def _take_over(tx: Tx, instance: Instance, snapshot: Snapshot, volume: Volume) -> None:
    """Give the instance the snapshot's configuration; what tells it apart (uuid, power, MACs) stays its own."""
    kept = {key: value for key, value in instance.config.items() if key in _KEPT}
    change = store.Change(
        instance.architecture,
        snapshot.description,
        instance.ephemeral,
        {
            **{key: value for key, value in snapshot.config.items() if key not in _KEPT},
            **kept,
            identities.GENERATION: identities.new_generation(),
        },
        snapshot.devices,
        instance.profiles,
    )
    restored = store.update_instance(tx, instance, change)
    store.mark_pending(tx, instance.id, PENDING + snapshot.name)
    snapshot_store.take_over_volume_config(tx, volume.id, snapshot.name)
    if identities.is_another_machine(instance, restored):
        store.set_config(tx, instance.id, {identities.CLOUD_INIT: identities.new_machine()})
    permissions.check(tx, instance.project, "instance update")


def _give_back(tx: Tx, instance: Instance, volume: Volume) -> None:
    store.update_instance(tx, store.reload(tx, instance.id), update_of(instance))
    store.mark_pending(tx, instance.id, "")
    storage.update_volume(tx, volume.id, volume.description, volume.config)


def update_of(instance: Instance) -> store.Change:
    """The change that makes an instance's record what it is in memory."""
    return store.Change(
        instance.architecture,
        instance.description,
        instance.ephemeral,
        instance.config,
        instance.devices,
        instance.profiles,
    )


_KEPT = frozenset({"volatile.uuid", "volatile.last_state.power"})


async def instance_of(context: Context, project: str, name: str) -> tuple[Instance, list[Snapshot]]:
    """An instance and its snapshots, oldest first."""

    def read(tx: Tx) -> tuple[Instance, list[Snapshot]]:
        instance = store.get_instance(tx, project, name)
        return instance, store.list_snapshots(tx, [instance.id]).get(instance.id, [])

    return await context.db.read(read)


async def sizes(context: Context, instance: Instance) -> dict[str, int]:
    """Bytes that each snapshot takes for itself, by name, as far as the pool counts them."""
    volume = await root_volume.find(context, instance)
    return {} if volume is None else await volume_snapshots.usages(context, volume)


def find(snapshots: list[Snapshot], name: str) -> Snapshot:
    """A snapshot of a list by name, or NotFound."""
    for snapshot in snapshots:
        if snapshot.name == name:
            return snapshot
    raise NotFound("Instance snapshot not found")
