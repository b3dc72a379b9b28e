"""Snapshots of instances: taken, renamed, changed, restored and deleted, with those of their root volume."""

import re

from corral.api.urls import url
from corral.errors import InvalidRequest, NotFound, NotSupported
from corral.server.context import Context
from corral.server.db.database import Tx
from corral.server.events.model import Lifecycle, format_time, utc_now
from corral.server.instances import (
    attach,
    backup_file,
    busy,
    identities,
    root_volume,
    running,
    snapshot_removal,
    snapshot_store,
    start,
    stop,
    store,
)
from corral.server.instances.model import Instance, Snapshot
from corral.server.instances.snapshot_store import NewSnapshot
from corral.server.projects import permissions
from corral.server.rollback import Rollback, finish
from corral.server.storage import snapshots as volume_snapshots

NO_STATE = "Stateful snapshots require CRIU, which is not available on this server"


def check_name(name: str) -> None:
    """Raise InvalidRequest for a name that no snapshot can have."""
    if not name or name in (".", "..") or len(name.encode()) > 200:
        raise InvalidRequest(f"Invalid snapshot name {name!r}: give 1 to 200 bytes")
    if "/" in name or " " in name or re.search(r"[\x00-\x1f\x7f]", name):
        raise InvalidRequest(f"Invalid snapshot name {name!r}: no slash, space or control character may be in it")


async def next_name(context: Context, instance: Instance) -> str:
    """The first free name of the series snap0, snap1, ..."""
    found = await context.db.read(store.list_snapshots, [instance.id])
    numbers = [int(match[1]) for one in found.get(instance.id, []) if (match := re.fullmatch(r"snap(\d+)", one.name))]
    return f"snap{max(numbers, default=-1) + 1}"


async def create_snapshot(context: Context, instance: Instance, new: NewSnapshot) -> None:
    """Take a snapshot of an instance, running or not."""
    if new.stateful:
        raise NotSupported(NO_STATE)
    async with busy.claim(context, instance.id, "snapshot"):
        instance = await context.db.read(store.reload, instance.id)
        volume = await root_volume.get(context, instance)
        await backup_file.write(context, instance)
        async with Rollback() as undo:
            snapshot_id = await context.db.write(snapshot_store.insert_snapshot, instance, new)
            undo.add(context.db.write, snapshot_store.delete_snapshot, snapshot_id, volume.id, new.name)
            undo.add(volume_snapshots.delete_snapshot, context, volume, new.name)
            await volume_snapshots.create_snapshot(context, volume, new.name)
            await context.db.write(snapshot_store.finish_snapshot, snapshot_id, volume.id)
            undo.commit()
        await backup_file.write(context, instance)
    _publish(context, instance, new.name, "created")


async def delete_snapshot(context: Context, instance: Instance, name: str) -> None:
    """Delete a snapshot. Once begun it is finished, at the latest at a restart."""
    async with busy.claim(context, instance.id, "snapshot delete"):
        snapshot = await context.db.read(snapshot_store.get_snapshot, instance.id, name)
        await finish(snapshot_removal.remove(context, instance, snapshot))
        await backup_file.write(context, instance)
    _publish(context, instance, name, "deleted")


async def rename_snapshot(context: Context, instance: Instance, name: str, new_name: str) -> None:
    """Give a snapshot another name."""
    check_name(new_name)
    async with busy.claim(context, instance.id, "snapshot rename"):
        snapshot = await context.db.read(snapshot_store.get_snapshot, instance.id, name)
        volume = await root_volume.get(context, instance)
        async with Rollback() as undo:
            await context.db.write(snapshot_store.rename_snapshot, snapshot, volume.id, new_name)
            undo.add(context.db.write, snapshot_store.rename_snapshot, snapshot, volume.id, name)
            await volume_snapshots.rename_snapshot(context, volume, name, new_name)
            undo.commit()
        await backup_file.write(context, instance)
    _publish(context, instance, new_name, "renamed", old_name=name)


async def update_snapshot(context: Context, instance: Instance, name: str, expires_at: str | None) -> None:
    """Change when a snapshot expires; None is never."""
    snapshot = await context.db.read(snapshot_store.get_snapshot, instance.id, name)
    await context.db.write(snapshot_store.set_expiry, snapshot.id, expires_at)
    _publish(context, instance, name, "updated")


async def restore_instance(context: Context, project: str, name: str, wanted: str, *, stateful: bool = False) -> None:
    """Bring an instance, its files and its configuration, back to a snapshot; a running one is stopped meanwhile."""
    if stateful:
        raise NotSupported(NO_STATE)
    instance = await context.db.read(store.get_instance, project, name)
    async with busy.claim(context, instance.id, "restore"):
        instance = await context.db.read(store.reload, instance.id)
        snapshot = await context.db.read(snapshot_store.get_snapshot, instance.id, wanted.rpartition("/")[2])
        container = running.find(context, instance)
        if container is not None:
            await stop.end(context, instance, container, timeout_s=0)
            instance = await context.db.read(store.reload, instance.id)
        volume = await root_volume.get(context, instance)
        async with Rollback() as undo:
            await context.db.write(_take_over, instance, snapshot)
            undo.add(context.db.write, store.update_instance, instance, update_of(instance))
            await volume_snapshots.restore_snapshot(context, volume, snapshot.name)
            undo.commit()
        restored = await context.db.read(store.reload, instance.id)
        # Its addresses may be another instance's by now: then they are to be changed before it starts.
        await attach.remove_all(context, instance)
        await attach.reserve_again(context, restored, list(restored.expanded_devices))
        await backup_file.write(context, restored)
        if container is not None:
            await start.launch(context, restored)
    start.publish(context, instance, "instance-restored")


def _take_over(tx: Tx, instance: Instance, snapshot: Snapshot) -> None:
    """Give the instance the snapshot's configuration; what tells it apart (uuid, power, MACs) stays its own."""
    kept = {key: value for key, value in instance.config.items() if key in _KEPT}
    change = store.Change(
        instance.architecture,
        instance.description,
        instance.ephemeral,
        {
            **{key: value for key, value in snapshot.config.items() if key not in _KEPT},
            **kept,
            identities.GENERATION: identities.new_generation(),
        },
        snapshot.devices,
        instance.profiles,
    )
    store.update_instance(tx, instance, change)
    permissions.check(tx, instance.project, "instance update")


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


def _publish(context: Context, instance: Instance, name: str, verb: str, **more: str) -> None:
    source = url("/1.0/instances", instance.name, "snapshots", name, project=instance.project)
    context.events.publish(Lifecycle(f"instance-snapshot-{verb}", source, instance.project, more))


async def instance_of(context: Context, project: str, name: str) -> tuple[Instance, list[Snapshot]]:
    """An instance and its snapshots, oldest first."""

    def read(tx: Tx) -> tuple[Instance, list[Snapshot]]:
        instance = store.get_instance(tx, project, name)
        return instance, store.list_snapshots(tx, [instance.id]).get(instance.id, [])

    return await context.db.read(read)


def find(snapshots: list[Snapshot], name: str) -> Snapshot:
    """A snapshot of a list by name, or NotFound."""
    for snapshot in snapshots:
        if snapshot.name == name:
            return snapshot
    raise NotFound("Instance snapshot not found")


def now() -> str:
    """The present time as rows keep it."""
    return format_time(utc_now())
