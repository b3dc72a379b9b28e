"""Networks as the API shows them: the managed ones, and the interfaces of the host beside them."""

from pathlib import Path

from corral.api import networks as wire
from corral.errors import NotFound
from corral.server.context import Context
from corral.server.db import nics
from corral.server.host.network.netlink import Netlink
from corral.server.host.network.rtnetlink import Link
from corral.server.host.threads import in_thread
from corral.server.networks import store
from corral.server.networks.guard import Guard
from corral.server.networks.model import Network

Users = dict[tuple[str, str], list[str]]


async def list_networks(context: Context, project: str) -> list[wire.Network]:
    """The managed networks of a project; in the default one also the interfaces of the host, without veth pairs."""
    managed = await context.db.read(store.list_networks, project)
    users = await context.db.read(nics.list_network_users)
    shown = [_managed(context, network, users) for network in managed]
    if project == "default":
        names = {network.name for network in managed}
        links = await in_thread(_list_links)
        shown += [_unmanaged(link, users) for link in links if link.name not in names]
    return shown


async def get_network(context: Context, project: str, name: str) -> wire.Network:
    """One of them, or NotFound."""
    users = await context.db.read(nics.list_network_users)
    network = await context.db.read(store.find_network, project, name)
    if network is not None:
        return _managed(context, network, users)
    links = await in_thread(_list_links) if project == "default" else []
    for link in links:
        if link.name == name:
            return _unmanaged(link, users)
    raise NotFound("Network not found")


def _managed(context: Context, network: Network, users: Users) -> wire.Network:
    return wire.Network(
        name=network.name,
        type=network.type,
        description=network.description,
        config=network.config,
        managed=True,
        status=context.parts[Guard].status_of(network),
        locations=[context.member.location],
        used_by=users.get((network.project, network.name), []),
    )


def _unmanaged(link: Link, users: Users) -> wire.Network:
    kind = type_of(link)
    used_by = users.get(("default", link.name), []) if kind != "loopback" else []
    return wire.Network(name=link.name, type=kind, used_by=used_by)


def type_of(link: Link) -> str:
    """The word of the API for an interface of the host."""
    if link.type == "loopback":
        return "loopback"
    if link.kind in ("bridge", "vlan", "bond"):
        return link.kind
    if link.kind == "openvswitch":
        return "bridge"
    return "physical" if Path(f"/sys/class/net/{link.name}/device").exists() else "unknown"


def _list_links() -> list[Link]:
    with Netlink() as host:
        return [link for link in host.list_links() if not link.name.startswith("veth")]
