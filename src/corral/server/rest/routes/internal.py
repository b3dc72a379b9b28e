"""/internal: what the daemon's own sub-commands ask; administrators only."""

import asyncio
import gc

from corral.errors import InvalidRequest, Unavailable
from corral.server.lifetime import Lifetime
from corral.server.rest.request import Request
from corral.server.rest.routing import Access, Routes

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
    lifetime.end(stop_instances=True, timeout_s=float(text) if text else None)
    await asyncio.shield(lifetime.instances_stopped.wait())


@routes.get("/gc")
async def collect_garbage(request: Request) -> None:
    """Free what Python no longer needs."""
    gc.collect()
