"""Changes instances: their own configuration, devices and profiles, and what follows from a changed profile."""

import asyncio
import logging
from collections.abc import Callable, Mapping

import msgspec

from corral import architectures, units
from corral.api.instances import InstancePatch, InstancePut
from corral.errors import CorralError, InvalidRequest, NotFound
from corral.server.context import Context
from corral.server.db.database import Tx
from corral.server.devices import registry
from corral.server.devices.disk import is_root_disk
from corral.server.devices.model import Placed
from corral.server.host.threads import in_thread
from corral.server.instances import (
    busy,
    expand,
    facts,
    identities,
    keys,
    root_volume,
    running,
    start,
    store,
    validation,
)
from corral.server.instances.attachments import device_changes, device_journal, hotplug
from corral.server.instances.backup import backup_file
from corral.server.instances.container import raw_lxc
from corral.server.instances.guest import guest_events
from corral.server.instances.inventory import Inventory
from corral.server.instances.limits import live
from corral.server.instances.model import Instance, devices_dir
from corral.server.instances.security import apparmor, idmaps, nvidia
from corral.server.instances.snapshots import snapshot
from corral.server.instances.spec import HostFacts, check_io_weight
from corral.server.instances.store import Change
from corral.server.projects import permissions
from corral.server.rollback import Rollback
from corral.server.storage import volumes

log = logging.getLogger(__name__)


async def update_instance(context: Context, project: str, name: str, body: InstancePut) -> None:
    """Replace what can be edited of an instance; a running one takes over what can change live."""
    if body.restore:
        await snapshot.restore_instance(context, project, name, body.restore, stateful=body.stateful)
        return
    await _update(context, project, name, lambda instance: body)


async def patch_instance(context: Context, project: str, name: str, patch: InstancePatch) -> None:
    """Change some of what can be edited; all else stays as it is when nobody else changes it any more."""
    if patch.restore:
        raise InvalidRequest("Can't call PATCH in restore mode: a snapshot is restored by a PUT")
    await _update(context, project, name, lambda instance: merge(instance, patch))


def merge(instance: Instance, patch: InstancePatch) -> InstancePut:
    """The whole configuration that a partial one asks for; keys and devices that are not named stay."""

    def given(value: object) -> bool:
        return value is not msgspec.UNSET and value is not None

    return InstancePut(
        architecture=patch.architecture or "",
        config={**instance.config, **(patch.config or {})},
        devices={**instance.devices, **(patch.devices or {})},
        ephemeral=bool(patch.ephemeral) if given(patch.ephemeral) else instance.ephemeral,
        profiles=patch.profiles or [] if isinstance(patch.profiles, list) else list(instance.profiles),
        description=patch.description if isinstance(patch.description, str) else instance.description,
    )


async def _update(context: Context, project: str, name: str, ask: Callable[[Instance], InstancePut]) -> None:
    instance = await context.parts[Inventory].get(project, name)
    async with busy.claim(context, instance.id, "update"):
        instance, wanted, change = await context.db.read(_plan, instance.id, ask)
        await _apply(context, instance, wanted, change)
    start.publish(context, instance, "instance-updated")


def _plan(tx: Tx, instance_id: int, ask: Callable[[Instance], InstancePut]) -> tuple[Instance, Instance, Change]:
    """The instance as it is and as it will be, and what is to be written."""
    instance = store.reload(tx, instance_id)
    body = ask(instance)
    try:
        # Also of a name without a value it is said where there is no such key.
        validation.check_config(body.config or {}, instance.type)
    except InvalidRequest as error:
        raise InvalidRequest(f"Invalid config: {error}") from error
    change = _change(instance, body)
    try:
        validation.check_devices(change.devices, instance.type, expanded=False)
    except InvalidRequest as error:
        raise InvalidRequest(f"Invalid devices: {error}") from error
    wanted = _preview(tx, instance, change)
    permissions.check_volatile(tx, instance.project, instance.type.value, instance.name, change.config, instance.config)
    return instance, wanted, change


