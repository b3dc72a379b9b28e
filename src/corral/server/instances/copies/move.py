"""Moves stopped instances to another pool, project or name: one transaction moves them once the new volume is whole."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from corral.api.urls import url
from corral.errors import AlreadyExists, InvalidRequest
from corral.server.context import Context
from corral.server.db.database import Tx
from corral.server.devices import registry
from corral.server.events.model import Lifecycle
from corral.server.host.threads import in_thread
from corral.server.instances import busy, create, expand, rename, root_volume, running, start, store, validation
from corral.server.instances.attachments import attach
from corral.server.instances.backup import backup_file
from corral.server.instances.model import Instance, Snapshot
from corral.server.instances.sessions import files
from corral.server.instances.snapshots import snapshot_store
from corral.server.projects import permissions
from corral.server.rollback import finish
from corral.server.storage import copies
from corral.server.storage import snapshot_store as volume_snapshots
from corral.server.storage import store as storage
from corral.server.storage.copies import Origin
from corral.server.storage.model import Volume

log = logging.getLogger(__name__)

PENDING = "move "
"""The pending mark's beginning; the former project and name follow."""


@dataclass(frozen=True, slots=True)
class Move:
    """Where an instance goes, and what changes by that; empty fields stay as they are.

    `config` and `devices` are put over those that there are (an empty value removes a key), `profiles` replace them.
    """

    name: str
    project: str = ""
    pool: str = ""
    instance_only: bool = False
    config: Mapping[str, str] = field(default_factory=dict)
    devices: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    profiles: Sequence[str] | None = None

    @property
    def changes_record(self) -> bool:
        """Whether more than the place changes."""
        return bool(self.config or self.devices) or self.profiles is not None


async def move_instance(context: Context, project: str, name: str, move: Move) -> None:
    """Move a stopped instance. Until the target is whole and recorded, the source is untouched."""
    instance = await context.db.read(store.get_instance, project, name)
    async with busy.claim(context, instance.id, "move", ()):
        instance = await context.db.read(store.reload, instance.id)
        if running.find(context, instance) is not None:
            between = "pools" if move.pool else "projects"
            raise InvalidRequest(f"Instance must be stopped to move between {between} statelessly")
        target, snapshots = await context.db.read(_preview, instance, move)
        source = await root_volume.get(context, instance)
        _, root = registry.find_root_disk(target.expanded_devices)
        if (target.project, target.name, root["pool"]) == (instance.project, instance.name, source.pool.name):
            if move.changes_record:
                raise InvalidRequest("The instance is there already: change its configuration by an update")
            return
        volatile = await create.check_expanded(context, target)
        files.release(context, instance.id)
        await _move(context, instance, source, _Target(target, root["pool"], tuple(snapshots), volatile))
    moved = url("/1.0/instances", target.name, project=target.project)
    if (target.project, target.name) == (instance.project, instance.name):
        start.publish(context, target, "instance-updated")
        return
    details = {"type": target.type.value, "storage-pool": root["pool"]}
    context.events.publish(Lifecycle("instance-created", moved, target.project, context=details))
    start.publish(context, instance, "instance-deleted")


@dataclass(frozen=True, slots=True)
class _Target:
    """What the instance will be: its record, its pool, the snapshots that it keeps, and new volatile keys."""

    instance: Instance
    pool: str
    snapshots: tuple[Snapshot, ...]
    volatile: Mapping[str, str | None]


