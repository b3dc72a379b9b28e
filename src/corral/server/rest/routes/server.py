"""/1.0: the server's environment and configuration."""

from corral.api import server as wire
from corral.server.keys import Config
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
    caller, settings = request.caller, request.context.parts[Settings]
    if not caller.trusted:
        return wire.ServerUntrusted(auth_methods=_auth_methods(settings.config))
    environment = request.context.parts[Environment]
    present = await environment.look(request.context)

    async def compose() -> WithEtag[wire.ServerUntrusted]:
        config = settings.shown() if caller.admin else {}
        server = wire.Server(
            auth="trusted",
            auth_methods=_auth_methods(settings.config),
            config=config,
            environment=await environment.compose(request.context, present, request.requested_project),
            auth_user_name=caller.username,
            auth_user_method=caller.protocol,
        )
        return WithEtag(server, {"config": config})

    question = ("/1.0", request.requested_project, caller.username, caller.protocol, caller.admin)
    return await request.kept.answer(question, (settings.config, present), compose)


def _auth_methods(config: Config) -> list[str]:
    return ["tls", "candid"] if config[keys.CANDID_URL] or config[keys.RBAC_URL] else ["tls"]


@routes.put("", access=Access.ADMIN)
async def update_server(request: Request, body: wire.ServerPut) -> None:
    """Replace the server's configuration."""
    await request.context.parts[Settings].replace(request.context, body.config)
