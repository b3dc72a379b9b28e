"""Makes the records of an instance again, from the backup.yaml in its volume."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from corral import architectures
from corral.errors import InvalidRequest
from corral.server.backups import volume_parts
from corral.server.backups.index import Description, IndexedInstance, IndexedSnapshot
from corral.server.context import Context
from corral.server.db.database import Tx
from corral.server.devices import registry
from corral.server.events.model import format_time, utc_now
from corral.server.host.programs.liblxc_socket import scan_running
from corral.server.host.threads import in_thread
from corral.server.instances import adoption, create, expand, identities, root_volume, store, validation
from corral.server.instances.attachments import attach
from corral.server.instances.backup import backup_file, imported
from corral.server.instances.model import Instance, InstanceType, Snapshot, storage_name
from corral.server.instances.running import Running
from corral.server.instances.store import NewInstance
from corral.server.projects import permissions
from corral.server.recovery.scan import Found
from corral.server.rollback import Rollback
from corral.server.storage import store as storage
from corral.server.storage import volumes
from corral.server.storage.keys import quota_of
from corral.server.storage.model import Volume


@dataclass(frozen=True, slots=True)
class _Plan:
    new: NewInstance
    draft: Volume
    snapshots: list[Snapshot]
    snapshot_configs: Mapping[str, Mapping[str, str]]


async def recover(context: Context, found: Found, undo: Rollback) -> None:
    """Make the records of an instance and its snapshots; its files stay as they are, and if it runs it runs on."""
    on_disk = storage_name(found.project, found.name)
    runs = on_disk in await in_thread(scan_running, str(context.member.containers_dir), [on_disk])
    plan = await context.db.read(_plan, found, runs)
    directory = volumes.path(context.member, plan.draft)
    await in_thread(volume_parts.check_instance_tree, directory)
    instance_id = await context.db.write(_insert, plan.new)
    undo.add(context.db.write, store.delete_instance, instance_id)
    instance = await context.db.read(store.reload, instance_id)
    volatile = await create.check_expanded(context, instance)
    volatile["volatile.last_state.power"] = "RUNNING" if runs else None
    if runs:
        # What it runs with was written when it started.
        volatile = {key: value for key, value in volatile.items() if key not in instance.config}
        volatile["volatile.last_state.power"] = "RUNNING"
    instance, volume = await context.db.write(_finish, instance, plan, volatile)
    await in_thread(root_volume.make_link, context.member, instance, directory)
    if runs:
        _forget_former(context, instance)
        await adoption.adopt_container(context, instance)
    else:
        await attach.reserve_again(context, instance, list(instance.expanded_devices))
    _, root = registry.find_root_disk(instance.expanded_devices)
    await volumes.resize(context, volume, quota_of(create.size_of(root), {}, volume.type))
    await backup_file.write(context, instance, volume)


def _forget_former(context: Context, instance: Instance) -> None:
    """The container may be known still under the record that was lost."""
    running = context.parts[Running]
    for container in running.list():
        if container.name == instance.storage_name and container.instance_id != instance.id:
            running.discard(container)


def _plan(tx: Tx, found: Found, runs: bool) -> _Plan:
    description = found.description
    assert description is not None
    described = description.described
    assert described is not None
    profiles = store.get_profiles(tx, found.project, described.profiles or [])
    inherited = expand.expand_devices(profiles, {})
    config = dict(described.config or {}) if runs else imported.own_config(tx, described.config or {})
    # The description does not hold it, for the sake of LXD 5.0.2.
    config.setdefault(identities.GENERATION, identities.new_generation())
    clients = {key: value for key, value in config.items() if not key.startswith("volatile.")}
    devices = expand.with_root_in(found.pool.name, described.devices or {}, inherited)
    validation.check_config(clients, InstanceType.CONTAINER)
    validation.check_config(config, InstanceType.CONTAINER)
    validation.check_devices(devices, InstanceType.CONTAINER, expanded=False)
    new = NewInstance(
        project=found.project,
        name=found.name,
        type=InstanceType.CONTAINER,
        architecture=_architecture(described),
        created_at=described.created_at or format_time(utc_now()),
        config=config,
        devices=devices,
        profiles=tuple(described.profiles or ()),
        ephemeral=described.ephemeral,
        description=described.description,
    )
    volume = description.volume
    draft = volumes.draft(
        found.pool,
        found.project,
        found.name,
        found.kind,
        imported.volume_config(volume.config if volume is not None else None),
    )
    completed, names = _with_undescribed(description, described, found)
    snapshots = imported.plan_snapshots(completed, names, found.pool.name, inherited)
    return _Plan(new, replace(draft, pending=""), snapshots, imported.volume_configs(description))


def _with_undescribed(
    description: Description, described: IndexedInstance, found: Found
) -> tuple[Description, list[str]]:
    """The description with the snapshots that are on the disk alone, and the names of all that are there. Pure.

    A daemon that was killed may not have come to describe the last one: it is taken for like the instance.
    """
    known = [one.name for one in description.snapshots or [] if one.name in found.snapshots]
    added = [name for name in found.snapshots if name not in known]
    extra = [IndexedSnapshot(name=name, config=described.config, devices=described.devices) for name in added]
    return Description(snapshots=[*(description.snapshots or []), *extra]), [*known, *added]


def _architecture(described: IndexedInstance) -> int:
    local = architectures.local_architectures()
    number = architectures.parse_architecture(described.architecture) if described.architecture else local[0]
    if number not in local:
        raise InvalidRequest("Requested architecture isn't supported by this host")
    return number


def _insert(tx: Tx, new: NewInstance) -> int:
    instance_id = store.insert_instance(tx, new, adoption.RECOVERING)
    permissions.check(tx, new.project, "instance creation")
    return instance_id


def _finish(tx: Tx, instance: Instance, plan: _Plan, volatile: Mapping[str, str | None]) -> tuple[Instance, Volume]:
    store.set_config(tx, instance.id, volatile)
    volume = storage.insert_volume(tx, plan.draft)
    imported.write_snapshots(tx, instance, volume, plan.snapshots, plan.snapshot_configs)
    return store.finish_instance(tx, instance.id), volume
