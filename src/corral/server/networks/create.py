"""Creates a network."""

import random
import shutil
from collections.abc import Mapping

from corral.api.networks import NetworksPost
from corral.api.urls import url
from corral.errors import AlreadyExists, Conflict, InvalidRequest
from corral.server.context import Context
from corral.server.db.database import Tx
from corral.server.events.model import Lifecycle
from corral.server.host.network.netlink import Netlink
from corral.server.host.threads import in_thread
from corral.server.keys import Config
from corral.server.networks import keys, problems, reservations, store
from corral.server.networks.addresses import Subnet, parse_subnet
from corral.server.networks.guard import Guard
from corral.server.networks.model import Network, NetworkStatus, NetworkType
from corral.server.networks.registry import driver_of, parse_type
from corral.server.networks.site import site_of
from corral.server.projects import permissions
from corral.server.rollback import Rollback

_random = random.SystemRandom()


async def create_network(context: Context, project: str, body: NetworksPost) -> None:
    """Choose what is left to choose, write the network and make it work; all or nothing."""
    name, config = body.name, body.config or {}
    if not name:
        raise InvalidRequest("No name provided")
    kind = parse_type(body.type or (NetworkType.BRIDGE if project == "default" else NetworkType.OVN))
    driver = driver_of(kind)
    driver.check_name(name)
    if project != "default":
        raise InvalidRequest("Network type does not support non-default projects")
    keys.validate(driver.keys, name, config)
    site = site_of(context.member)
    async with context.locks.hold("networks"):
        if await context.db.read(store.find_network, project, name) is not None:
            raise AlreadyExists("The network already exists")
        config = driver.fill(config, await list_taken_subnets(context), _random)
        driver.check(name, config)
        await driver.check_free(name, config)
        await context.db.read(check_parent_unused, name, kind, config)
        async with Rollback() as undo:
            network = await context.db.write(_insert, project, name, kind, body.description, config)
            undo.add(context.db.write, store.delete_network, network.id)
            undo.add(in_thread, shutil.rmtree, site.directory(name), ignore_errors=True)
            undo.add(driver.stop, site, network)
            await reservations.rebuild(context, network)
            await driver.start(site, network)
            await context.db.write(store.set_status, network.id, NetworkStatus.CREATED)
            undo.commit()
        context.parts[Guard].watch(network)
        await problems.report(context, network)
    context.events.publish(Lifecycle("network-created", url("/1.0/networks", name, project=project), project))


def _insert(tx: Tx, project: str, name: str, kind: NetworkType, description: str, config: Mapping[str, str]) -> Network:
    network = store.insert_network(tx, project, name, kind, description, config)
    permissions.check_networks(tx, project)
    return network


async def list_taken_subnets(context: Context) -> list[Subnet]:
    """The subnets that a new network must keep away from: all routes of the host and all managed networks."""
    taken = await in_thread(_list_routed_subnets)
    for network in await context.db.read(store.list_networks):
        for key in (keys.IPV4_ADDRESS, keys.IPV6_ADDRESS):
            gateway = Config(network.config)[key]
            if gateway is not None:
                taken.append(gateway.network)
    return taken


def _list_routed_subnets() -> list[Subnet]:
    with Netlink() as host:
        destinations = {route.destination for route in host.list_routes() if route.destination != "default"}
    return [parse_subnet(destination, 6 if ":" in destination else 4) for destination in destinations]


def check_parent_unused(tx: Tx, name: str, kind: NetworkType, config: Mapping[str, str]) -> None:
    """Raise Conflict where a physical network would share its interface with another network."""
    if kind is not NetworkType.PHYSICAL:
        return
    for other in store.list_networks(tx, "default"):
        if other.name == name or other.config.get("parent") != config.get("parent"):
            continue
        vlans = (other.config.get("vlan"), config.get("vlan"))
        if not all(vlans) or vlans[0] == vlans[1]:
            raise Conflict(f'Parent interface "{config["parent"]}" in use by another network: "{other.name}"')
