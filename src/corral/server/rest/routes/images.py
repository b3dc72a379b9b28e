"""/1.0/images. The aliases are in image_aliases.py."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import web

from corral.api import images as wire
from corral.api.urls import url
from corral.errors import CorralError, Forbidden, InvalidRequest, NotFound, NotSupported
from corral.server.events.model import Lifecycle
from corral.server.host.threads import in_thread
from corral.server.images import create, delete, formats, store, tokens
from corral.server.images.model import Image, Wanted
from corral.server.images.recipe import Recipe
from corral.server.images.spool import Spool
from corral.server.operations.model import Operation
from corral.server.operations.registry import Operations
from corral.server.rest import dispatch, files, routing, uploads
from corral.server.rest.files import SentFile
from corral.server.rest.request import Request
from corral.server.rest.responses import Listing, WithEtag
from corral.server.rest.routing import Access, Routes
from corral.units import is_true

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


@routes.post("", access=Access.ANYONE)
async def create_image(request: Request) -> Operation:
    """Add an image: from the body (a unified file, or a form with metadata and rootfs), or as a JSON body says.

    A secret of an image token is a permission for the image it names, once.
    """
    headers = request.raw.headers
    fingerprint = headers.get("X-LXD-fingerprint", "")
    operations = request.context.parts[Operations]
    token = tokens.redeem_token(operations, request.project, fingerprint, headers.get("X-LXD-secret", ""))
    if token is None and not request.caller.trusted:
        raise Forbidden("not authorized")
    if request.raw.content_type == "application/json":
        return _create_as_told(request, await dispatch.read_body(request.raw))
    wanted = _wanted_of_headers(headers)
    if token is not None:
        wanted = replace(wanted, **token.metadata.get("wanted", {}))
    if request.raw.content_type == "multipart/form-data":
        return await _create_from_upload(request, None, b"", wanted)
    chunks = uploads.body_chunks(request.raw)
    first = await anext(chunks, b"")
    if first.lstrip()[:1] == b"{":
        # No archive begins so: some clients send JSON without saying it.
        return _create_as_told(request, first + await dispatch.read_body(request.raw))
    return await _create_from_upload(request, chunks, first, wanted)


async def _create_from_upload(request: Request, chunks: Any, first: bytes, wanted: Wanted) -> Operation:
    spool = await Spool.make(request.context.member.images_dir)
    try:
        if chunks is None:
            received = await uploads.receive_form(request.raw, spool)
        else:
            received = await uploads.receive_raw(chunks, first, spool)
    except BaseException:
        await spool.discard()
        raise
    wanted = replace(wanted, filename=wanted.filename or received.filename)
    expected = request.raw.headers.get("X-LXD-fingerprint", "")
    operation = Operation("Downloading image", request.requested_project, {})
    return request.operation(
        operation, lambda: create.from_upload(request.context, request.project, spool, expected, wanted)
    )


def _wanted_of_headers(headers: Mapping[str, str]) -> Wanted:
    return Wanted(
        filename=headers.get("X-LXD-filename", ""),
        public=is_true(headers.get("X-LXD-public")),
        properties=dict(parse_qsl(headers.get("X-LXD-properties", ""), keep_blank_values=True)),
    )


def _wanted_of_body(body: wire.ImagesPost) -> Wanted:
    aliases = [(alias.name, alias.description) for alias in body.aliases or []]
    for name, _ in aliases:
        create.check_alias_name(name)
    return Wanted(
        filename=body.filename,
        public=body.public,
        auto_update=body.auto_update,
        expires_at=create.parse_expiry(body.expires_at),
        properties=body.properties or {},
        profiles=body.profiles,
        aliases=aliases,
    )


def _create_as_told(request: Request, data: bytes) -> Operation:
    """Add an image as a JSON body describes it."""
    if not request.caller.trusted:
        raise Forbidden("not authorized")
    body: wire.ImagesPost = routing.decode_body(data, wire.ImagesPost)
    source = body.source
    if source is None:
        raise InvalidRequest("Invalid images JSON: there is no source")
    wanted = _wanted_of_body(body)
    if source.mode == "push":
        kept = {name: getattr(wanted, name) for name in ("public", "expires_at", "properties", "aliases")}
        return _create_token(request, source.fingerprint, {"wanted": kept})
    if source.type == "build":
        recipe = _recipe(source)
        return request.start_on({}, "Building image", create.from_recipe, request.project, recipe, wanted)
    raise _unknown_source(source)


def _recipe(source: wire.ImagesPostSource) -> Recipe:
    architecture = (
        formats.architecture_name(source.architecture) if source.architecture else formats.host_architecture()
    )
    if architecture != formats.host_architecture():
        raise NotSupported(f"Images are built for this machine's architecture only, {formats.host_architecture()}")
    return Recipe(
        os=source.os.lower(),
        release=source.release,
        variant=source.variant or "default",
        architecture=architecture,
        packages=tuple(source.packages or ()),
        mirror=source.mirror,
    )


def _unknown_source(source: wire.ImagesPostSource) -> CorralError:
    match source.type:
        case "image":
            wanted = source.alias or source.fingerprint
            return NotSupported(
                f"This server cannot copy images from other servers ({source.server or 'no server given'}: {wanted!r}):"
                " import the image's files, or build one"
            )
        case "url":
            return NotSupported("This server cannot import images from a URL: fetch the file and import it")
        case "instance" | "container" | "virtual-machine" | "snapshot":
            return NotSupported("This server cannot publish instances as images")
    return InvalidRequest(f"Invalid images JSON: unknown type of source {source.type!r}")


async def _visible(request: Request, fingerprint: str) -> Image:
    """The image, for a caller who may see it: trusted, of a public image, or with a token's secret."""
    image = await request.db.read(store.get_image, request.project, fingerprint)
    operations = request.context.parts[Operations]
    token = tokens.redeem_token(operations, request.project, image.fingerprint, request.query.get("secret", ""))
    if not request.caller.trusted and not image.public and token is None:
        raise NotFound(f"Image {image.fingerprint!r} not found")
    return image


