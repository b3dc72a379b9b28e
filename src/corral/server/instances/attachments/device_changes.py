"""Changes of an instance's devices: out of a running container and into it, undone on failure, finished after kills."""

import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from corral.errors import CorralError, InvalidRequest, NotSupported
from corral.server.context import Context
from corral.server.devices import registry
from corral.server.devices.model import HotPluggable
from corral.server.devices.nic import veth
from corral.server.host.threads import in_thread
from corral.server.instances import expand, running, store
from corral.server.instances.attachments import attach, device_journal
from corral.server.instances.attachments.device_journal import Journal
from corral.server.instances.limits import live
from corral.server.instances.model import DEFAULT_PROJECT, Devices, Instance, devices_dir
from corral.server.networks.model import NetworkType
from corral.server.networks.store import list_networks
from corral.server.rollback import Rollback

log = logging.getLogger(__name__)

NIC_TYPES = {NetworkType.BRIDGE: "bridged"}
"""The `nictype` of NICs of a network, where it is not the network's type."""


@dataclass(frozen=True, slots=True)
class DeviceChanges:
    """Names of devices; what is replaced is among the removed and the added."""

    removed: list[str]
    added: list[str]
    updated: list[str]


def plan(old: Instance, new: Instance) -> DeviceChanges:
    """Which devices go, come and change in place; a change that is not live is a removal and an addition."""
    removed, added, changed = expand.changed_devices(old.expanded_devices, new.expanded_devices)
    updated = []
    for name in changed:
        before, after = old.expanded_devices[name], new.expanded_devices[name]
        kind = registry.find(after)
        live_only = kind is not None and kind is registry.find(before)
        if live_only and kind is not None and set(expand.changed_keys(before, after)) <= kind.live_keys:
            updated.append(name)
        else:
            removed.append(name)
            added.append(name)
    leaving, devices = _in_order(removed, old.expanded_devices)[::-1], new.expanded_devices
    return DeviceChanges(leaving, _in_order(added, devices), _in_order(updated, devices))


def _in_order(names: list[str], devices: Devices) -> list[str]:
    """The order in which devices are attached: of what is mounted, parents come first."""
    return sorted(names, key=lambda name: registry.sort_key((name, devices[name])))


async def forget(
    context: Context, old: Instance, new: Instance, changes: DeviceChanges, config: Mapping[str, str]
) -> tuple[dict[str, str], Instance]:
    """A config, and the instance as it will be, without what devices that go or become others remember."""
    networks: dict[str, NetworkType] = {}
    if any(old.expanded_devices[name].get("type") == "nic" for name in changes.removed if name in changes.added):
        networks = {one.name: one.type for one in await context.db.read(list_networks, DEFAULT_PROJECT)}
    wanted = volatile_to_forget(old, new, changes, networks)
    gone = {key for key in wanted if config.get(key) == old.config.get(key)}
    kept = {key: value for key, value in config.items() if key not in gone}
    expanded = {key: value for key, value in new.expanded_config.items() if key not in gone}
    # What they prepare anew must not take the old values for its own.
    own = {key: value for key, value in new.config.items() if key not in gone}
    return kept, replace(new, config=own, expanded_config=expanded)


def volatile_to_forget(
    old: Instance, new: Instance, changes: DeviceChanges, networks: Mapping[str, NetworkType]
) -> list[str]:
    """The volatile keys that go with devices that go, or that their new config replaces.

    A NIC stays what it is where it comes by its kind in another way: as the bridge of a network, by name.
    """
    gone = []
    for name in changes.removed:
        prefix = f"volatile.{name}."
        before, after = old.expanded_devices[name], new.expanded_devices.get(name, {})
        same = after and _kind_of(before, networks) == _kind_of(after, networks)
        for key in old.config:
            if key.startswith(prefix) and (not same or key.removeprefix(prefix) in after):
                gone.append(key)
    return gone


def _kind_of(config: Mapping[str, str], networks: Mapping[str, NetworkType]) -> tuple[str, str]:
    network = networks.get(config.get("network", ""))
    nictype = config.get("nictype", "") if network is None else NIC_TYPES.get(network, network.value)
    return config.get("type", ""), nictype


