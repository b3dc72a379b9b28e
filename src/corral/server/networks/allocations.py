"""The addresses that networks and instances hold, as a project sees them."""

import ipaddress
from collections.abc import Iterator

from corral.api import networks as wire
from corral.api.urls import url
from corral.server.context import Context
from corral.server.keys import Config
from corral.server.networks import keys, leases, store
from corral.server.networks.model import Network, NetworkType
from corral.server.projects import store as projects
from corral.units import is_true

_HELD_BY_INSTANCES = frozenset({"static", "dynamic"})


async def list_allocations(context: Context, project: str) -> list[wire.NetworkAllocations]:
    """What a project's own networks and its instances hold, also on networks that it uses of the default project."""
    owner = (await context.db.read(projects.get_project, project)).owner_of("features.networks")
    found: list[wire.NetworkAllocations] = []
    for network in await context.db.read(store.list_networks, owner):
        if network.type is not NetworkType.BRIDGE:
            continue
        if owner == project:
            found += _of_network(network)
        for lease in await leases.list_leases(context, owner, network.name, project):
            if lease.type in _HELD_BY_INSTANCES:
                found.append(_of_lease(network, lease, project))
    return found


def _of_network(network: Network) -> Iterator[wire.NetworkAllocations]:
    for key in (keys.IPV4_ADDRESS, keys.IPV6_ADDRESS):
        address = Config(network.config)[key]
        if isinstance(address, ipaddress.IPv4Interface | ipaddress.IPv6Interface):
            yield wire.NetworkAllocations(
                addresses=str(address),
                used_by=url("/1.0/networks", network.name, project=network.project),
                type="network",
                nat=_has_nat(network, address.version),
                hwaddr="",
            )


def _of_lease(network: Network, lease: wire.NetworkLease, project: str) -> wire.NetworkAllocations:
    address = ipaddress.ip_address(lease.address)
    return wire.NetworkAllocations(
        addresses=f"{address}/{address.max_prefixlen}",
        used_by=url("/1.0/instances", lease.hostname, project=project),
        type="instance",
        nat=_has_nat(network, address.version),
        hwaddr=lease.hwaddr,
    )


def _has_nat(network: Network, version: int) -> bool:
    return is_true(network.config.get(f"ipv{version}.nat"))
