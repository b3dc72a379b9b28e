"""An instance's devices in bulk: prepared when they are added, attached at a start, detached after a stop."""

import asyncio
import logging
import os
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from corral.errors import CorralError, InvalidRequest
from corral.server.context import Context
from corral.server.devices import registry
from corral.server.devices.model import Attachment, DeviceContext, Reserving, Restorable
from corral.server.host.isolation.idmap import IdMap
from corral.server.host.threads import in_thread
from corral.server.instances import running
from corral.server.instances.attachments import device_journal
from corral.server.instances.inventory import Inventory
from corral.server.instances.model import Devices, Instance, devices_dir
from corral.server.instances.security import idmaps, nvidia
from corral.server.instances.spec import HostFacts
from corral.server.rollback import Rollback

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Attached:
    """What the devices of an instance added to its start. `volatile` has whole keys."""

    attachments: list[Attachment] = field(default_factory=list)
    volatile: dict[str, str | None] = field(default_factory=dict)
    by_name: dict[str, Attachment] = field(default_factory=dict)


def device_context(
    context: Context, instance: Instance, name: str, config: Mapping[str, str], volatile: Mapping[str, str | None]
) -> DeviceContext:
    """The surroundings of one device; `volatile` are whole keys that are not stored yet."""
    prefix = f"volatile.{name}."
    values = {**instance.config, **{key: value or "" for key, value in volatile.items()}}
    container = running.find(context, instance)
    hierarchies = context.parts[HostFacts].hierarchies
    privileged, idmap = _ids(instance, values, runs=container is not None)
    return DeviceContext(
        context=context,
        project=instance.project,
        instance=instance.name,
        storage_name=instance.storage_name,
        device=name,
        config=config,
        volatile={key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)},
        kind=instance.type.value,
        used_names=_used_names(instance.expanded_devices, values, name),
        devices=instance.expanded_devices,
        pid=container.init_pid if container is not None else 0,
        privileged=privileged,
        nvidia_runtime=nvidia.is_wanted(instance.expanded_config),
        idmap=idmap,
        hierarchies=hierarchies,
        cgroup=partial(container.cgroup, hierarchies) if container is not None else None,
        host_name_of=lambda other: values.get(f"volatile.{other}.host_name", ""),
        shares_volume=partial(_is_used_by_another, context, instance),
        allow=partial(container.allow_device, hierarchies) if container is not None else None,
    )


def _ids(instance: Instance, volatile: Mapping[str, str], *, runs: bool) -> tuple[bool, IdMap | None]:
    """Whether the instance is privileged, and its map; one that runs stays what it was at its start."""
    if runs and "volatile.idmap.current" in volatile:
        idmap = idmaps.of_text(volatile["volatile.idmap.current"])
        return idmap is None, idmap
    return instance.privileged, None if instance.privileged else idmaps.of_text(volatile.get("volatile.idmap.next"))


def _used_names(devices: Devices, volatile: Mapping[str, str], besides: str) -> frozenset[str]:
    names = (
        config.get("name") or volatile.get(f"volatile.{name}.name", "")
        for name, config in devices.items()
        if name != besides and config.get("type") == "nic"
    )
    return frozenset(name for name in names if name)


async def _is_used_by_another(context: Context, instance: Instance, pool: str, volume: str) -> bool:
    """Whether another running instance has a custom volume among its disks."""
    for other in await context.parts[Inventory].list():
        if other.id != instance.id and running.find(context, other) is not None:
            for config in other.expanded_devices.values():
                if config.get("pool") == pool and config.get("source") == volume:
                    return True
    return False


async def prepare(context: Context, instance: Instance, names: list[str] | None = None) -> dict[str, str | None]:
    """Check devices against what exists, and return the volatile keys they need from now on."""
    made: dict[str, str | None] = {}
    for name, config in sorted(instance.expanded_devices.items(), key=registry.sort_key):
        if names is not None and name not in names:
            continue
        try:
            surroundings = device_context(context, instance, name, config, made)
            values = await registry.get(config).prepare(surroundings)
        except InvalidRequest as error:
            raise InvalidRequest(f'Device validation failed for "{name}": {error}') from error
        made.update({f"volatile.{name}.{key}": value for key, value in values.items()})
    return made


async def reserve(context: Context, instance: Instance, names: list[str], volatile: Mapping[str, str | None]) -> None:
    """Have devices reserve what is theirs while the instance is stopped, too. Raises Conflict."""
    for name in names:
        config = instance.expanded_devices[name]
        kind = registry.get(config)
        if isinstance(kind, Reserving):
            await kind.reserve(device_context(context, instance, name, config, volatile))


