"""/1.0/instances/NAME/logs."""

from aiohttp import web

from corral.api.urls import url
from corral.server.instances.sessions import logs
from corral.server.rest import streams
from corral.server.rest.request import Request
from corral.server.rest.routing import Routes

routes = Routes("/1.0/instances")


@routes.get("/{name}/logs")
async def list_logs(request: Request, name: str) -> list[str]:
    """List the log files of an instance."""
    names = await logs.list_logs(request.context, request.project, name)
    return [url("/1.0/instances", name, "logs", file) for file in names]


@routes.get("/{name}/logs/{file}")
async def get_log(request: Request, name: str, file: str) -> web.StreamResponse:
    """Get a log file."""
    fd = await logs.open_log(request.context, request.project, name, file)
    return await streams.send_file(request.raw, fd, file, {})


@routes.delete("/{name}/logs/{file}")
async def delete_log(request: Request, name: str, file: str) -> None:
    """Delete a log file."""
    await logs.delete_log(request.context, request.project, name, file)
