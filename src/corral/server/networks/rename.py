"""Renames a network that nobody uses."""

import dataclasses
import shutil
from pathlib import Path

from corral.api.urls import url
from corral.errors import AlreadyExists, InvalidRequest
from corral.server.context import Context
from corral.server.db import nics
from corral.server.events.model import Lifecycle
from corral.server.host.threads import in_thread
from corral.server.networks import store
from corral.server.networks.guard import Guard
from corral.server.networks.model import NetworkStatus
from corral.server.networks.registry import driver_of
from corral.server.networks.site import site_of
from corral.server.rollback import Rollback


async def rename_network(context: Context, project: str, name: str, new_name: str) -> None:
    """Stop the network, move its files and start it under its new name; when that fails, it is as before."""
    if not new_name:
        raise InvalidRequest("New network name not provided")
    site = site_of(context.member)
    guard = context.parts[Guard]
    async with context.locks.hold("networks"):
        old = await context.db.read(store.get_network, project, name)
        new = dataclasses.replace(old, name=new_name)
        driver = driver_of(old.type)
        if old.status is not NetworkStatus.CREATED:
            raise InvalidRequest("Cannot rename network when not in created state")
        driver.check_name(new_name)
        if (await context.db.read(nics.list_network_users)).get((project, name)):
            raise InvalidRequest("Network is currently in use")
        if await context.db.read(store.find_network, project, new_name) is not None:
            raise AlreadyExists(f'Network "{new_name}" already exists')
        await driver.check_free(new_name, new.config)
        async with Rollback() as undo:
            guard.forget(old)
            undo.add(guard.watch, old)
            undo.add(driver.start, site, old)
            await driver.stop(site, old)
            await in_thread(_move, site.directory(name), site.directory(new_name))
            undo.add(in_thread, _move, site.directory(new_name), site.directory(name))
            await context.db.write(store.rename_network, old.id, new_name)
            undo.add(context.db.write, store.rename_network, old.id, name)
            undo.add(driver.stop, site, new)
            await driver.start(site, new)
            undo.commit()
        guard.watch(new)
    source = url("/1.0/networks", new_name, project=project)
    context.events.publish(Lifecycle("network-renamed", source, project, {"old_name": name}))


def _move(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    if source.exists():
        source.rename(target)
