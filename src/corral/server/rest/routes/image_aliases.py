"""/1.0/images/aliases. The name of an alias may hold slashes, escaped or not."""

from corral.api import images as wire
from corral.api.urls import url
from corral.errors import AlreadyExists, InvalidRequest
from corral.server.db.database import Tx
from corral.server.events.model import Lifecycle
from corral.server.images import alias_store, create, store
from corral.server.images.model import Alias
from corral.server.rest.request import Request
from corral.server.rest.responses import Created, Listing
from corral.server.rest.routing import Access, Routes

routes = Routes("/1.0/images/aliases", feature="features.images")


def _to_wire(alias: Alias) -> wire.ImageAliasesEntry:
    return wire.ImageAliasesEntry(name=alias.name, description=alias.description, target=alias.target, type=alias.type)


def _url(request: Request, name: str) -> str:
    return url("/1.0/images/aliases", name, project=request.project)


def _publish(request: Request, action: str, name: str, **context: str) -> None:
    source = _url(request, name)
    request.context.events.publish(Lifecycle(f"image-alias-{action}", source, request.project, context))


@routes.get("")
async def list_aliases(request: Request) -> Listing[wire.ImageAliasesEntry]:
    """List the aliases."""
    aliases = await request.db.read(alias_store.list_aliases, request.project)
    return Listing([_to_wire(alias) for alias in aliases], lambda alias: _url(request, alias.name))


@routes.post("")
async def create_alias(request: Request, body: wire.ImageAliasesPost) -> Created:
    """Give an image a name."""
    if not body.name or not body.target:
        raise InvalidRequest("name and target are required")
    create.check_alias_name(body.name)

    def insert(tx: Tx) -> None:
        if alias_store.find_alias(tx, request.project, body.name) is not None:
            raise AlreadyExists(f'Alias "{body.name}" already exists')
        image = store.get_image(tx, request.project, body.target)
        alias_store.insert_alias(tx, request.project, body.name, image.id, body.description)

    await request.db.write(insert)
    _publish(request, "created", body.name, target=body.target)
    return Created(_url(request, body.name), None)


@routes.get("/{name*}", put=wire.ImageAliasesEntryPut, access=Access.ANYONE)
async def get_alias(request: Request, name: str) -> wire.ImageAliasesEntry:
    """Get an alias; those without permission see the ones of public images."""
    public_only = not request.caller.trusted
    return _to_wire(await request.db.read(alias_store.get_alias, request.project, name, public_only=public_only))


@routes.put("/{name*}")
async def update_alias(request: Request, name: str, body: wire.ImageAliasesEntryPut) -> None:
    """Point an alias to another image, or describe it."""
    if not body.target:
        raise InvalidRequest("The target field is required")

    def update(tx: Tx) -> None:
        image = store.get_image(tx, request.project, body.target)
        alias_store.update_alias(tx, request.project, name, image.id, body.description)

    await request.db.write(update)
    _publish(request, "updated", name, target=body.target)


@routes.post("/{name*}")
async def rename_alias(request: Request, name: str, body: wire.ImageAliasesEntryPost) -> Created:
    """Give an alias another name."""
    create.check_alias_name(body.name)
    await request.db.write(alias_store.rename_alias, request.project, name, body.name)
    _publish(request, "renamed", body.name, old_name=name)
    return Created(_url(request, body.name), None)


@routes.delete("/{name*}")
async def delete_alias(request: Request, name: str) -> None:
    """Remove an alias."""
    await request.db.write(alias_store.delete_alias, request.project, name)
    _publish(request, "deleted", name)
