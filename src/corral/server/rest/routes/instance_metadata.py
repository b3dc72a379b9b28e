"""/1.0/instances/NAME/metadata and its templates."""

from aiohttp import web

from corral.api.instances import InstanceMetadata
from corral.errors import InvalidRequest
from corral.server.images.metadata_files import TEMPLATE_LIMIT
from corral.server.instances.guest import metadata
from corral.server.rest import responses, streams
from corral.server.rest.dispatch import read_bytes
from corral.server.rest.request import Request
from corral.server.rest.routes.instances import load
from corral.server.rest.routing import Routes

routes = Routes("/1.0/instances/{name}/metadata")


@routes.get("", put=InstanceMetadata)
async def get_metadata(request: Request, name: str) -> InstanceMetadata:
    """Get the image metadata of an instance."""
    instance = await load(request, name)
    found = await metadata.get_metadata(request.context, instance)
    if request.raw.method == "GET":
        metadata.publish(request.context, instance, "retrieved")
    return found


@routes.put("")
async def update_metadata(request: Request, name: str, body: InstanceMetadata) -> None:
    """Replace the image metadata of an instance."""
    await metadata.update_metadata(request.context, await load(request, name), body)


@routes.get("/templates")
async def get_templates(request: Request, name: str) -> web.StreamResponse:
    """List the names of the templates; with a path get the text of that template."""
    instance = await load(request, name)
    path = request.query.get("path", "")
    if not path:
        return responses.sync(await metadata.list_templates(request.context, instance))
    return streams.send_bytes(await metadata.get_template(request.context, instance, path), path, {})


@routes.post("/templates")
async def post_template(request: Request, name: str) -> None:
    """Create a template, or replace its text."""
    instance = await load(request, name)
    content = await read_bytes(request.raw, TEMPLATE_LIMIT)
    await metadata.put_template(request.context, instance, _path(request), content)


@routes.delete("/templates")
async def delete_template(request: Request, name: str) -> None:
    """Delete a template."""
    instance = await load(request, name)
    await metadata.delete_template(request.context, instance, _path(request))


def _path(request: Request) -> str:
    path: str = request.query.get("path", "")
    if not path:
        raise InvalidRequest("missing path argument")
    return path
