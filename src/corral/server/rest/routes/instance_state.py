"""/1.0/instances/NAME/state."""

from corral.api.instances import InstanceState, InstanceStatePut
from corral.server.instances import bulk, state
from corral.server.operations.model import Operation
from corral.server.rest.request import Request
from corral.server.rest.routes.instances import load, resources
from corral.server.rest.routing import Routes

routes = Routes("/1.0/instances")


@routes.get("/{name}/state")
async def get_state(request: Request, name: str) -> InstanceState:
    """Get what an instance does and uses."""
    instance = await load(request, name)
    return (await state.get_states(request.context, [instance]))[instance.id]


@routes.put("/{name}/state")
async def change_state(request: Request, name: str, body: InstanceStatePut) -> Operation:
    """Start, stop, restart, freeze or unfreeze an instance."""
    description = bulk.describe(body.action)
    await load(request, name)
    return request.start_on(resources(request, name), description, bulk.change_state, request.project, name, body)
