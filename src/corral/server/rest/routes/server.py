"""/1.0: the server's environment and configuration."""

from corral.api import server as wire
from corral.server.rest.request import Request
from corral.server.rest.responses import WithEtag
from corral.server.rest.routing import Access, Routes
from corral.server.settings import keys
from corral.server.settings.environment import Environment
from corral.server.settings.settings import Settings

routes = Routes("/1.0")


@routes.get("", put=wire.ServerPut, access=Access.ANYONE)
async def get_server(request: Request) -> wire.ServerUntrusted | WithEtag[wire.ServerUntrusted]:
    """Get the server's environment and configuration; for a stranger only what it takes to become trusted."""
    caller = request.caller
    settings = request.context.parts[Settings]
    methods = ["tls"]
    if settings.config[keys.CANDID_URL] or settings.config[keys.RBAC_URL]:
        methods.append("candid")
    if not caller.trusted:
        return wire.ServerUntrusted(auth_methods=methods)
    config = settings.shown() if caller.admin else {}
    server = wire.Server(
        auth="trusted",
        auth_methods=methods,
        config=config,
        environment=await request.context.parts[Environment].compose(request.context, request.requested_project),
        auth_user_name=caller.username,
        auth_user_method=caller.protocol,
    )
    return WithEtag(server, {"config": config})


@routes.put("", access=Access.ADMIN)
async def update_server(request: Request, body: wire.ServerPut) -> None:
    """Replace the server's configuration."""
    await request.context.parts[Settings].replace(request.context, body.config)
