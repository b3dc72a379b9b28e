"""Changes a network's description and configuration while it works."""

import dataclasses
import random

from corral.api.networks import NetworkPut
from corral.api.urls import url
from corral.errors import InvalidRequest
from corral.server.context import Context
from corral.server.db import nics
from corral.server.events.model import Lifecycle
from corral.server.networks import keys, problems, reservations, store
from corral.server.networks.create import check_parent_unused, list_taken_subnets
from corral.server.networks.guard import Guard
from corral.server.networks.model import Network, NetworkChanged, NetworkStatus, NetworkType
from corral.server.networks.registry import driver_of
from corral.server.networks.site import site_of
from corral.server.rollback import Rollback

_random = random.SystemRandom()


async def update_network(context: Context, project: str, name: str, body: NetworkPut) -> None:
    """Make the network what the body says; when that fails, it is again what it was."""
    async with context.locks.hold("networks"):
        old = await context.db.read(store.get_network, project, name)
        if old.status is not NetworkStatus.CREATED:
            raise InvalidRequest("Cannot update network global config when not in created state")
        driver = driver_of(old.type)
        config = {key: value for key, value in (body.config or {}).items() if value != ""}
        keys.validate(driver.keys, name, config)
        config = driver.resolve(config, await list_taken_subnets(context), _random)
        driver.check(name, config)
        await _check_parent(context, old, config)
        new = dataclasses.replace(old, description=body.description, config=config)
        changed = {key for key in {*old.config, *config} if old.config.get(key) != config.get(key)}
        async with Rollback() as undo:
            undo.add(context.db.write, store.update_network, old.id, old.description, old.config)
            await context.db.write(store.update_network, new.id, new.description, new.config)
            if any(not key.startswith("user.") for key in changed):
                undo.add(_work_by, context, old, new)
                await _work_by(context, new, old)
            undo.commit()
        await problems.report(context, new)
    if changed:
        await context.events.react(NetworkChanged(new, frozenset(changed)))
    context.events.publish(Lifecycle("network-updated", url("/1.0/networks", name, project=project), project))


async def _work_by(context: Context, network: Network, before: Network) -> None:
    await reservations.rebuild(context, network)
    await driver_of(network.type).start(site_of(context.member), network, before.config)
    context.parts[Guard].watch(network)


async def _check_parent(context: Context, old: Network, config: dict[str, str]) -> None:
    if old.type is not NetworkType.PHYSICAL:
        return
    if any(old.config.get(key) != config.get(key) for key in ("parent", "vlan")):
        users = await context.db.read(nics.list_network_users)
        if users.get((old.project, old.name)):
            raise InvalidRequest("Cannot update network parent interface when in use")
        await context.db.read(check_parent_unused, old.name, old.type, config)