def _preview(tx: Tx, instance: Instance, move: Move) -> tuple[Instance, list[Snapshot]]:
    """The instance as it will be, and the snapshots that come along."""
    project, name = move.project or instance.project, move.name or instance.name
    if (project, name) != (instance.project, instance.name) and name in store.list_names(tx, project):
        raise AlreadyExists(f'Instance "{name}" already exists')
    names = instance.profiles if move.profiles is None else tuple(move.profiles)
    profiles = store.get_profiles(tx, project, names)
    config = {key: value for key, value in {**instance.config, **move.config}.items() if value}
    own_devices = {**instance.devices, **{key: dict(device) for key, device in move.devices.items()}}
    _check_overrides(tx, instance, move, project)
    # Whatever its new devices and profiles say: only who names a pool has it moved there.
    pool = move.pool or registry.find_root_disk(instance.expanded_devices)[1]["pool"]
    storage.get_pool(tx, pool)
    devices = expand.with_root_in(pool, own_devices, expand.expand_devices(profiles, {}))
    target = replace(
        instance,
        project=project,
        name=name,
        config=config,
        devices=devices,
        profiles=names,
        expanded_config=expand.expand_config(profiles, config),
        expanded_devices=expand.expand_devices(profiles, devices),
    )
    snapshots = [] if move.instance_only else store.list_snapshots(tx, [instance.id]).get(instance.id, [])
    return target, snapshots


def _check_overrides(tx: Tx, instance: Instance, move: Move, project: str) -> None:
    """What a client may not set when an instance is made, it may not set by a move."""
    validation.check_config(move.config, instance.type)
    validation.check_devices(move.devices, instance.type, expanded=False)
    permissions.check_volatile(tx, project, instance.type.value, instance.name, move.config, {})


async def _move(context: Context, instance: Instance, source: Volume, target: _Target) -> None:
    _, root = registry.find_root_disk(target.instance.expanded_devices)

    def commit(tx: Tx, volume: Volume) -> None:
        _commit(tx, instance, source, volume, target)

    await copies.create_copy(
        context,
        Origin(source),
        target.pool,
        target.instance.project,
        target.instance.name,
        with_snapshots=[one.name for one in target.snapshots],
        config={**source.config, **create.size_of(root)},
        note=commit,
    )
    await finish(_clean_up(context, instance, source))


def _commit(tx: Tx, instance: Instance, source: Volume, volume: Volume, target: _Target) -> None:
    """From here on the instance is at its new place; what is left of the old one a restarted daemon removes."""
    new = target.instance
    store.move_instance(tx, instance, new)
    permissions.check(tx, new.project, "instance creation")
    kept = {one.name for one in target.snapshots}
    for one in store.list_snapshots(tx, [instance.id]).get(instance.id, []):
        if one.name not in kept:
            snapshot_store.delete_snapshot(tx, one.id, source.id, one.name)
    inherited = expand.expand_devices(store.get_profiles(tx, new.project, new.profiles), {})
    for one in target.snapshots:
        snapshot_store.write_devices(tx, one.id, expand.with_root_in(target.pool, one.devices, inherited))
    volume_snapshots.move_all(tx, source.id, volume.id)
    storage.mark_volume(tx, source.id, "delete")
    store.set_config(tx, instance.id, target.volatile)
    store.mark_pending(tx, instance.id, f"{PENDING}{instance.project} {instance.name}")


async def _clean_up(context: Context, former: Instance, source: Volume | None) -> None:
    """Remove what is left at the old place and give the new one its links and files. Repeatable."""
    await attach.remove_all(context, former)
    moved = await context.db.read(store.reload, former.id)
    if former.storage_name != moved.storage_name:
        await in_thread(rename.move_files, context, former, moved)
    if source is not None:
        await copies.discard_contents(context, source)
    await rename.relink(context, moved)
    await attach.reserve_again(context, moved, list(moved.expanded_devices))
    await backup_file.write(context, moved)
    await context.db.write(store.mark_pending, moved.id, "")


async def resume(context: Context, instance: Instance) -> None:
    """Finish a move that the daemon's death cut short after it was recorded; the pool removes the old volume."""
    project, _, name = instance.pending.removeprefix(PENDING).partition(" ")
    log.info("Finishing the move of instance %s", instance.storage_name)
    await _clean_up(context, replace(instance, project=project, name=name), None)
