"""/1.0/operations."""

import asyncio

from aiohttp import web

from corral.api import operations as wire
from corral.errors import InvalidRequest, NotFound
from corral.server.auth.sessions import Sessions
from corral.server.events.model import Lifecycle
from corral.server.operations import model
from corral.server.operations.model import Operation
from corral.server.operations.registry import Operations
from corral.server.rest.request import Request
from corral.server.rest.routing import Access, Routes

routes = Routes("/1.0/operations")


@routes.get("")
async def list_operations(request: Request) -> dict[str, list[str]] | dict[str, list[wire.Operation]]:
    """List the operations by status."""
    project = None if request.all_projects else request.requested_project
    operations = request.context.parts[Operations].all(project)
    urls: dict[str, list[str]] = {}
    full: dict[str, list[wire.Operation]] = {}
    for operation in operations:
        if not _is_visible(request, operation):
            continue
        status = wire.STATUS_CODES[operation.status].lower()
        urls.setdefault(status, []).append(f"/1.0/operations/{operation.id}")
        full.setdefault(status, []).append(operation.to_wire())
    return full if request.recursion else urls


def _is_visible(request: Request, operation: Operation) -> bool:
    """A token's secret is a key to the server: only administrators see it."""
    caller = request.caller
    return caller.admin or (operation.kind != "token" and caller.may_see(operation.project))


def _find(request: Request, uuid: str) -> Operation:
    operation = request.context.parts[Operations].get(uuid)
    if request.caller.trusted and not _is_visible(request, operation):
        raise NotFound(f"Operation {uuid!r} not found")
    return operation


@routes.get("/{uuid}")
async def get_operation(request: Request, uuid: str) -> wire.Operation:
    """Get an operation."""
    return _find(request, uuid).to_wire()


@routes.delete("/{uuid}")
async def cancel_operation(request: Request, uuid: str) -> None:
    """Cancel an operation."""
    operation = _find(request, uuid)
    operation.cancel()
    source = f"/1.0/operations/{operation.id}"
    request.context.events.publish(Lifecycle("operation-cancelled", source, operation.project))


async def _wait(request: Request, uuid: str) -> wire.Operation:
    operation = _find(request, uuid)
    text = request.query.get("timeout", "-1")
    try:
        timeout_s = int(text)
    except ValueError:
        raise InvalidRequest(f"Invalid timeout {text!r}: give seconds, or -1 for no limit") from None
    try:
        async with asyncio.timeout(timeout_s if timeout_s >= 0 else None):
            await operation.done.wait()
    except TimeoutError:
        pass
    return operation.to_wire()


@routes.get("/{uuid}/wait", access=Access.ANYONE)
async def wait_operation(request: Request, uuid: str) -> wire.Operation:
    """Wait until an operation ends or some seconds have passed."""
    if not request.caller.trusted:
        _find(request, uuid).descriptor_of(request.query.get("secret", ""))
    return await _wait(request, uuid)


@routes.get("/{uuid}/websocket", access=Access.ANYONE)
async def connect_operation(request: Request, uuid: str) -> web.StreamResponse:
    """Connect to a descriptor of a websocket operation; the secret is the permission."""
    secret = request.query.get("secret", "")
    if not secret:
        raise InvalidRequest("missing secret")
    operation = request.context.parts[Operations].get(uuid)
    if operation.connect is None or operation.status in model.FINAL:
        raise InvalidRequest("Only websocket operations that still run can be connected")
    descriptor = operation.descriptor_of(secret)
    if operation.owner and request.raw.transport is not None:
        # A stranger may connect with the secret: that ends with the trust in the one who gave it away.
        request.context.parts[Sessions].add(operation.owner, request.raw.transport)
    response = await operation.connect(descriptor, request.raw)
    assert isinstance(response, web.StreamResponse)
    return response
