"""The image that an instance is made from: found by alias, fingerprint or properties among the project's images."""

from collections.abc import Mapping
from pathlib import Path

from corral.api.instances import InstanceSource
from corral.errors import InvalidRequest, NotFound, NotSupported
from corral.server.context import Context
from corral.server.db.database import Tx
from corral.server.images import alias_store, unpack
from corral.server.images import store as images
from corral.server.images.formats import image_files
from corral.server.images.model import Image
from corral.server.operations.model import report
from corral.server.projects import store as projects
from corral.server.storage.model import ImageSource


def resolve(tx: Tx, project: str, source: InstanceSource) -> Image:
    """The image that a source names; NotFound or InvalidRequest where there is none."""
    owner = project if projects.get_project(tx, project).has("features.images") else "default"
    if source.server and not (source.fingerprint and images.find_image(tx, owner, source.fingerprint)):
        raise NotSupported(
            f"Images of remote servers ({source.server}) cannot be fetched by this server yet: import the image or "
            "copy it here first"
        )
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
