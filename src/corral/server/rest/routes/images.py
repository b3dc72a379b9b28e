"""/1.0/images. How images are added is in image_create.py, the aliases are in image_aliases.py."""

from dataclasses import replace

from aiohttp import web

from corral.api import images as wire
from corral.api.urls import url
from corral.errors import NotFound
from corral.server.events.model import Lifecycle
from corral.server.host.threads import in_thread
from corral.server.images import applied_profiles, create, delete, push, store, tokens, update
from corral.server.images.model import Image
from corral.server.operations.model import Operation
from corral.server.operations.registry import Operations
from corral.server.outbound.http import Outbound, check_url
from corral.server.outbound.lxd import LxdServer
from corral.server.rest import files
from corral.server.rest.request import Request
from corral.server.rest.responses import Listing, WithEtag
from corral.server.rest.routing import Access, Routes

routes = Routes("/1.0/images", feature="features.images")

_NEVER_USED = "0001-01-01T00:00:00Z"


def to_wire(image: Image) -> wire.Image:
    """The image as clients see it."""
    source = image.update_source
    return wire.Image(
        auto_update=image.auto_update,
        properties=dict(image.properties),
        public=image.public,
        expires_at=image.expires_at or _NEVER_USED,
        profiles=list(image.profiles),
        aliases=[wire.ImageAlias(name=name, description=description) for name, description in image.aliases],
        architecture=image.architecture,
        cached=image.cached,
        filename=image.filename,
        fingerprint=image.fingerprint,
        size=image.size,
        type=image.type,
        created_at=image.created_at or _NEVER_USED,
        last_used_at=image.last_used_at or _NEVER_USED,
        uploaded_at=image.uploaded_at,
        update_source=None
        if source is None
        else wire.ImageSource(
            alias=source.alias,
            certificate=source.certificate,
            protocol=source.protocol,
            server=source.server,
            image_type=source.image_type,
        ),
    )


def _url(request: Request, fingerprint: str) -> str:
    return url("/1.0/images", fingerprint, project=request.project)


def _publish(request: Request, action: str, fingerprint: str, **context: str) -> None:
    request.context.events.publish(Lifecycle(f"image-{action}", _url(request, fingerprint), request.project, context))


@routes.get("", access=Access.ANYONE)
async def list_images(request: Request) -> Listing[wire.Image]:
    """List the images; those without permission see the public ones."""
    found = await request.db.read(store.list_images, request.project, public_only=not request.caller.trusted)
    return Listing([to_wire(image) for image in found], lambda image: _url(request, image.fingerprint))


async def _visible(request: Request, fingerprint: str, *, spend: bool = False) -> Image:
    """The image, for a caller who may see it: trusted, of a public image, or with a secret (spent if `spend`)."""
    image = await request.db.read(store.get_image, request.project, fingerprint)
    redeem = tokens.redeem_token if spend else tokens.find_token
    operations = request.context.parts[Operations]
    token = redeem(operations, request.project, image.fingerprint, request.query.get("secret", ""))
    if not request.caller.trusted and not image.public and token is None:
        raise NotFound("Image not found")
    return image


@routes.get("/{fingerprint}", put=wire.ImagePut, access=Access.ANYONE)
async def get_image(request: Request, fingerprint: str) -> WithEtag[wire.Image]:
    """Get an image by its fingerprint or the beginning of it."""
    found = await _visible(request, fingerprint)
    image = to_wire(found)
    if request.requested_project != found.project:
        image.profiles = await request.db.read(applied_profiles.read, found.id, request.requested_project)
    return WithEtag(image, [image.public, image.auto_update, image.properties])


@routes.put("/{fingerprint}")
async def update_image(request: Request, fingerprint: str, body: wire.ImagePut) -> None:
    """Change what may be changed of an image."""
    image = await request.db.read(store.get_image, request.project, fingerprint)
    changed = replace(
        image,
        public=body.public,
        auto_update=body.auto_update,
        expires_at=create.parse_expiry(body.expires_at) or image.expires_at,
        properties=body.properties or {},
        profiles=body.profiles if body.profiles is not None else ["default"],
    )
    await request.db.write(store.update_image, changed, request.requested_project)
    _publish(request, "updated", image.fingerprint)


@routes.delete("/{fingerprint}")
async def delete_image(request: Request, fingerprint: str) -> Operation:
    """Delete an image."""
    image = await request.db.read(store.get_image, request.project, fingerprint)
    operation = Operation(
        "Deleting image", request.requested_project, {"images": [url("/1.0/images", image.fingerprint)]}
    )
    return request.operation(
        operation, lambda: delete.delete_image(request.context, request.project, image.fingerprint)
    )


@routes.get("/{fingerprint}/export", access=Access.ANYONE)
async def export_image(request: Request, fingerprint: str) -> web.StreamResponse:
    """Download an image's file, or a form with both."""
    image = await _visible(request, fingerprint, spend=request.raw.method == "GET")
    sent = await in_thread(files.list_image_files, request.context.member.images_dir, image)
    _publish(request, "retrieved", image.fingerprint)
    return await files.send(request.raw, sent)


@routes.post("/{fingerprint}/export")
async def push_image(request: Request, fingerprint: str, body: wire.ImageExportPost) -> Operation:
    """Push an image to another server, which gave a secret for it."""
    image = await request.db.read(store.get_image, request.project, fingerprint)
    check_url(body.target)
    target = LxdServer(request.context.parts[Outbound], body.target, body.certificate, body.project)

    async def run() -> None:
        await push.push_image(request.context, image, target, body.secret)
        _publish(request, "retrieved", image.fingerprint, target=body.target)

    operation = Operation("Exporting image", request.requested_project, {}, cancellable=True)
    return request.operation(operation, run)


@routes.post("/{fingerprint}/secret")
async def create_secret(request: Request, fingerprint: str) -> Operation:
    """Make a secret that lets somebody without permission fetch the image once."""
    image = await request.db.read(store.get_image, request.project, fingerprint)
    operation = tokens.create_token(request.context.parts[Operations], request.project, image.fingerprint, {})
    _publish(request, "secret-created", image.fingerprint)
    return operation


@routes.post("/{fingerprint}/refresh")
async def refresh_image(request: Request, fingerprint: str) -> Operation:
    """Replace the image by what its source has now, if that is newer."""
    image = await request.db.read(store.get_image, request.project, fingerprint)
    return request.start_on({}, "Refreshing image", update.refresh_image, request.project, image.fingerprint)
