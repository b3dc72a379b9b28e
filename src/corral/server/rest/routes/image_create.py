"""POST /1.0/images: the ways in which an image comes to be on this server."""

import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, parse_qsl

from corral import architectures
from corral.api import images as wire
from corral.errors import Forbidden, InvalidRequest, NotSupported
from corral.server.images import create, fetch, tokens
from corral.server.images.model import Wanted
from corral.server.images.recipe import Recipe
from corral.server.images.remote.model import RemoteSource
from corral.server.images.spool import Spool
from corral.server.instances.copies import publish
from corral.server.operations.model import Operation
from corral.server.operations.registry import Operations
from corral.server.outbound.http import check_url
from corral.server.rest import dispatch, routing, uploads
from corral.server.rest.request import Request
from corral.server.rest.routing import Access, Routes
from corral.units import is_true

routes = Routes("/1.0/images", feature="features.images")

DOWNLOADING = "Downloading image"


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
        return await _create_as_told(request, await dispatch.read_body(request.raw))
    wanted = _wanted_of_headers(headers)
    if token is not None:
        wanted = replace(wanted, **token.metadata.get("wanted", {}))
    if request.raw.content_type == "multipart/form-data":
        return await _create_from_upload(request, None, b"", wanted, pushed=token is not None)
    chunks = uploads.body_chunks(request.raw)
    first = await anext(chunks, b"")
    if first.lstrip()[:1] == b"{":
        # No archive begins so: some clients send JSON without saying it.
        return await _create_as_told(request, first + await dispatch.read_body(request.raw))
    return await _create_from_upload(request, chunks, first, wanted, pushed=token is not None)


async def _create_from_upload(
    request: Request, chunks: Any, first: bytes, wanted: Wanted, *, pushed: bool
) -> Operation:
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
    operation = Operation(DOWNLOADING, request.requested_project, {})
    if pushed:
        # The one who pushes may have no permission: by this it can wait for the end.
        secret = secrets.token_hex(32)
        operation.metadata, operation.secrets = {"secret": secret}, {"push": secret}
    return request.operation(
        operation, lambda: create.from_upload(request.context, request.project, spool, expected, wanted)
    )


def _wanted_of_headers(headers: Mapping[str, str]) -> Wanted:
    return Wanted(
        filename=headers.get("X-LXD-filename", ""),
        public=is_true(headers.get("X-LXD-public")),
        properties=dict(parse_qsl(headers.get("X-LXD-properties", ""), keep_blank_values=True)),
        profiles=parse_qs(headers.get("X-LXD-profiles", "")).get("profile"),
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


async def _create_as_told(request: Request, data: bytes) -> Operation:
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
    match source.type:
        case "build":
            recipe = _recipe(source)
            return request.start_on({}, "Building image", create.from_recipe, request.project, recipe, wanted)
        case "image":
            return _fetch(request, source, wanted)
        case "url":
            return request.start_on(
                {}, DOWNLOADING, fetch.from_url, request.project, source.url, wanted, request.caller.projects
            )
        case "instance" | "container" | "virtual-machine" | "snapshot":
            return await _publish(request, body, source, wanted)
    raise InvalidRequest(f"Invalid images JSON: unknown type of source {source.type!r}")


def _fetch(request: Request, source: wire.ImagesPostSource, wanted: Wanted) -> Operation:
    """Copy an image from another server, or from another project of this one."""
    name = source.fingerprint or source.alias
    if not name:
        raise InvalidRequest("must specify one of alias or fingerprint for init from image")
    if not source.server:
        project = source.project or "default"
        if not request.caller.may_see(project):
            raise Forbidden("not authorized")
        return request.start_on({}, DOWNLOADING, fetch.from_project, request.project, project, name, wanted)
    check_url(source.server)
    remote = RemoteSource(
        server=source.server,
        protocol=source.protocol or "lxd",
        name=name,
        certificate=source.certificate,
        secret=source.secret,
        image_type=source.image_type,
        project=source.project,
    )
    fetch.open_server(request.context, remote)
    return request.start_on(
        {}, DOWNLOADING, fetch.from_remote, request.project, remote, wanted, request.caller.projects
    )


async def _publish(request: Request, body: wire.ImagesPost, source: wire.ImagesPostSource, wanted: Wanted) -> Operation:
    origin = await request.db.read(publish.find_origin, request.requested_project, source.type, source.name)
    publication = publish.Publication(origin, request.project, wanted, body.properties, body.compression_algorithm)
    return request.start_on({}, DOWNLOADING, publish.publish, publication)


def _create_token(request: Request, fingerprint: str, metadata: dict[str, Any]) -> Operation:
    if not fingerprint:
        raise InvalidRequest("A fingerprint is required for a push token")
    return tokens.create_token(request.context.parts[Operations], request.project, fingerprint, metadata)


def _recipe(source: wire.ImagesPostSource) -> Recipe:
    architecture = (
        architectures.canonical_name(source.architecture) if source.architecture else architectures.host_architecture()
    )
    if architecture != architectures.host_architecture():
        raise NotSupported(
            f"Images are built for this machine's architecture only, {architectures.host_architecture()}"
        )
    return Recipe(
        os=source.os.lower(),
        release=source.release,
        variant=source.variant or "default",
        architecture=architecture,
        packages=tuple(source.packages or ()),
        mirror=source.mirror,
    )
