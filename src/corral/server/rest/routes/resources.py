"""/1.0/resources: the hardware of the server."""

from corral.api.resources import Resources
from corral.server.hardware import resources
from corral.server.host.threads import in_thread
from corral.server.rest.request import Request
from corral.server.rest.routing import Routes

routes = Routes("/1.0/resources")


@routes.get("")
async def get_resources(request: Request) -> Resources:
    """Get the hardware of the server."""
    return await in_thread(resources.read_resources)
