"""/1.0/networks."""

from corral.api import networks as wire
from corral.api.urls import url
from corral.errors import Forbidden, NotFound
from corral.server.networks import create, delete, leases, rename, show, state, update
from corral.server.projects import restrictions
from corral.server.projects import store as projects
from corral.server.rest.request import Request
from corral.server.rest.responses import Created, Listing
from corral.server.rest.routing import Routes

routes = Routes("/1.0/networks", feature="features.networks")


@routes.get("")
async def list_networks(request: Request) -> Listing[wire.Network]:
    """List the networks and the interfaces of the host."""
    project = await request.db.read(projects.get_project, request.requested_project)
    found = [
        network
        for network in await show.list_networks(request.context, request.project)
        if restrictions.allows_network(project, network.name, managed=network.managed)
    ]
    if not request.caller.admin:
        for network in found:
            network.config = {}
    return Listing(found, url=lambda network: url("/1.0/networks", network.name))


async def _find(request: Request, name: str) -> wire.Network:
    """A network that the project may see, or NotFound."""
    project = await request.db.read(projects.get_project, request.requested_project)
    found = await show.get_network(request.context, request.project, name)
    if not restrictions.allows_network(project, name, managed=found.managed):
        raise NotFound("Network not found")
    return found


@routes.post("")
async def create_network(request: Request, body: wire.NetworksPost) -> Created:
    """Create a network."""
    project = await request.db.read(projects.get_project, request.requested_project)
    if not restrictions.allows_network(project, body.name, managed=True):
        raise Forbidden("Network not allowed in project")
    await create.create_network(request.context, request.project, body)
    return Created(url("/1.0/networks", body.name, project=request.project))


@routes.get("/{name}", put=wire.NetworkPut)
async def get_network(request: Request, name: str) -> wire.Network:
    """Get a network."""
    network = await _find(request, name)
    if not request.caller.admin:
        # Secrets may be in it.
        network.config = {}
    return network


@routes.put("/{name}")
async def update_network(request: Request, name: str, body: wire.NetworkPut) -> None:
    """Update a network."""
    await _find(request, name)
    await update.update_network(request.context, request.project, name, body)


@routes.post("/{name}")
async def rename_network(request: Request, name: str, body: wire.NetworkPost) -> Created:
    """Rename a network."""
    await _find(request, name)
    await rename.rename_network(request.context, request.project, name, body.name)
    return Created(url("/1.0/networks", body.name, project=request.project))


@routes.delete("/{name}")
async def delete_network(request: Request, name: str) -> None:
    """Delete a network."""
    await _find(request, name)
    await delete.delete_network(request.context, request.project, name)


@routes.get("/{name}/leases")
async def list_leases(request: Request, name: str) -> list[wire.NetworkLease]:
    """List the addresses in use on a network."""
    await _find(request, name)
    return await leases.list_leases(request.context, request.project, name, request.requested_project)


@routes.get("/{name}/state")
async def get_network_state(request: Request, name: str) -> wire.NetworkState:
    """Get the state of a network's interface."""
    await _find(request, name)
    return await state.get_state(request.context, request.project, name)
