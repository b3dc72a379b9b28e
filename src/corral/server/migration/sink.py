"""The receiving side of a migration of an instance: made anew, or a stopped copy brought up to date."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from corral import architectures
from corral.api.instances import InstancesPost
from corral.errors import AlreadyExists, InvalidRequest, NotSupported
from corral.server.context import Context
from corral.server.db.database import Tx
from corral.server.devices import registry
from corral.server.events.model import format_time, utc_now
from corral.server.host.threads import in_thread
from corral.server.instances import (
    busy,
    create,
    expand,
    identities,
    names,
    root_volume,
    running,
    start,
    store,
    validation,
)
from corral.server.instances.backup import backup_file, imported
from corral.server.instances.copies import refresh
from corral.server.instances.copies.copy import clients_config
from corral.server.instances.create import Filling
from corral.server.instances.model import Devices, Instance, InstanceType, Profile, Snapshot
from corral.server.instances.sessions import files
from corral.server.instances.sessions.channels import Connections
from corral.server.instances.snapshots import snapshot_copies, snapshot_removal, snapshot_store
from corral.server.instances.store import NewInstance
from corral.server.migration import receiving, records
from corral.server.migration.receiving import Reception
from corral.server.migration.session import Remote, open_session
from corral.server.migration.wire import SnapshotRecord
from corral.server.projects import permissions
from corral.server.projects.contents import Entity
from corral.server.storage import copies, creation, keys, snapshots, volumes
from corral.server.storage import store as storage
from corral.server.storage.driver import StoredVolume
from corral.server.storage.model import Volume

_OF_THE_SOURCE = ("volatile.idmap.", "volatile.last_state.", "volatile.apply_template")


@dataclass(frozen=True, slots=True)
class Receiving:
    """An instance that is to be received: what it will be, or which one is to be brought up to date."""

    new: NewInstance
    present: Instance | None = None
    alone: bool = False


async def plan(context: Context, project: str, body: InstancesPost) -> Receiving:
    """Decide what is received. Raises what is wrong with the request."""
    if body.source.mode not in ("pull", "push"):
        raise NotSupported(f'Mode "{body.source.mode}" not implemented')
    return await context.db.read(_plan, project, body)


def _plan(tx: Tx, project: str, body: InstancesPost) -> Receiving:
    try:
        kind = InstanceType(body.type or "container")
    except ValueError:
        raise InvalidRequest(f"Invalid instance type {body.type!r}") from None
    if kind is InstanceType.VIRTUAL_MACHINE:
        raise NotSupported('Instance type "virtual-machine" is not supported on this server')
    profiles = store.get_profiles(tx, project, body.profiles if body.profiles is not None else ["default"])
    name = body.name or names.generate_name(store.list_names(tx, project))
    names.check_name(name)
    present = store.find_by_name(tx, project, name)
    if present is not None and not body.source.refresh:
        raise AlreadyExists(f'Instance "{name}" already exists')
    architecture = architectures.parse_architecture(body.architecture) if body.architecture else 0
    if architecture not in (0, *architectures.local_architectures()):
        raise InvalidRequest("Requested architecture isn't supported by this host")
    config = {key: value for key, value in (body.config or {}).items() if value and _holds_here(key)}
    if body.source.base_image:
        config.setdefault("volatile.base_image", body.source.base_image)
    new = NewInstance(
        project=project,
        name=name,
        type=kind,
        architecture=architecture or architectures.local_architectures()[0],
        created_at=format_time(utc_now()),
        config=config,
        devices=_devices(tx, body.devices or {}, profiles),
        profiles=tuple(profile.name for profile in profiles),
        ephemeral=body.ephemeral,
        description=body.description,
    )
    return Receiving(new, present, body.source.instance_only or body.source.container_only)


def _holds_here(key: str) -> bool:
    return not key.startswith(_OF_THE_SOURCE) and not (key.startswith("volatile.") and key.endswith(".host_name"))


def _devices(tx: Tx, devices: Devices, profiles: list[Profile]) -> Devices:
    """The devices with a root disk in a pool of this server: the one that was named, the profiles', or the only one."""
    known = [pool.name for pool in storage.list_pools(tx)]
    inherited = expand.expand_devices(profiles, {})
    candidates = [
        one.get("pool", "")
        for owner in (devices, inherited)
        for one in owner.values()
        if one.get("type") == "disk" and one.get("path") == "/"
    ]
    candidates += known if len(known) == 1 else []
    for pool in candidates:
        if pool in known:
            return expand.with_root_in(pool, devices, inherited)
    raise InvalidRequest("Can't find a storage pool for the instance to use")


async def receive_instance(context: Context, wanted: Receiving, link: Connections | Remote) -> None:
    """Receive an instance with its snapshots, whole or not at all."""
    async with open_session(context, link) as session:
        reception = await receiving.begin(context, session)
        if wanted.alone:
            reception.wanted = ()
        if wanted.present is not None:
            await _refresh(context, wanted.present, reception, alone=wanted.alone)
        else:
            await _create(context, wanted.new, reception)
        await session.send_end()


