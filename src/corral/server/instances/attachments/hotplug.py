"""Devices that come and go on the host while instances run: watched for, and brought into the instances or out."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable

from corral.errors import CorralError
from corral.server.background import Background
from corral.server.context import Context
from corral.server.devices import registry
from corral.server.devices.model import Watching
from corral.server.host import uevents
from corral.server.host.filesystems.inotify import Watcher
from corral.server.instances import busy, running, store
from corral.server.instances.attachments import attach
from corral.server.instances.model import Instance

log = logging.getLogger(__name__)

SETTLE_S = 0.02
"""News come in bursts: the devices are looked at when there was none for this long."""


class Followers:
    """The running instances with devices that follow the host, and what is watched for them. One part of the daemon."""

    def __init__(self, start: Callable[[], object]) -> None:
        self._start = start
        self._paths: dict[int, set[str]] = {}
        self._watcher: Watcher | None = None
        self._uevents: socket.socket | None = None

    @property
    def instance_ids(self) -> list[int]:
        """The instances that follow something."""
        return list(self._paths)

    def follow(self, instance_id: int, paths: set[str] | None) -> None:
        """Watch for an instance from now on; None for one that follows nothing."""
        if paths is None:
            if self._paths.pop(instance_id, None) is None:
                return
        else:
            self._paths[instance_id] = paths
        self.rewatch()

    def rewatch(self) -> None:
        """Watch the directories that exist now."""
        if not self._paths:
            self.close()
            return
        loop = asyncio.get_running_loop()
        if self._watcher is None:
            self._watcher = Watcher()
            loop.add_reader(self._watcher.fd, self._on_change)
        if self._uevents is None:
            with contextlib.suppress(OSError):
                self._uevents = uevents.open_monitor()
                loop.add_reader(self._uevents.fileno(), self._on_uevent)
        try:
            self._watcher.watch({path for paths in self._paths.values() for path in paths})
        except OSError as error:
            log.warning("Device files cannot be watched: %s", error)

    def close(self) -> None:
        """Watch nothing any more."""
        loop = asyncio.get_running_loop()
        if self._watcher is not None:
            loop.remove_reader(self._watcher.fd)
            self._watcher.close()
            self._watcher = None
        if self._uevents is not None:
            loop.remove_reader(self._uevents.fileno())
            self._uevents.close()
            self._uevents = None

    def _on_change(self) -> None:
        if self._watcher is not None:
            self._watcher.drain()
            self._start()

    def _on_uevent(self) -> None:
        if self._uevents is not None and uevents.drain_monitor(self._uevents):
            self._start()


def add_part(context: Context) -> None:
    """Make the part that watches."""
    pending: list[asyncio.Task[None]] = []

    async def settle() -> None:
        await asyncio.sleep(SETTLE_S)
        pending.clear()
        await refresh_all(context)

    def start() -> None:
        if not pending:
            pending.append(context.parts[Background].start("hotplug of devices", settle()))

    context.parts.add(Followers(start))


def follow(context: Context, instance: Instance) -> None:
    """Watch for what the devices of an instance follow, while it runs."""
    paths: set[str] = set()
    follows = False
    if running.find(context, instance) is not None:
        for config in instance.expanded_devices.values():
            kind = registry.find(config)
            watched = kind.watched_paths(config) if isinstance(kind, Watching) else None
            if watched is not None:
                follows = True
                paths.update(watched)
    context.parts[Followers].follow(instance.id, paths if follows else None)


async def refresh_all(context: Context) -> None:
    """Bring all instances that follow the host in line with it."""
    followers = context.parts[Followers]
    followers.rewatch()
    for instance_id in followers.instance_ids:
        async with busy.claim_after_all(context, instance_id):
            instance = await context.db.read(store.find_instance, instance_id)
            if instance is not None and running.find(context, instance) is not None:
                await _refresh(context, instance)


async def _refresh(context: Context, instance: Instance) -> None:
    for name, config in sorted(instance.expanded_devices.items(), key=registry.sort_key):
        kind = registry.find(config)
        if not isinstance(kind, Watching) or kind.watched_paths(config) is None:
            continue
        try:
            await kind.refresh(attach.device_context(context, instance, name, config, {}))
        except (CorralError, OSError) as error:
            log.warning("Device %s of %s could not follow the host: %s", name, instance.storage_name, error)