@routes.get("/{fingerprint}", put=wire.ImagePut, access=Access.ANYONE)
async def get_image(request: Request, fingerprint: str) -> WithEtag[wire.Image]:
    """Get an image by its fingerprint or the beginning of it."""
    image = to_wire(await _visible(request, fingerprint))
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
    await request.db.write(store.update_image, changed)
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
    image = await _visible(request, fingerprint)
    stored = formats.image_files(request.context.member.images_dir, image.fingerprint)
    sent = await in_thread(_sent_files, stored, image)
    _publish(request, "retrieved", image.fingerprint)
    return await files.send(request, sent)


def _sent_files(stored: formats.ImageFiles, image: Image) -> list[SentFile]:
    try:
        name = f"{image.fingerprint}{formats.detect_format(stored.main).extension}"
        if stored.rootfs is None:
            return [SentFile(name, name, stored.main)]
        rootfs_name = f"{image.fingerprint}{formats.detect_format(stored.rootfs).extension}"
    except FileNotFoundError:
        raise NotFound(f"The files of image {image.fingerprint} are missing on the server") from None
    part = "rootfs.img" if image.type == "virtual-machine" else "rootfs"
    return [SentFile("metadata", f"meta-{name}", stored.main), SentFile(part, rootfs_name, stored.rootfs)]


@routes.post("/{fingerprint}/export")
async def push_image(request: Request, fingerprint: str) -> Operation:
    """Push an image to another server."""
    await request.db.read(store.get_image, request.project, fingerprint)
    raise NotSupported("This server cannot push images to other servers: export the image and import it there")


@routes.post("/{fingerprint}/secret")
async def create_secret(request: Request, fingerprint: str) -> Operation:
    """Make a secret that lets somebody without permission fetch the image once."""
    image = await request.db.read(store.get_image, request.project, fingerprint)
    operation = _create_token(request, image.fingerprint, {})
    _publish(request, "secret-created", image.fingerprint)
    return operation


def _create_token(request: Request, fingerprint: str, metadata: dict[str, Any]) -> Operation:
    if not fingerprint:
        raise InvalidRequest("A fingerprint is required for a push token")
    return tokens.create_token(request.context.parts[Operations], request.project, fingerprint, metadata)


@routes.post("/{fingerprint}/refresh")
async def refresh_image(request: Request, fingerprint: str) -> Operation:
    """Have the storage pools make their copies of the image anew."""
    image = await request.db.read(store.get_image, request.project, fingerprint)
    return request.start("Refreshing image", delete.refresh_image, request.project, image.fingerprint)
