"""Removes images with their copies in the pools, and sweeps what a dead daemon left."""

import logging

from corral.api.urls import url
from corral.errors import NotFound
from corral.server.context import Context
from corral.server.events.model import Lifecycle
from corral.server.host.threads import in_thread
from corral.server.images import spool, store
from corral.server.images.model import Image, ImageDeleted

log = logging.getLogger(__name__)


async def delete_image(context: Context, project: str, fingerprint: str) -> None:
    """Remove an image from a project; its files and the pools' copies go with the last project that has it.

    Raises NotFound where it is gone meanwhile.
    """
    async with context.locks.hold("image", fingerprint):
        image = await context.db.read(store.find_image, project, fingerprint)
        if image is None:
            raise NotFound("Image not found")
        last = await context.db.read(store.count_projects, fingerprint) == 1
        if last:
            await context.events.react(ImageDeleted(fingerprint))
        await context.db.write(store.delete_image, image.id)
        if last:
            # Files without a row are swept at the next start, should the daemon die here.
            await in_thread(spool.remove_files, context.member.images_dir, fingerprint)
    _publish(context, "image-deleted", image)


async def sweep(context: Context) -> None:
    """At the start of the daemon: remove spools and files that belong to no image."""
    known = await context.db.read(store.list_fingerprints)
    removed = await in_thread(spool.sweep_files, context.member.images_dir, known)
    if removed:
        log.info("Removed leftovers of unfinished image imports: %s", ", ".join(sorted(removed)))


def _publish(context: Context, action: str, image: Image) -> None:
    source = url("/1.0/images", image.fingerprint, project=image.project)
    context.events.publish(Lifecycle(action, source, image.project))
