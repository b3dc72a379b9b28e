"""/internal/recover: what `recover` asks the daemon; administrators only."""

from corral.api.recovery import RecoverPost, RecoverResult
from corral.server.recovery import recover
from corral.server.rest.request import Request
from corral.server.rest.routing import Access, Routes

routes = Routes("/internal/recover", access=Access.ADMIN)


@routes.post("/validate")
async def validate(request: Request, body: RecoverPost) -> RecoverResult:
    """Find what is on storage pools and not in the database, and what is missing for its recovery."""
    return await recover.validate(request.context, body)


@routes.post("/import")
async def import_volumes(request: Request, body: RecoverPost) -> RecoverResult | None:
    """Make the records of what was found."""
    return await recover.recover(request.context, body)
