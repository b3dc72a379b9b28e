"""/ and the operations that every client starts with."""

from corral.server.rest.request import Request
from corral.server.rest.routing import Access, Routes

routes = Routes("", access=Access.ANYONE)


@routes.get("/")
async def list_versions(request: Request) -> list[str]:
    """List the versions of the API."""
    return ["/1.0"]