async def _create(context: Context, new: NewInstance, reception: Reception) -> None:
    async def fill(instance: Instance, root: Mapping[str, str]) -> Volume:
        draft = await create.draft_volume(context, instance, root["pool"])
        size = keys.quota_of(create.size_of(root), draft.pool.config, draft.type)

        async def receive(volume: Volume) -> None:
            await reception.fill_new(volume, size)

        return await creation.create_filled(context, draft, receive)

    def note(tx: Tx, instance: Instance, volume: Volume) -> None:
        described = reception.described.volume
        if described is not None:
            storage.update_volume(tx, volume.id, described.description, imported.volume_config(described.config))
        for one in reception.wanted:
            _check_snapshot(tx, instance, one)
            snapshot_id = snapshot_copies.begin(tx, instance, _snapshot(one))
            snapshot_copies.finish(tx, snapshot_id, volume, one.name, _volume_config(reception, one.name))
        values: dict[str, str | None] = {"volatile.last_state.idmap": records.idmap_to_json(reception.offer.idmap)}
        if instance.config.get("volatile.base_image"):
            values["volatile.apply_template"] = "copy"
        store.set_config(tx, instance.id, values)

    config = dict(new.config)
    identities.add(config)
    clients = replace(new, config=clients_config(new.config))
    await create.make_instance(context, clients, config, Filling(fill, note, discard=copies.discard))


def _check_snapshot(tx: Tx, instance: Instance, one: SnapshotRecord) -> None:
    """The source's word is not trusted: what is restored from a snapshot must be allowed here."""
    permissions.check_snapshots(tx, instance.project)
    config, devices = imported.kept_config(one.config), {name: dict(device) for name, device in one.devices.items()}
    validation.check_config(config, None)
    validation.check_devices(devices, None, expanded=False)
    entity = Entity(instance.type.value, f"{instance.name}/{one.name}", config, devices)
    permissions.check_entity(tx, instance.project, entity)


def _snapshot(one: SnapshotRecord) -> Snapshot:
    return Snapshot(
        0,
        0,
        one.name,
        records.to_time(one.created_at) or format_time(utc_now()),
        records.to_time(one.expires_at) or "0001-01-01T00:00:00Z",
        False,
        "",
        imported.kept_config(one.config),
        {name: dict(device) for name, device in one.devices.items()},
    )


def _volume_config(reception: Reception, name: str) -> dict[str, str]:
    for one in reception.described.volume_snapshots or []:
        if one.name.rpartition("/")[2] == name:
            return imported.volume_config(one.config)
    return {}


async def _refresh(context: Context, target: Instance, reception: Reception, *, alone: bool) -> None:
    async with busy.claim(context, target.id, "refresh"):
        target = await context.db.read(store.reload, target.id)
        if running.find(context, target) is not None:
            raise InvalidRequest("Cannot refresh a running instance")
        files.release(context, target.id)
        volume = await root_volume.get(context, target)
        if not alone:
            await _delete_surplus(context, target, reception)
        _, root = registry.find_root_disk(target.expanded_devices)
        size = keys.quota_of(create.size_of(root), volume.pool.config, volume.type)

        async def keep(contents: StoredVolume, one: SnapshotRecord) -> None:
            await _keep(context, target, volume, reception, contents, one)

        async def fill(new: StoredVolume) -> None:
            await reception.fill_copy(volume, new, size, keep)

        idmap = records.idmap_to_json(reception.offer.idmap)
        await snapshots.replace_contents(context, volume, fill, refresh.new_record(context, target, volume, idmap))
        await in_thread(root_volume.link_snapshots, context.member, target, volumes.path(context.member, volume))
        await backup_file.write(context, await context.db.read(store.reload, target.id))
    start.publish(context, target, "instance-updated")


async def _delete_surplus(context: Context, target: Instance, reception: Reception) -> None:
    """Delete the snapshots that the source does not have, and want those that are missing."""
    found = await context.db.read(store.list_snapshots, [target.id])
    present = {(one.name, records.to_seconds(one.created_at)): one for one in found.get(target.id, [])}
    offered = {(one.name, one.created_at) for one in reception.wanted}
    for key, one in present.items():
        if key not in offered:
            await snapshot_removal.remove(context, target, one)
    reception.wanted = [one for one in reception.wanted if (one.name, one.created_at) not in present]


async def _keep(
    context: Context,
    target: Instance,
    volume: Volume,
    reception: Reception,
    contents: StoredVolume,
    one: SnapshotRecord,
) -> None:
    def begin(tx: Tx) -> int:
        _check_snapshot(tx, target, one)
        return snapshot_copies.begin(tx, target, _snapshot(one))

    snapshot_id = await context.db.write(begin)
    try:
        await reception.keep_snapshot(volume, contents, one.name)
        config = _volume_config(reception, one.name)
        await context.db.write(snapshot_copies.finish, snapshot_id, volume, one.name, config)
    except BaseException:
        await snapshots.delete_snapshot(context, volume, one.name)
        await context.db.write(snapshot_store.delete_snapshot, snapshot_id, volume.id, one.name)
        raise
