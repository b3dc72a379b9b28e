"""The events of the guest API: what changed of a running instance that its guest may know, told to the guest."""

import asyncio
from collections.abc import Mapping
from typing import Any

from corral.server.context import Context
from corral.server.events.bus import Listener
from corral.server.events.model import format_time, utc_now
from corral.server.instances import expand
from corral.server.instances.guest import guests
from corral.server.instances.model import Devices, Instance

TYPES = frozenset({"config", "device"})
QUEUE_LENGTH = 256
"""A guest that is so many events behind is cut off."""


class GuestEvents:
    """The guests that listen, by instance. One part of the daemon."""

    def __init__(self) -> None:
        self._listeners: dict[int, set[Listener]] = {}

    def listen(self, instance_id: int, types: frozenset[str]) -> Listener:
        """Start to listen to the events of an instance."""
        listener = Listener(types, None, asyncio.Queue(QUEUE_LENGTH))
        self._listeners.setdefault(instance_id, set()).add(listener)
        return listener

    def leave(self, instance_id: int, listener: Listener) -> None:
        """Stop listening."""
        listeners = self._listeners.get(instance_id, set())
        listeners.discard(listener)
        if not listeners:
            self._listeners.pop(instance_id, None)

    def wants(self, instance_id: int) -> bool:
        """Whether the guest listens."""
        return instance_id in self._listeners

    def publish(self, instance_id: int, kind: str, metadata: Mapping[str, Any]) -> None:
        """Hand an event to the listeners of an instance; never blocks and never fails."""
        event = {"type": kind, "timestamp": format_time(utc_now()), "metadata": metadata}
        for listener in list(self._listeners.get(instance_id, ())):
            if kind in listener.types and not listener.put(event):
                self.leave(instance_id, listener)

    def end(self, instance_id: int) -> None:
        """Tell the listeners of one instance that nothing more will come."""
        for listener in self._listeners.pop(instance_id, ()):
            listener.end()

    def close(self) -> None:
        """Tell all listeners that the daemon ends."""
        for instance_id in list(self._listeners):
            self.end(instance_id)


def publish(context: Context, old: Instance, new: Instance, devices: tuple[list[str], list[str], list[str]]) -> None:
    """Tell the guest of a running instance what changed; `devices` are the names of removed, updated and added ones."""
    events = context.parts[GuestEvents]
    if not events.wants(new.id):
        return
    for message in config_changes(old.expanded_config, new.expanded_config):
        events.publish(new.id, "config", message)
    for message in device_changes(old.expanded_devices, new.expanded_devices, devices):
        events.publish(new.id, "device", message)
    if not guests.is_offered(new.expanded_config):
        events.end(new.id)


def config_changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[dict[str, str]]:
    """The changes of keys that the guest may read."""
    return [
        {"key": key, "old_value": before.get(key, ""), "value": after.get(key, "")}
        for key in expand.changed_keys(before, after)
        if guests.is_readable(key)
    ]


def device_changes(
    before: Devices, after: Devices, names: tuple[list[str], list[str], list[str]]
) -> list[dict[str, Any]]:
    """The removed, updated and added devices, in this order."""
    removed, updated, added = names
    return [
        *({"action": "removed", "name": name, "config": before[name]} for name in removed),
        *({"action": "updated", "name": name, "config": after[name]} for name in updated),
        *({"action": "added", "name": name, "config": after[name]} for name in added),
    ]
