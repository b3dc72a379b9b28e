"""/1.0/instances/NAME/exec."""

from typing import Any

from aiohttp import web

from corral.api.instance_exec import InstanceExecPost
from corral.api.urls import url
from corral.server.instances.sessions import exec as commands
from corral.server.instances.sessions.exec import Session, Target
from corral.server.operations.model import Operation
from corral.server.rest import streams
from corral.server.rest.request import Request
from corral.server.rest.routing import Routes

routes = Routes("/1.0/instances")

DESCRIPTION = "Executing command"


@routes.post("/{name}/exec")
async def execute(request: Request, name: str, body: InstanceExecPost) -> Operation:
    """Run a command in a running instance."""
    commands.check(body)
    target = await commands.get_target(request.context, request.project, name)
    resources = resources_of(target)
    if not body.wait_for_websocket:
        return _execute_recorded(request, target, body, resources)
    session = Session(target, body)

    async def connect(descriptor: str, raw: Any) -> web.StreamResponse:
        return await streams.serve_channel(session.connections, descriptor, raw)

    environment = commands.compose_environment(target.instance, body, target.container.init_pid)
    metadata = {"command": body.command, "environment": environment, "interactive": body.interactive}
    secrets = session.connections.secrets
    return request.open_sockets(DESCRIPTION, resources, secrets, connect, session.run, metadata)


def _execute_recorded(
    request: Request, target: Target, body: InstanceExecPost, resources: dict[str, list[str]]
) -> Operation:
    operation = Operation(DESCRIPTION, request.requested_project, resources)
    return request.operation(operation, lambda: commands.run_recorded(target, body, operation.id))


def resources_of(target: Target) -> dict[str, list[str]]:
    """What an operation on a running instance says it works on."""
    instance = target.instance
    kinds = ("instances", "containers") if instance.is_container else ("instances",)
    return {kind: [url(f"/1.0/{kind}", instance.name, project=instance.project)] for kind in kinds}
