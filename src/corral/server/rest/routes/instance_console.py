"""/1.0/instances/NAME/console."""

from typing import Any

from aiohttp import web

from corral.api.instance_exec import InstanceConsolePost
from corral.server.instances.sessions import console
from corral.server.operations.model import Operation
from corral.server.rest import streams
from corral.server.rest.request import Request
from corral.server.rest.routes.instance_exec import resources_of
from corral.server.rest.routing import Routes

routes = Routes("/1.0/instances")


@routes.post("/{name}/console")
async def attach_console(request: Request, name: str, body: InstanceConsolePost) -> Operation:
    """Attach to the console of a running instance."""
    session = await console.open_session(request.context, request.project, name, body)

    async def connect(descriptor: str, raw: Any) -> web.StreamResponse:
        return await streams.serve_channel(session.connections, descriptor, raw)

    secrets = session.connections.secrets
    return request.open_sockets("Showing console", resources_of(session.target), secrets, connect, session.run)


@routes.get("/{name}/console")
async def get_console_log(request: Request, name: str) -> web.StreamResponse:
    """Get what the console showed."""
    data = await console.read_log(request.context, request.project, name)
    return streams.send_bytes(data, "console.log", {})


@routes.delete("/{name}/console")
async def clear_console_log(request: Request, name: str) -> None:
    """Forget what the console showed."""
    await console.clear_log(request.context, request.project, name)
