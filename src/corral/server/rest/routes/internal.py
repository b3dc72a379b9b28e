"""/internal: what the daemon's own sub-commands ask; administrators only."""

import asyncio
import gc

from corral.api.server import Minute
from corral.api.warnings import WarningReport
from corral.errors import InvalidRequest, Unavailable
from corral.server.events.model import utc_now
from corral.server.instances.snapshots import scheduling
from corral.server.lifetime import Lifetime
from corral.server.rest.request import Request
from corral.server.rest.routing import Access, Routes
from corral.server.warnings import store
from corral.units import is_true

routes = Routes("/internal", access=Access.ADMIN)


@routes.get("/ready")
async def get_ready(request: Request) -> None:
    """Succeed once the daemon has started completely."""
    lifetime = request.context.parts[Lifetime]
    if lifetime.ended.is_set():
        raise Unavailable("Daemon is shutting down")
    if not lifetime.ready.is_set():
        raise Unavailable("Daemon not ready yet")


@routes.put("/shutdown")
async def shut_down(request: Request) -> None:
    """Stop the instances, then the daemon; answers when the instances have stopped."""
    lifetime = request.context.parts[Lifetime]
    text = request.query.get("timeout", "")
    if text and not text.isdecimal():
        raise InvalidRequest(f"Invalid timeout {text!r}: give seconds")
    # LXD's `shutdown --force` does not wait for operations.
    timeout_s = 0.0 if is_true(request.query.get("force")) else float(text) if text else None
    lifetime.end(stop_instances=True, timeout_s=timeout_s)
    await asyncio.shield(lifetime.instances_stopped.wait())


@routes.post("/testing/warnings")
async def raise_warning(request: Request, body: WarningReport) -> None:
    """Raise a warning, as LXD's test suite does."""
    entity = (body.entity_type_code, body.entity_id)
    await request.db.write(store.raise_warning, body.type_code, body.message, body.project, entity, utc_now())


@routes.post("/testing/minute")
async def do_minute(request: Request, body: Minute) -> list[str]:
    """Do now what a later minute brings (scheduled snapshots, expiries), and return what failed of it."""
    operations = await scheduling.tick(request.context, body.time)
    for operation in operations:
        await operation.done.wait()
    return [operation.error for operation in operations if operation.error]


@routes.get("/gc")
async def collect_garbage(request: Request) -> None:
    """Free what Python no longer needs."""
    gc.collect()
