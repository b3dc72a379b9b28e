"""Brings images of other servers here: found there, downloaded once however many ask, and made a project's own."""

import logging
from dataclasses import dataclass, replace

from corral import architectures
from corral.errors import InvalidRequest, NotFound, Unavailable
from corral.server.context import Context
from corral.server.db.database import Tx
from corral.server.events.model import format_time, utc_now
from corral.server.images import alias_store, create, store, unpack
from corral.server.images.model import Image, UpdateSource, Wanted
from corral.server.images.preferences import ServerPreferences
from corral.server.images.remote.direct import DirectImages, resolve_url
from corral.server.images.remote.lxd_server import LxdImages
from corral.server.images.remote.model import ImageServer, RemoteSource
from corral.server.images.remote.streams_server import StreamsImages
from corral.server.images.spool import Spool
from corral.server.operations.model import report
from corral.server.outbound.http import Outbound
from corral.server.projects import usage
from corral.simplestreams import RemoteImage

log = logging.getLogger(__name__)

REPORT_WAITING = "Waiting for the download of the same image"


@dataclass(frozen=True, slots=True)
class Terms:
    """How a fetched image is kept. `cached` marks one that only an instance needs: it may go when unused.

    `prefer_cached` takes an image that came by the same alias before, if it is kept up to date; `fresh` has the
    server's catalog read anew. `visible` are the projects whose private images may be shared instead of downloaded
    (None: all): a server named by a client may claim to have whatever fingerprint it likes.
    """

    cached: bool = False
    prefer_cached: bool = False
    fresh: bool = False
    visible: frozenset[str] | None = frozenset()


def open_server(context: Context, source: RemoteSource, *, fresh: bool = False) -> ImageServer:
    """The client for a source's protocol; raises InvalidRequest for an unknown one."""
    outbound = context.parts[Outbound]
    match source.protocol:
        case "lxd":
            return LxdImages(outbound)
        case "simplestreams":
            return StreamsImages(outbound, context.member.cache_dir / "simplestreams", fresh)
        case "direct":
            return DirectImages(outbound)
    raise InvalidRequest(f"Unsupported protocol: {source.protocol}")


async def from_remote(
    context: Context, project: str, source: RemoteSource, wanted: Wanted, visible: frozenset[str] | None
) -> dict[str, str]:
    """Add an image of another server, or change the one that is here already; what the operation shows of it.

    `visible` as in `Terms`.
    """
    await context.db.read(alias_store.check_free, project, [name for name, _ in wanted.aliases])
    image = await fetch(context, project, source, wanted, Terms(visible=visible))
    await context.db.write(_apply_wanted, image, wanted)
    shown = {"fingerprint": image.fingerprint, "size": str(image.size)}
    report(**shown)
    return shown


async def from_url(
    context: Context, project: str, url: str, wanted: Wanted, visible: frozenset[str] | None
) -> dict[str, str]:
    """Add the image that a server has at a URL."""
    source = await resolve_url(context.parts[Outbound], url, context.member.product.version)
    return await from_remote(context, project, source, wanted, visible)


async def from_project(
    context: Context, project: str, source_project: str, name: str, wanted: Wanted
) -> dict[str, str]:
    """Add an image that another project of this server has."""
    other = await context.db.read(store.resolve_image, source_project, name)
    await context.db.read(alias_store.check_free, project, [name for name, _ in wanted.aliases])
    image = await context.db.read(store.find_image, project, other.fingerprint)
    if image is None:
        image = await create.add_image(context, _belonging(other, project, wanted, Terms(), None), None)
    await context.db.write(_apply_wanted, image, wanted)
    return {"fingerprint": image.fingerprint, "size": str(image.size)}


async def fetch(context: Context, project: str, source: RemoteSource, wanted: Wanted, terms: Terms) -> Image:
    """The project's image for a source: the one it has, else one that another project has, else a downloaded one.

    `wanted.aliases` are the caller's to add. Raises NotFound, Unavailable, InvalidRequest for an image that is not
    what its server said.
    """
    cached = (
        await context.db.read(_find_cached, context.parts[ServerPreferences], source) if terms.prefer_cached else None
    )
    server = open_server(context, source, fresh=terms.fresh)
    try:
        found = await server.find(source)
    except Unavailable:
        if cached is None:
            raise
        log.info("Using image %s: %s does not answer", cached.fingerprint, source.server)
        return await _take_over(context, project, cached, wanted, replace(terms, cached=True))
    if cached is not None and cached.fingerprint != found.fingerprint:
        return await _take_over(context, project, cached, wanted, terms)
    if context.locks.is_held("image download", found.fingerprint):
        report(download_progress=REPORT_WAITING)
    async with context.locks.hold("image download", found.fingerprint):
        present = await context.db.read(store.find_image, project, found.fingerprint)
        if present is not None:
            return present
        update_source = _update_source(source, found)
        other = await context.db.read(store.find_anywhere, found.fingerprint)
        if other is not None and _may_share(other, source, terms):
            if found.properties is not None:
                other = replace(other, properties=found.properties)
            return await create.add_image(context, _belonging(other, project, wanted, terms, update_source), None)
        return await _download(context, server, source, found, _Target(project, wanted, terms, update_source))


