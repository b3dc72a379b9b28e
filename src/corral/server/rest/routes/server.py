"""/1.0: the server's environment and configuration."""

from corral.api import server as wire
from corral.server.host import features
from corral.server.host.threads import in_thread
from corral.server.rest.request import Request
from corral.server.rest.responses import WithEtag
from corral.server.rest.routing import Access, Routes
from corral.server.settings import environment
from corral.server.settings.settings import Settings

routes = Routes("/1.0")


def _storage_drivers() -> list[wire.ServerStorageDriver]:
    drivers = [wire.ServerStorageDriver(name="dir", version="1")]
    if features.supports_btrfs():
        drivers.insert(0, wire.ServerStorageDriver(name="btrfs", version=features.get_btrfs_version()))
    return drivers


@routes.get("", put=wire.ServerPut, access=Access.ANYONE)
async def get_server(request: Request) -> wire.ServerUntrusted | WithEtag[wire.ServerUntrusted]:
    """Get the server's environment and configuration; for a stranger only what it takes to become trusted."""
    caller = request.caller
    if not caller.trusted:
        return wire.ServerUntrusted()
    drivers = await in_thread(_storage_drivers)
    config = request.context.parts[Settings].shown() if caller.admin else {}
    server = wire.Server(
        auth="trusted",
        config=config,
        environment=await environment.compose_environment(request.context, request.requested_project, drivers),
        auth_user_name=caller.username,
        auth_user_method=caller.protocol,
    )
    return WithEtag(server, {"config": config})


@routes.put("", access=Access.ADMIN)
async def update_server(request: Request, body: wire.ServerPut) -> None:
    """Replace the server's configuration."""
    await request.context.parts[Settings].replace(request.context, body.config)
