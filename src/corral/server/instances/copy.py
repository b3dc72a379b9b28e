"""Copies instances, or snapshots of them, within this server: to other names, projects and pools; and moves them so."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace

from corral.api.instances import InstancesPost
from corral.errors import InvalidRequest, NotFound
from corral.server.context import Context
from corral.server.db.database import Tx
from corral.server.devices import registry
from corral.server.events.model import format_time, utc_now
from corral.server.instances import (
    backup_file,
    busy,
    create,
    delete,
    identities,
    names,
    rename,
    root_volume,
    running,
    snapshot_removal,
    snapshot_store,
    start,
    store,
)
from corral.server.instances.create import Filling
from corral.server.instances.model import Devices, Instance, Snapshot
from corral.server.instances.store import NewInstance
from corral.server.projects.restrictions import is_safe_volatile
from corral.server.storage import copies
from corral.server.storage.model import Volume

_COPIED_VOLATILE = frozenset({"volatile.base_image", "volatile.last_state.idmap"})
"""Volatile keys that hold for the contents, and so for each copy of them."""


@dataclass(frozen=True, slots=True)
class CopyPlan:
    """A copy as it was asked for. `snapshot` is the one that is copied, "" for the instance as it is now."""

    source: Instance
    snapshot: str
    new: NewInstance
    snapshots: tuple[Snapshot, ...]
    refresh: bool = False
    templates: bool = True


async def plan_copy(context: Context, project: str, body: InstancesPost) -> CopyPlan:
    """Decide what to copy and what the copy is like. Raises what is wrong with the request."""
    return await context.db.read(_plan, project, body)


def _plan(tx: Tx, project: str, body: InstancesPost) -> CopyPlan:
    if not body.source.source:
        raise InvalidRequest("Must specify a source instance")
    source_name, _, snapshot_name = body.source.source.partition("/")
    source = store.get_instance(tx, body.source.project or project, source_name)
    if body.type not in ("", source.type.value):
        raise InvalidRequest("Instance type should not be specified or should match source type")
    config, devices = source.config, source.devices
    if snapshot_name:
        snapshot = snapshot_store.get_snapshot(tx, source.id, snapshot_name)
        config, devices = snapshot.config, snapshot.devices
    profiles = body.profiles if body.profiles is not None else ["default"]
    store.get_profiles(tx, project, profiles)
    name = body.name or names.generate_name(store.list_names(tx, project))
    names.check_name(name)
    alone = snapshot_name or body.source.instance_only or body.source.container_only
    new = NewInstance(
        project=project,
        name=name,
        type=source.type,
        architecture=source.architecture,
        created_at=format_time(utc_now()),
        config=_copied_config({**config, **(body.config or {})}),
        devices={**devices, **(body.devices or {})},
        profiles=tuple(profiles),
        ephemeral=body.ephemeral,
        description=body.description,
    )
    snapshots = () if alone else tuple(store.list_snapshots(tx, [source.id]).get(source.id, []))
    return CopyPlan(source, snapshot_name, new, snapshots, body.source.refresh)


def _copied_config(config: Mapping[str, str]) -> dict[str, str]:
    return {
        key: value
        for key, value in config.items()
        if value != "" and (not key.startswith("volatile.") or key in _COPIED_VOLATILE)
    }


async def copy_instance(context: Context, plan: CopyPlan) -> None:
    """Make the copy, or bring an existing one up to date where that was asked for."""
    if plan.refresh:
        present = await context.db.read(_find, plan.new.project, plan.new.name)
        if present is not None:
            await _refresh(context, plan, present)
            return
    await _copy(context, plan)


def _find(tx: Tx, project: str, name: str) -> Instance | None:
    try:
        return store.get_instance(tx, project, name)
    except NotFound:
        return None


async def _copy(context: Context, plan: CopyPlan) -> Instance:
    source_volume = await root_volume.get(context, plan.source)

    async def fill(instance: Instance, root: Mapping[str, str]) -> Volume:
        return await copies.create_copy(
            context,
            source_volume,
            root["pool"],
            instance.project,
            instance.name,
            snapshot=plan.snapshot,
            with_snapshots=[snapshot.name for snapshot in plan.snapshots],
            config=create.size_of(root),
        )

    def note(tx: Tx, instance: Instance, volume: Volume) -> None:
        _write_snapshots(tx, instance, volume, plan.snapshots)
        if plan.templates and instance.config.get("volatile.base_image"):
            store.set_config(tx, instance.id, {"volatile.apply_template": "copy"})

    config = dict(plan.new.config)
    identities.add(config)
    # The client's own view of the config: what the server adds is none of its making.
    new = replace(plan.new, config={key: value for key, value in plan.new.config.items() if _is_clients(key)})
    async with busy.claim(context, plan.source.id, "copy"):
        return await create.make_instance(context, new, config, Filling(fill, note, discard=copies.discard))


def _is_clients(key: str) -> bool:
    return not key.startswith("volatile.") or is_safe_volatile(key)


def _write_snapshots(tx: Tx, instance: Instance, volume: Volume, snapshots: tuple[Snapshot, ...]) -> None:
    _, root = registry.find_root_disk(instance.expanded_devices)
    for snapshot in snapshots:
        devices = _in_pool(snapshot.devices, root["pool"])
        snapshot_store.insert_copy(tx, instance.id, volume.id, replace(snapshot, devices=devices))


def _in_pool(devices: Devices, pool: str) -> Devices:
    """A snapshot's own devices, with a root disk, if they have one, in the pool where the copy is."""
    moved = {key: dict(device) for key, device in devices.items()}
    for device in moved.values():
        if device.get("type") == "disk" and device.get("path") == "/" and not device.get("source"):
            device["pool"] = pool
    return moved


