"""The image that an instance is made from: one of the project's, or one to fetch from another server."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from corral.api.instances import InstanceSource, InstancesPost
from corral.errors import InvalidRequest, NotFound
from corral.server.context import Context
from corral.server.db.database import Tx
from corral.server.images import alias_store, fetch, unpack
from corral.server.images import store as images
from corral.server.images.formats import image_files
from corral.server.images.model import PROTOCOLS, Image, Wanted
from corral.server.images.preferences import ServerPreferences
from corral.server.images.remote.model import RemoteSource
from corral.server.operations.model import report
from corral.server.outbound.http import check_url
from corral.server.projects import store as projects
from corral.server.storage.model import ImageSource


@dataclass(frozen=True, slots=True)
class RemoteOrder:
    """An image to fetch for an instance: where it is, and the project that gets it. `auto_update` keeps it fresh."""

    source: RemoteSource
    project: str
    auto_update: bool


def resolve_remote(tx: Tx, preferences: ServerPreferences, project: str, body: InstancesPost) -> RemoteOrder | None:
    """What to fetch for a new instance; None where the image is one of this server's."""
    source = body.source
    if source.type != "image" or not source.server:
        return None
    name = source.fingerprint or source.alias
    if not name:
        if source.properties is not None:
            raise InvalidRequest("Property match is only supported for local images")
        raise InvalidRequest("Must specify one of alias, fingerprint or properties for init from image")
    check_url(source.server)
    remote = RemoteSource(
        server=source.server,
        protocol=source.protocol or "lxd",
        name=name,
        certificate=source.certificate,
        secret=source.secret,
        image_type=body.type or "container",
        project=source.project,
    )
    if remote.protocol not in PROTOCOLS:
        raise InvalidRequest(f"Unsupported protocol: {remote.protocol}")
    owner = projects.get_project(tx, project).owner_of("features.images")
    return RemoteOrder(remote, owner, preferences.of_project(tx, project).auto_update_cached)


def find_present(tx: Tx, order: RemoteOrder) -> Image | None:
    """The image that a remote one has been fetched as before, if it is here: its profiles count for new instances."""
    cached = fetch.find_cached(tx, order.source)
    return images.find_image(tx, order.project, cached.fingerprint if cached is not None else order.source.name)


async def fetch_remote(context: Context, order: RemoteOrder) -> Image:
    """The image of another server, downloaded where it is not here yet."""
    terms = fetch.Terms(cached=True, prefer_cached=True)
    return await fetch.fetch(context, order.project, order.source, Wanted(auto_update=order.auto_update), terms)


def resolve(tx: Tx, project: str, source: InstanceSource) -> Image:
    """The image of this server that a source names; NotFound or InvalidRequest where there is none."""
    owner = projects.get_project(tx, project).owner_of("features.images")
    if source.fingerprint:
        return images.get_image(tx, owner, source.fingerprint)
    if source.alias:
        return images.get_image(tx, owner, alias_store.get_alias(tx, owner, source.alias).target)
    if source.properties is None:
        raise InvalidRequest("Must specify one of alias, fingerprint or properties for init from image")
    matching = [one for one in images.list_images(tx, owner) if _has(one.properties, source.properties)]
    if not matching:
        raise NotFound("No matching image could be found")
    return max(matching, key=lambda one: one.created_at)


def _has(properties: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    return all(properties.get(key) == value for key, value in wanted.items())


def volume_source(context: Context, fingerprint: str) -> ImageSource:
    """The image as storage wants it: unpacked on demand, once for each pool."""

    def progress(percent: int) -> None:
        report(create_instance_from_image_unpack_progress=f"Unpack: {percent}%")

    async def fill(directory: Path) -> None:
        await unpack.unpack(image_files(context.member.images_dir, fingerprint), directory, progress=progress)

    return ImageSource(fingerprint, fill)