def _may_share(other: Image, source: RemoteSource, terms: Terms) -> bool:
    """Whether another project's image may be given to who asks: it is public here or at the server it came from."""
    if other.public or terms.visible is None or other.project in terms.visible:
        return True
    origin = other.update_source
    return origin is not None and (origin.server, origin.protocol, origin.certificate) == (
        source.server,
        source.protocol,
        source.certificate,
    )


@dataclass(frozen=True, slots=True)
class _Target:
    project: str
    wanted: Wanted
    terms: Terms
    update_source: UpdateSource | None


async def _download(
    context: Context, server: ImageServer, source: RemoteSource, found: RemoteImage, target: _Target
) -> Image:
    await context.db.read(_check_budget, target.project, found.size)
    log.info("Downloading image %s from %s", found.fingerprint, source.server)
    spool = await Spool.make(context.member.images_dir)
    try:
        await server.download(source, found, spool)
        if spool.fingerprint != found.fingerprint:
            raise InvalidRequest(
                f"Image fingerprint doesn't match. Got {spool.fingerprint} expected {found.fingerprint}"
            )
        await context.db.read(_check_budget, target.project, spool.files.size)
        inspection = await unpack.inspect(spool.files)
        filename = target.wanted.filename or found.filename
        wanted = replace(target.wanted, filename=filename, aliases=())
        image = create.compose_image(target.project, found.fingerprint, spool.files.size, inspection, wanted)
        return await create.add_image(context, _as_told(image, found, target), spool.files)
    finally:
        await spool.discard()


def _as_told(image: Image, found: RemoteImage, target: _Target) -> Image:
    """The image with what its server says of it over what its own metadata says."""
    if found.properties is not None:
        image = replace(image, properties={**found.properties, **target.wanted.properties})
    return _kept(
        replace(
            image,
            created_at=create.parse_expiry(found.created_at) or image.created_at,
            expires_at=target.wanted.expires_at or create.parse_expiry(found.expires_at) or image.expires_at,
        ),
        target.terms,
        target.update_source,
        auto_update=target.wanted.auto_update,
    )


def _kept(image: Image, terms: Terms, source: UpdateSource | None, *, auto_update: bool) -> Image:
    """Only what came by an alias can be updated."""
    return replace(
        image,
        cached=terms.cached,
        last_used_at=format_time(utc_now()) if terms.cached else "",
        auto_update=auto_update and source is not None,
        update_source=source,
    )


def _belonging(other: Image, project: str, wanted: Wanted, terms: Terms, source: UpdateSource | None) -> Image:
    """Another project's image as one of this project's."""
    image = replace(
        other,
        id=0,
        project=project,
        public=wanted.public,
        filename=wanted.filename or other.filename,
        expires_at=wanted.expires_at or other.expires_at,
        properties={**other.properties, **wanted.properties},
        profiles=wanted.profiles if wanted.profiles is not None else ["default"],
        aliases=(),
    )
    return _kept(image, terms, source, auto_update=wanted.auto_update)


async def _take_over(context: Context, project: str, cached: Image, wanted: Wanted, terms: Terms) -> Image:
    """A cached image of whatever project for this project."""
    async with context.locks.hold("image download", cached.fingerprint):
        present = await context.db.read(store.find_image, project, cached.fingerprint)
        if present is not None:
            return present
        return await create.add_image(context, _belonging(cached, project, wanted, terms, cached.update_source), None)


def _update_source(source: RemoteSource, found: RemoteImage) -> UpdateSource | None:
    if source.secret or source.protocol == "direct" or found.fingerprint.startswith(source.name):
        return None
    return UpdateSource(source.server, source.protocol, source.certificate, source.name, source.image_type)


def find_cached(tx: Tx, source: RemoteSource) -> Image | None:
    """An image that came by the same alias of the same server and is kept up to date."""
    origin = UpdateSource(source.server, source.protocol, source.certificate, source.name)
    for number in architectures.local_architectures():
        name = architectures.format_architecture(number)
        found = store.find_by_source(tx, origin, source.image_type, name)
        if found is not None:
            return found
    return None


def _find_cached(tx: Tx, preferences: ServerPreferences, source: RemoteSource) -> Image | None:
    if preferences.read().auto_update_interval_h <= 0 or source.secret:
        return None
    return find_cached(tx, source)


def _check_budget(tx: Tx, project: str, size: int) -> None:
    limit, used = usage.read_usage(tx, project)["disk"]
    if 0 <= limit < used + size:
        raise InvalidRequest(f"Remote image with size {size} exceeds allowed budget of {max(limit - used, 0)}")


def _apply_wanted(tx: Tx, image: Image, wanted: Wanted) -> None:
    """What was asked for, on an image that may have been there before."""
    present = store.find_image(tx, image.project, image.fingerprint)
    if present is None:
        raise NotFound("Image not found")
    if wanted.public or wanted.auto_update or wanted.properties:
        changed = replace(
            present,
            public=wanted.public,
            auto_update=wanted.auto_update and present.update_source is not None,
            properties={**present.properties, **wanted.properties},
        )
        store.update_image(tx, changed)
    alias_store.check_free(tx, image.project, [name for name, _ in wanted.aliases])
    for name, description in wanted.aliases:
        alias_store.insert_alias(tx, image.project, name, present.id, description)