async def _refresh(context: Context, plan: CopyPlan, target: Instance) -> None:
    """Give a stopped copy the contents and the snapshots of its source; its configuration stays."""
    async with busy.claim(context, target.id, "refresh"), busy.claim(context, plan.source.id, "copy"):
        if running.find(context, target) is not None:
            raise InvalidRequest("Cannot refresh a running instance")
        source_volume = await root_volume.get(context, plan.source)
        volume = await root_volume.get(context, target)
        present = (await context.db.read(store.list_snapshots, [target.id])).get(target.id, [])
        wanted = {(one.name, one.created_at): one for one in plan.snapshots}
        kept = {(one.name, one.created_at) for one in present} & set(wanted)
        if not plan.snapshot and plan.snapshots:
            for one in present:
                if (one.name, one.created_at) not in kept:
                    await snapshot_removal.remove(context, target, one)
            for key, one in wanted.items():
                if key not in kept:
                    await copies.copy_snapshot(context, source_volume, volume, one.name)
                    await context.db.write(_write_snapshots, target, volume, (one,))
        await copies.replace_contents(context, source_volume, plan.snapshot, volume)
        idmap = plan.source.config.get("volatile.last_state.idmap", "[]")
        await context.db.write(store.set_config, target.id, {"volatile.last_state.idmap": idmap})
        await backup_file.write(context, await context.db.read(store.reload, target.id))
    start.publish(context, target, "instance-updated")


@dataclass(frozen=True, slots=True)
class Move:
    """Where an instance goes; empty fields stay as they are."""

    name: str
    project: str = ""
    pool: str = ""
    instance_only: bool = False


async def move_instance(context: Context, project: str, name: str, move: Move) -> None:
    """Move a stopped instance to another project or pool: a copy, and then the end of the original."""
    source = await context.db.read(store.get_instance, project, name)
    if running.find(context, source) is not None:
        between = "pools" if move.pool else "projects"
        raise InvalidRequest(f"Instance must be stopped to move between {between} statelessly")
    device, root = registry.find_root_disk(source.expanded_devices)
    target_project, pool = move.project or project, move.pool or root["pool"]
    new_name = move.name or name
    plan = await context.db.read(_plan_move, source, move, {device: {**root, "pool": pool}}, target_project)
    taken = target_project == project and new_name == name
    if taken:
        plan = replace(plan, new=replace(plan.new, name=f"lxd-move-of-{uuid.uuid4()}"))
    moved = await _copy(context, plan)
    try:
        await delete.delete_instance(context, project, name)
    except BaseException:
        await delete.remove(context, moved)
        raise
    if taken:
        await rename.rename_instance(context, target_project, moved.name, new_name, templates=False)


def _plan_move(tx: Tx, source: Instance, move: Move, root: Devices, project: str) -> CopyPlan:
    store.get_profiles(tx, project, source.profiles)
    new = NewInstance(
        project=project,
        name=move.name or source.name,
        type=source.type,
        architecture=source.architecture,
        created_at=source.created_at,
        config=source.config,
        devices={**source.devices, **root},
        profiles=source.profiles,
        ephemeral=source.ephemeral,
        description=source.description,
    )
    snapshots = () if move.instance_only else tuple(store.list_snapshots(tx, [source.id]).get(source.id, []))
    return CopyPlan(source, "", new, snapshots, templates=False)
