"""Deletes a network."""

import shutil

from corral.api.urls import url
from corral.errors import InvalidRequest
from corral.server.context import Context
from corral.server.db import nics
from corral.server.events.model import Lifecycle
from corral.server.host.threads import in_thread
from corral.server.networks import store
from corral.server.networks.guard import Guard
from corral.server.networks.model import Network
from corral.server.networks.registry import DRIVERS
from corral.server.networks.site import site_of


async def delete_network(context: Context, project: str, name: str) -> None:
    """Take a network that nobody uses away from the host and from the database."""
    async with context.locks.hold("networks"):
        network = await context.db.read(store.get_network, project, name)
        users = await context.db.read(nics.list_network_users)
        if users.get((project, name)):
            raise InvalidRequest("The network is currently in use")
        await remove(context, network)
    context.events.publish(Lifecycle("network-deleted", url("/1.0/networks", name, project=project), project))


async def remove(context: Context, network: Network) -> None:
    """Remove all that there is of a network, also of one that was only half made. The caller holds the lock."""
    site = site_of(context.member)
    context.parts[Guard].forget(network)
    driver = DRIVERS.get(network.type)
    if driver is not None:
        await driver.stop(site, network)
    await in_thread(shutil.rmtree, site.directory(network.name), ignore_errors=True)
    await context.db.write(store.delete_network, network.id)
