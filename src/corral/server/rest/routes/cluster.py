"""/1.0/cluster: this server is not clustered, and says so."""

from corral.api.cluster import Cluster
from corral.errors import InvalidRequest, NotSupported
from corral.server.rest.request import Request
from corral.server.rest.routing import Access, Routes

routes = Routes("/1.0/cluster")

_NOT_CLUSTERED = "Server is not clustered"


@routes.get("")
async def get_cluster(request: Request) -> Cluster:
    """Say whether the server is clustered."""
    return Cluster()


@routes.put("", access=Access.ADMIN)
async def update_cluster(request: Request) -> None:
    """Refuse to make or join a cluster."""
    raise NotSupported("Clustering is not available on this server")


@routes.get("/members")
async def list_members(request: Request) -> None:
    """Refuse: there are no members."""
    raise InvalidRequest(_NOT_CLUSTERED)


@routes.post("/members", access=Access.ADMIN)
async def add_member(request: Request) -> None:
    """Refuse: nobody can join."""
    raise InvalidRequest(_NOT_CLUSTERED)


@routes.get("/members/{name}")
async def get_member(request: Request, name: str) -> None:
    """Refuse: there are no members."""
    raise InvalidRequest(_NOT_CLUSTERED)


@routes.get("/groups")
async def list_groups(request: Request) -> None:
    """Refuse: there are no groups of members."""
    raise InvalidRequest(_NOT_CLUSTERED)
