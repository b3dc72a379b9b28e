"""Operations that migrate: those that wait for the other server's connections, and those that open them."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from aiohttp import web

from corral.errors import InvalidRequest
from corral.server.instances.sessions.channels import Connections
from corral.server.migration.session import NAMES, Remote
from corral.server.operations.model import Operation
from corral.server.rest import streams
from corral.server.rest.request import Request

Work = Callable[[Connections | Remote], Awaitable[None]]


class Target(Protocol):
    """The other server's operation, as requests name it."""

    operation: str
    certificate: str
    secrets: dict[str, str] | None


def remote_of(target: Target) -> Remote:
    """The other server's operation. Raises InvalidRequest where the request does not name it."""
    if not target.operation:
        raise InvalidRequest("Missing the URL of the other server's operation")
    secrets: Mapping[str, str] = target.secrets or {}
    for name in NAMES:
        if not secrets.get(name):
            raise InvalidRequest(f"Missing {name} secret")
    return Remote(target.operation, target.certificate, secrets)


def start(
    request: Request, description: str, resources: dict[str, list[str]], work: Work, remote: Remote | None
) -> Operation:
    """Migrate with a remote operation, or, without one, with whoever connects with the operation's secrets."""
    if remote is not None:
        operation = Operation(description, request.requested_project, resources, cancellable=True)
        return request.operation(operation, lambda: work(remote))
    connections = Connections(NAMES)

    async def connect(descriptor: str, raw: Any) -> web.StreamResponse:
        return await streams.serve_channel(connections, descriptor, raw)

    operation = Operation(
        description,
        request.requested_project,
        resources,
        dict(connections.secrets),
        cancellable=True,
        connect=connect,
        secrets=connections.secrets,
        kind="websocket",
    )
    return request.operation(operation, lambda: work(connections))