def with_what_runs(old: Mapping[str, str], wanted: Mapping[str, str]) -> dict[str, str]:
    """A config with what the devices of a running container remember of its run: a client that read it earlier, and
    does not ask whether it is still so, must not replace that. Pure."""
    kept = {key: value for key, value in wanted.items() if not attach.is_of_one_run(key)}
    return kept | {key: value for key, value in old.items() if attach.is_of_one_run(key)}


@dataclass(slots=True)
class Note:
    """The note of a change that is under way; none where the instance does not run."""

    directory: Path | None = None
    journal: Journal | None = None

    async def prepared(self, volatile: Mapping[str, str | None]) -> dict[str, str | None]:
        """Note what the devices that come will remember; returns it with names for new interfaces of the host."""
        if self.directory is None or self.journal is None or not self.journal.after:
            return dict(volatile)
        nics = [name for name, config in self.journal.after.items() if config.get("type") == "nic"]
        values = {**volatile, **{f"volatile.{name}.host_name": veth.new_host_name() for name in nics}}
        known = {**self.journal.volatile_after, **device_journal.of_devices(values, self.journal.names)}
        self.journal = replace(self.journal, volatile_after=known, prepared=True)
        await in_thread(device_journal.write, self.directory, self.journal)
        return values


@contextlib.asynccontextmanager
async def noted(context: Context, old: Instance, new: Instance, changes: DeviceChanges) -> AsyncIterator[Note]:
    """Note a change of a running container for as long as the block lasts."""
    if running.find(context, old) is None:
        yield Note()
        return
    directory, journal = devices_dir(context.member, old), compose_journal(old, new, changes)
    await in_thread(device_journal.write, directory, journal)
    try:
        yield Note(directory, journal)
    finally:
        await in_thread(device_journal.remove, directory)


def compose_journal(old: Instance, new: Instance, changes: DeviceChanges) -> Journal:
    """The note of a change. Pure."""
    names = {*changes.removed, *changes.added, *changes.updated}

    def pick(instance: Instance, wanted: list[str]) -> dict[str, dict[str, str]]:
        return {name: dict(instance.expanded_devices[name]) for name in wanted}

    return Journal(
        before=pick(old, changes.removed),
        after=pick(new, changes.added),
        updated_before=pick(old, changes.updated),
        updated_after=pick(new, changes.updated),
        volatile_before=device_journal.of_devices(old.config, names),
        volatile_after=device_journal.of_devices(new.config, names),
        keys=expand.changed_keys(old.expanded_config, new.expanded_config),
    )


async def apply(
    context: Context, old: Instance, new: Instance, changes: DeviceChanges, note: Note, undo: Rollback
) -> dict[str, str]:
    """Take devices out and in, in a running container at once; returns new volatile keys."""
    container = running.find(context, old)
    if container is not None:
        for name in changes.removed:
            await _unplug(context, old, name)
            undo.add(_plug_again, context, old, name)
    undo.add(attach.reserve_again, context, old, changes.removed)
    await attach.remove_all(context, old, changes.removed)
    made = await attach.prepare(context, new, changes.added)
    await attach.reserve(context, new, changes.added, made)
    if container is not None:
        volatile = await note.prepared(made)
        for name in changes.added:
            made.update(await _plug(context, new, name, volatile, undo))
    for name in changes.updated:
        kind, before, after = registry.get(new.expanded_devices[name]), old.expanded_devices[name], dict(made)
        undo.add(kind.update, attach.device_context(context, old, name, before, {}), new.expanded_devices[name])
        with _said_of(name, "change"):
            await kind.update(attach.device_context(context, new, name, new.expanded_devices[name], after), before)
    return {key: value for key, value in made.items() if value}