async def reserve_again(
    context: Context, instance: Instance, names: list[str], volatile: Mapping[str, str | None] | None = None
) -> None:
    """Give devices back what they had reserved, as far as nobody else took it."""
    for name in names:
        try:
            await reserve(context, instance, [name], volatile or {})
        except CorralError as error:
            log.warning("Device %s of %s has lost its reservation: %s", name, instance.storage_name, error)


async def restore_all(context: Context, instance: Instance) -> None:
    """Have the devices of a running instance set again what others reset; a failure is logged."""
    for name, config in instance.expanded_devices.items():
        kind = registry.find(config)
        if isinstance(kind, Restorable):
            try:
                await kind.restore(device_context(context, instance, name, config, {}))
            except (CorralError, OSError):
                log.exception("Failed to restore device %s of %s", name, instance.storage_name)


async def attach_all(context: Context, instance: Instance, undo: Rollback) -> Attached:
    """Attach all devices in order for a start; what the devices did outside is undone by `undo`."""
    attached = Attached()
    attached.volatile.update(await prepare(context, instance))
    for name, config in sorted(instance.expanded_devices.items(), key=registry.sort_key):
        surroundings = device_context(context, instance, name, config, attached.volatile)
        attachment = await registry.get(config).attach(surroundings)
        if attachment.release is not None:
            undo.add(attachment.release)
        attached.attachments.append(attachment)
        attached.by_name[name] = attachment
        attached.volatile.update({f"volatile.{name}.{key}": value for key, value in attachment.volatile.items()})
    return attached


async def start_all(context: Context, instance: Instance, attached: Attached) -> None:
    """What the devices do once the instance runs."""

    async def finish(name: str, hook: Callable[[], Awaitable[None]]) -> None:
        try:
            await hook()
        except OSError as error:
            raise InvalidRequest(f'Failed to start device "{name}": {error.strerror or error}') from error

    hooks = [finish(name, one.after_start) for name, one in attached.by_name.items() if one.after_start is not None]
    if hooks:
        await asyncio.gather(*hooks)
    for name, attachment in attached.by_name.items():
        if attachment.start is not None:
            config = instance.expanded_devices[name]
            await attachment.start(device_context(context, instance, name, config, attached.volatile))


async def detach_all(context: Context, instance: Instance) -> dict[str, str | None]:
    """Detach all devices after a stop; a failure is logged. Returns volatile keys to forget."""
    for name, config in sorted(instance.expanded_devices.items(), key=registry.sort_key, reverse=True):
        kind = registry.find(config)
        if kind is None:
            continue
        try:
            await kind.detach(device_context(context, instance, name, config, {}))
        except (CorralError, OSError):
            log.exception("Failed to detach device %s of %s", name, instance.storage_name)
    await _detach_cut_short(context, instance)
    return {key: None for key in instance.config if is_of_one_run(key)}


def has_traces(context: Context, instance: Instance) -> bool:
    """Whether the devices of an instance left something on the host."""
    directory = devices_dir(context.member, instance)
    return directory.is_dir() and any(os.scandir(directory))


async def _detach_cut_short(context: Context, instance: Instance) -> None:
    """Detach what a daemon that died was about to take out or to put in when the container ended, too."""
    directory = devices_dir(context.member, instance)
    journal = await in_thread(device_journal.find, directory)
    if journal is None:
        return
    for name, config, volatile in journal.plugged:
        kind = registry.find(config)
        if kind is not None:
            try:
                await kind.detach(device_context(context, instance, name, config, volatile))
            except (CorralError, OSError):
                log.exception("Failed to detach device %s of %s", name, instance.storage_name)
    await in_thread(device_journal.remove, directory)


def is_of_one_run(key: str) -> bool:
    """Whether a key is what a device remembers of the time in which the instance runs."""
    return re.fullmatch(r"volatile\..+\.(host_name|last_state\..+)", key) is not None


async def remove_all(context: Context, instance: Instance, names: list[str] | None = None) -> None:
    """Forget devices for good; a failure is logged."""
    for name, config in instance.expanded_devices.items():
        kind = registry.find(config)
        if kind is None or (names is not None and name not in names):
            continue
        try:
            await kind.remove(device_context(context, instance, name, config, {}))
        except (CorralError, OSError):
            log.exception("Failed to remove device %s of %s", name, instance.storage_name)
