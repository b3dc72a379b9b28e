"""/1.0/storage-pools."""

from corral.api.storage import StoragePool, StoragePoolPut, StoragePoolResources, StoragePoolSpace, StoragePoolsPost
from corral.api.urls import url
from corral.server.db import references
from corral.server.db.database import Tx
from corral.server.rest.request import Request
from corral.server.rest.responses import Created, Listing
from corral.server.rest.routing import Routes
from corral.server.storage import pools, store
from corral.server.storage.model import Pool

routes = Routes("/1.0/storage-pools")


def _with_users(tx: Tx, name: str | None) -> list[tuple[Pool, list[str]]]:
    found = [store.get_pool(tx, name)] if name is not None else store.list_pools(tx)
    return [(pool, references.list_pool_users(tx, pool.id, pool.name)) for pool in found]


def _names(tx: Tx) -> list[tuple[Pool, list[str]]]:
    return [(pool, []) for pool in store.list_pools(tx)]


def _to_wire(request: Request, pool: Pool, users: list[str]) -> StoragePool:
    return StoragePool(
        # Secrets of a storage server, and paths of the host, may be in it.
        config=dict(pool.config) if request.caller.admin else {},
        description=pool.description,
        name=pool.name,
        driver=pool.driver,
        used_by=users,
        status=pools.status(request.context, pool),
        locations=[request.context.member.location],
    )


@routes.get("")
async def list_pools(request: Request) -> Listing[StoragePool]:
    """List the storage pools."""
    if request.recursion or "filter" in request.query:
        found = await request.db.read(_with_users, None)
    else:
        found = await request.db.read(_names)
    wire = [_to_wire(request, pool, users) for pool, users in found]
    return Listing(wire, url=lambda pool: url("/1.0/storage-pools", pool.name))


@routes.post("")
async def create_pool(request: Request, body: StoragePoolsPost) -> Created:
    """Create a storage pool."""
    await pools.create(request.context, body.name, body.driver, body.description, body.config or {})
    return Created(url("/1.0/storage-pools", body.name))


@routes.get("/{pool}", put=StoragePoolPut)
async def get_pool(request: Request, pool: str) -> StoragePool:
    """Get a storage pool."""
    ((found, users),) = await request.db.read(_with_users, pool)
    return _to_wire(request, found, users)


@routes.put("/{pool}")
async def update_pool(request: Request, pool: str, body: StoragePoolPut) -> None:
    """Change a storage pool's description and config."""
    await pools.update(request.context, pool, body.description, body.config or {})


@routes.delete("/{pool}")
async def delete_pool(request: Request, pool: str) -> None:
    """Delete a storage pool that nothing uses."""
    await pools.delete(request.context, pool)


@routes.get("/{pool}/resources")
async def get_resources(request: Request, pool: str) -> StoragePoolResources:
    """Get the size and use of a storage pool."""
    space = await pools.space(request.context, pool)
    return StoragePoolResources(
        space=StoragePoolSpace(used=space.used, total=space.total),
        inodes=StoragePoolSpace(used=space.inodes_used, total=space.inodes_total),
    )