def _change(instance: Instance, body: InstancePut) -> Change:
    def without_empty(values: dict[str, str]) -> dict[str, str]:
        return {key: value for key, value in values.items() if value != ""}

    return Change(
        architecture=architectures.parse_architecture(body.architecture)
        if body.architecture
        else instance.architecture,
        description=body.description,
        ephemeral=body.ephemeral,
        config=without_empty(body.config or {}),
        devices={name: without_empty(device) for name, device in (body.devices or {}).items()},
        profiles=tuple(body.profiles or ()),
    )


def _preview(tx: Tx, instance: Instance, change: Change) -> Instance:
    """The instance as it will be."""
    profiles = store.get_profiles(tx, instance.project, change.profiles)
    return Instance(
        id=instance.id,
        project=instance.project,
        name=instance.name,
        type=instance.type,
        architecture=change.architecture,
        ephemeral=change.ephemeral,
        stateful=instance.stateful,
        created_at=instance.created_at,
        last_used_at=instance.last_used_at,
        description=change.description,
        pending=instance.pending,
        config=dict(change.config),
        devices={name: dict(device) for name, device in change.devices.items()},
        profiles=tuple(change.profiles),
        expanded_config=expand.expand_config(profiles, change.config),
        expanded_devices=expand.expand_devices(profiles, change.devices),
    )


def _write(tx: Tx, old: Instance, change: Change) -> Instance:
    updated = store.update_instance(tx, old, change)
    permissions.check(tx, old.project, "instance update")
    return updated


def check_change(old: Instance, new: Instance) -> None:
    """Raise InvalidRequest where an instance cannot become so."""
    changed = expand.changed_keys(old.expanded_config, new.expanded_config)
    if any(key in idmaps.PROTECTED and key not in new.expanded_config for key in changed):
        raise InvalidRequest("Volatile idmap keys can't be deleted by the user")
    try:
        validation.check_config(new.expanded_config, None)
    except InvalidRequest as error:
        raise InvalidRequest(f"Invalid expanded config: {error}") from error
    try:
        validation.check_devices(new.expanded_devices, new.type, expanded=True)
    except InvalidRequest as error:
        raise InvalidRequest(f"Invalid expanded devices: {error}") from error
    before, after = _root_disk(old), _root_disk(new)
    if before and before.get("pool") != after.get("pool"):
        raise InvalidRequest(f'Cannot update root disk device pool name to "{after.get("pool", "")}"')


def _root_disk(instance: Instance) -> Mapping[str, str]:
    """The root disk's config; empty where there is not exactly one, which a changed profile can bring about."""
    try:
        return registry.find_root_disk(instance.expanded_devices)[1]
    except InvalidRequest:
        return {}


def _is_set(old: Instance, new: Instance, key: str) -> bool:
    """Whether a change gives a key a value."""
    value = new.expanded_config.get(key)
    return bool(value) and value != old.expanded_config.get(key)


async def _check_host(context: Context, old: Instance, new: Instance) -> None:
    """Raise InvalidRequest or NotSupported for what this server could not start."""
    facts.check_privilege(context.member.product, new.expanded_config)
    if new.is_container and _is_set(old, new, keys.LIMITS_DISK_PRIORITY.name):
        check_io_weight(context.parts[HostFacts])
    if new.is_container and _is_set(old, new, nvidia.KEY):
        await in_thread(nvidia.check, new.expanded_config)
    if new.is_container and _is_set(old, new, raw_lxc.KEY):
        await raw_lxc.check(new.expanded_config[raw_lxc.KEY])
    if any(old.expanded_config.get(key) != new.expanded_config.get(key) for key in apparmor.KEYS):
        await apparmor.check(context, new)


async def _apply(context: Context, old: Instance, new: Instance, change: Change) -> None:
    check_change(old, new)
    await _check_host(context, old, new)
    changes = device_changes.plan(old, new)
    config = dict(change.config)
    if running.find(context, old) is not None:
        config = device_changes.with_what_runs(old.config, config)
    config, new = await device_changes.forget(context, old, new, changes, config)
    if identities.is_another_machine(old, new):
        config[identities.CLOUD_INIT] = identities.new_machine()
    if any(old.expanded_config.get(key) != new.expanded_config.get(key) for key in idmaps.KEYS):
        config.update((await start.plan_idmap(context, new)).volatile)
    async with device_changes.noted(context, old, new, changes) as note, Rollback() as undo:
        config.update(await device_changes.apply(context, old, new, changes, note, undo))
        await _resize_root(context, old, new, undo)
        updated = await context.db.write(
            _write,
            old,
            Change(change.architecture, change.description, change.ephemeral, config, change.devices, change.profiles),
        )
        undo.add(context.db.write, store.update_instance, updated, _change_of(old))
        container = running.find(context, updated)
        if container is not None:
            changed = expand.changed_keys(old.expanded_config, updated.expanded_config)
            undo.add(live.apply_config, context, old, container, changed)
            await live.apply_config(context, updated, container, changed)
        undo.commit()
    if container is not None:
        guest_events.publish(context, old, updated, (changes.removed, changes.updated, changes.added))
    hotplug.follow(context, updated)
    await backup_file.write(context, updated)