async def _plug(
    context: Context, new: Instance, name: str, volatile: Mapping[str, str | None], undo: Rollback
) -> dict[str, str | None]:
    config = new.expanded_devices[name]
    kind = registry.get(config)
    if not isinstance(kind, HotPluggable):
        if config.get("type") == "none" or config.get("path") == "/":
            return {}
        raise NotSupported(
            f'Device "{name}" cannot be added while the instance is running: stop it first (lxc stop {new.name})'
        )
    surroundings = attach.device_context(context, new, name, config, volatile)
    with _said_of(name, "start"):
        values = await kind.plug(surroundings)
    undo.add(kind.unplug, attach.device_context(context, new, name, config, {**volatile, **_whole(name, values)}))
    return _whole(name, values)


def _whole(name: str, values: Mapping[str, str | None]) -> dict[str, str | None]:
    return {f"volatile.{name}.{key}": value for key, value in values.items()}


async def _unplug(context: Context, old: Instance, name: str) -> None:
    config = old.expanded_devices[name]
    kind = registry.find(config)
    if kind is None or config.get("type") == "none":
        return
    if not isinstance(kind, HotPluggable):
        if config.get("path") == "/":
            return
        raise NotSupported(
            f'Device "{name}" cannot be removed while the instance is running: stop it first (lxc stop {old.name})'
        )
    with _said_of(name, "stop"):
        await kind.unplug(attach.device_context(context, old, name, config, {}))


@contextlib.contextmanager
def _said_of(name: str, verb: str) -> Iterator[None]:
    """Tell what the kernel refuses as an error of the device."""
    try:
        yield
    except OSError as error:
        raise InvalidRequest(f'Failed to {verb} device "{name}": {error.strerror or error}') from error


async def _plug_again(context: Context, instance: Instance, name: str) -> None:
    """Put a device that the record has into the running container, where it is not any more."""
    kind = registry.find(instance.expanded_devices[name])
    if running.find(context, instance) is None or not isinstance(kind, HotPluggable):
        return
    host_name = {f"volatile.{name}.host_name": veth.new_host_name()}
    volatile = host_name if instance.expanded_devices[name].get("type") == "nic" else {}
    values = await kind.plug(attach.device_context(context, instance, name, instance.expanded_devices[name], volatile))
    if values:
        await context.db.write(store.set_config, instance.id, _whole(name, values))


async def finish(context: Context, instance: Instance) -> None:
    """Bring a running container in line with its record, where a daemon died while it changed the one by the other."""
    directory = devices_dir(context.member, instance)
    journal = await in_thread(device_journal.find, directory)
    container = running.find(context, instance)
    if journal is None or container is None:
        return
    log.warning("A change of container %s was cut short: it is made to agree with its record", instance.storage_name)
    for name, config, volatile in journal.plugged:
        await _try(instance, name, _take_out(context, instance, name, config, volatile))
    devices = instance.expanded_devices
    present = _in_order([name for name in journal.names if name in devices], devices)
    await attach.reserve_again(context, instance, present)
    for name in present:
        await _try(instance, name, _plug_again(context, instance, name))
    for name in journal.updated_before:
        if name in instance.expanded_devices:
            await _try(instance, name, _update(context, instance, name, journal))
    await _try(instance, "limits", live.apply_config(context, instance, container, journal.keys))
    await in_thread(device_journal.remove, directory)


async def _try(instance: Instance, what: str, step: Awaitable[None]) -> None:
    try:
        await step
    except (CorralError, OSError):
        log.exception("%s of %s could not be brought in order", what, instance.storage_name)


async def _take_out(
    context: Context, instance: Instance, name: str, config: Mapping[str, str], volatile: Mapping[str, str]
) -> None:
    kind = registry.find(config)
    if isinstance(kind, HotPluggable):
        surroundings = attach.device_context(context, instance, name, config, volatile)
        await kind.unplug(surroundings)
        if name not in instance.expanded_devices:
            await registry.get(config).remove(surroundings)


async def _update(context: Context, instance: Instance, name: str, journal: Journal) -> None:
    config = instance.expanded_devices[name]
    other = journal.updated_before[name] if config == journal.updated_after[name] else journal.updated_after[name]
    await registry.get(config).update(attach.device_context(context, instance, name, config, {}), other)
