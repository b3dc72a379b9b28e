"""/1.0/instances/NAME/rebuild."""

from corral.api.instances import InstanceRebuildPost
from corral.server.instances import rebuild
from corral.server.operations.model import Operation
from corral.server.rest.request import Request
from corral.server.rest.routes.instances import load, resources
from corral.server.rest.routing import Routes

routes = Routes("/1.0/instances")


@routes.post("/{name}/rebuild")
async def rebuild_instance(request: Request, name: str, body: InstanceRebuildPost) -> Operation:
    """Make a stopped instance anew from an image, or empty; its configuration and devices stay."""
    instance = await load(request, name)
    plan = await rebuild.plan_rebuild(request.context, instance, body.source)
    return request.start_on(
        resources(request, name, container=instance.is_container),
        "Rebuilding instance",
        rebuild.rebuild_instance,
        instance,
        plan,
    )
