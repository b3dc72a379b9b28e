"""/1.0/network-allocations."""

from corral.api.networks import NetworkAllocations
from corral.server.networks import allocations
from corral.server.projects import store as projects
from corral.server.rest.request import Request
from corral.server.rest.routing import Routes

routes = Routes("/1.0/network-allocations")


@routes.get("")
async def list_allocations(request: Request) -> list[NetworkAllocations]:
    """List the addresses that networks and instances hold."""
    if not request.all_projects:
        return await allocations.list_allocations(request.context, request.requested_project)
    found: list[NetworkAllocations] = []
    for project in await request.db.read(projects.list_projects):
        if request.caller.may_see(project.name):
            found += await allocations.list_allocations(request.context, project.name)
    return found
