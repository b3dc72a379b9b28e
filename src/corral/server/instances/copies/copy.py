"""Copies instances, or snapshots of them, within this server: to other names, projects and pools."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from corral.api.instances import InstancesPost
from corral.errors import InvalidRequest
from corral.server.context import Context
from corral.server.db.database import Tx
from corral.server.events.model import format_time, utc_now
from corral.server.instances import busy, create, identities, names, root_volume, store
from corral.server.instances.copies import refresh
from corral.server.instances.create import Filling
from corral.server.instances.model import Instance, Snapshot
from corral.server.instances.snapshots import snapshot_copies, snapshot_store, snapshot_taking, stillness
from corral.server.instances.store import NewInstance
from corral.server.projects.restrictions import is_safe_volatile
from corral.server.storage import copies
from corral.server.storage.copies import Origin
from corral.server.storage.model import Volume

_COPIED_VOLATILE = frozenset({"volatile.base_image", "volatile.last_state.idmap"})
"""Volatile keys that hold for the contents, and so for each copy of them."""


@dataclass(frozen=True, slots=True)
class CopyPlan:
    """A copy as it was asked for. `snapshot` is the one that is copied, "" for the instance as it is now.

    `snapshots` are to come along. `alone` leaves the snapshots out: those of the source and, at a refresh, those that
    the copy has.
    """

    source: Instance
    snapshot: str
    new: NewInstance
    snapshots: tuple[Snapshot, ...]
    alone: bool = False
    refresh: bool = False
    allow_inconsistent: bool = False


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
    profiles = body.profiles if body.profiles is not None else list(source.profiles)
    store.get_profiles(tx, project, profiles)
    name = body.name or names.generate_name(store.list_names(tx, project))
    names.check_name(name)
    if body.stateful and name != source_name:
        raise InvalidRequest(
            f'Copying stateful instances requires that source "{source_name}" and target "{name}" name be identical'
        )
    alone = bool(snapshot_name) or body.source.instance_only or body.source.container_only
    new = NewInstance(
        project=project,
        name=name,
        type=source.type,
        architecture=source.architecture,
        created_at=format_time(utc_now()),
        config=copied_config({**config, **(body.config or {})}),
        devices={**devices, **(body.devices or {})},
        profiles=tuple(profiles),
        ephemeral=body.ephemeral,
        description=body.description,
    )
    snapshots = () if alone else tuple(store.list_snapshots(tx, [source.id]).get(source.id, []))
    return CopyPlan(source, snapshot_name, new, snapshots, alone, body.source.refresh, body.source.allow_inconsistent)


def copied_config(config: Mapping[str, str]) -> dict[str, str]:
    """What of an instance's config is a copy's too: nothing that tells the instance apart. Pure."""
    return {
        key: value
        for key, value in config.items()
        if value != "" and (not key.startswith("volatile.") or key in _COPIED_VOLATILE)
    }


async def copy_instance(context: Context, plan: CopyPlan) -> None:
    """Make the copy, or bring an existing one up to date where that was asked for."""
    if plan.refresh:
        present = await context.db.read(store.find_by_name, plan.new.project, plan.new.name)
        if present is not None:
            await refresh.refresh_instance(
                context,
                plan.source,
                present,
                snapshot=plan.snapshot,
                alone=plan.alone,
                allow_inconsistent=plan.allow_inconsistent,
            )
            return
    async with busy.claim(context, plan.source.id, "copy"):
        await _copy(context, plan)


async def _copy(context: Context, plan: CopyPlan) -> Instance:
    source_volume, volume_config, snapshot_configs = await context.db.read(_read_volume, plan)

    async def fill(instance: Instance, root: Mapping[str, str]) -> Volume:
        origin = Origin(source_volume, plan.snapshot, plan.allow_inconsistent)
        async with stillness.keep_still(context, plan.source, source_volume, needed=not plan.snapshot, origin=origin):
            return await copies.create_copy(
                context,
                origin,
                root["pool"],
                instance.project,
                instance.name,
                with_snapshots=[snapshot.name for snapshot in plan.snapshots],
                config={**volume_config, **create.size_of(root)},
            )

    def note(tx: Tx, instance: Instance, volume: Volume) -> None:
        for snapshot in plan.snapshots:
            snapshot_id = snapshot_copies.begin(tx, instance, snapshot)
            config = snapshot_configs.get(snapshot.name, {})
            snapshot_copies.finish(tx, snapshot_id, volume, snapshot.name, config)
        if instance.config.get("volatile.base_image"):
            store.set_config(tx, instance.id, {"volatile.apply_template": "copy"})

    config = dict(plan.new.config)
    identities.add(config)
    # The client's own view of the config: what the server adds is none of its making.
    new = replace(plan.new, config=clients_config(plan.new.config))
    instance = await create.make_instance(context, new, config, Filling(fill, note, discard=copies.discard))
    for snapshot in plan.snapshots:
        snapshot_taking.publish(context, instance, snapshot.name, "created")
    return instance


def _read_volume(tx: Tx, plan: CopyPlan) -> tuple[Volume, dict[str, str], dict[str, dict[str, str]]]:
    """The source's volume, the config of what is copied of it, and those of its snapshots by name."""
    volume = root_volume.get_row(tx, plan.source)
    configs = snapshot_store.list_volume_configs(tx, volume.id)
    return volume, dict(configs.get(plan.snapshot, {}) if plan.snapshot else volume.config), configs


def clients_config(config: Mapping[str, str]) -> dict[str, str]:
    """What of a config a client could have written. Pure."""
    return {key: value for key, value in config.items() if not key.startswith("volatile.") or is_safe_volatile(key)}