def _change_of(instance: Instance) -> Change:
    return Change(
        instance.architecture,
        instance.description,
        instance.ephemeral,
        instance.config,
        instance.devices,
        instance.profiles,
    )


async def _resize_root(context: Context, old: Instance, new: Instance, undo: Rollback) -> None:
    before, after = _root_disk(old), _root_disk(new)
    if before and before.get("size", "") != after.get("size", ""):
        volume = await root_volume.get(context, new)
        undo.add(volumes.resize, context, volume, _size_of(before))
        await volumes.resize(context, volume, _size_of(after))


def _size_of(disk: Mapping[str, str]) -> int | None:
    return units.parse_size(disk["size"]) if disk.get("size") else None


def _check_places(tx: Tx, project: str, profile: str) -> None:
    """Raise InvalidRequest where a device of a profile cannot be had, whoever uses it."""
    for name, config in store.get_profiles(tx, project, [profile])[0].devices.items():
        kind = registry.find(config)
        if isinstance(kind, Placed):
            try:
                kind.check_place(tx, config)
            except (InvalidRequest, NotFound) as error:
                raise InvalidRequest(f'Device validation failed for "{name}": {error}') from error


async def apply_profile(context: Context, project: str, profile: str, write: Callable[[Tx], object]) -> None:
    """Change a profile by `write`, unless an instance would lose its root disk by it, and bring its instances along.

    Raises InvalidRequest that names the instances that failed to follow; the profile is changed then all the same.
    """

    def change(tx: Tx) -> list[tuple[Instance, Instance]]:
        before = store.list_by_profile(tx, project, profile)
        write(tx)
        after = {one.id: one for one in store.list_by_profile(tx, project, profile)}
        for old in before:
            facts.check_privilege(context.member.product, after[old.id].expanded_config)
            _check_root_disk(old, after[old.id])
        permissions.check_profile(tx, project)
        _check_places(tx, project, profile)
        # From the commit on, whatever becomes of this daemon: the containers are to agree with the profile.
        for old in before:
            _note(context, old, after[old.id])
        return [(old, after[old.id]) for old in before]

    pairs = await context.db.write(change)
    results = await asyncio.gather(*(_follow(context, old, new) for old, new in pairs))
    failures = [
        f" - Project: {old.project}, Instance: {old.name}: {error}"
        for (old, _), error in zip(pairs, results, strict=True)
        if error is not None
    ]
    if failures:
        raise InvalidRequest(
            "The following instances failed to update (profile change still saved):\n" + "\n".join(failures)
        )


def _note(context: Context, old: Instance, new: Instance) -> None:
    if running.find(context, old) is not None:
        journal = device_changes.compose_journal(old, new, device_changes.plan(old, new))
        device_journal.write(devices_dir(context.member, old), journal)


def _check_root_disk(old: Instance, new: Instance) -> None:
    """A profile cannot take an instance's root disk away or put it into another pool."""

    def pools(instance: Instance) -> set[str]:
        disks = instance.expanded_devices.values()
        return {disk.get("pool", "") for disk in disks if is_root_disk(disk)}

    if len(pools(old)) == 1 and not pools(old) <= pools(new):
        raise InvalidRequest("At least one instance relies on this profile's root disk device")


async def _follow(context: Context, old: Instance, new: Instance) -> CorralError | None:
    try:
        async with busy.claim(context, new.id, "update"):
            await _apply(context, old, new, _change_of(new))
    except CorralError as error:
        return error
    return None
