"""Keeps images up to date with the servers they came from, and removes cached ones that nobody uses."""

import logging
import time
from datetime import UTC, datetime, timedelta

from corral.api.urls import url
from corral.errors import CorralError, NotFound
from corral.server.context import Context
from corral.server.db.database import Tx
from corral.server.events.model import Lifecycle, utc_now
from corral.server.images import alias_store, delete, fetch, store
from corral.server.images.model import Image, ImageRefreshed, ImageReplaced, Wanted
from corral.server.images.preferences import ServerPreferences
from corral.server.images.remote.model import RemoteSource
from corral.server.projects import store as projects

log = logging.getLogger(__name__)

_started = time.monotonic()
_LOCK = "image tasks"


async def refresh_image(context: Context, project: str, fingerprint: str) -> dict[str, bool]:
    """Look for a newer image at the source and replace this one by it; `refreshed` tells whether there was one.

    An image without a source is unpacked anew by the pools when next used.
    """
    image = await context.db.read(store.get_image, project, fingerprint)
    if image.update_source is not None:
        return {"refreshed": await update_image(context, image, fresh=True)}
    async with context.locks.hold("image", image.fingerprint):
        await context.events.react(ImageRefreshed(image.fingerprint))
    _publish_refreshed(context, image)
    return {"refreshed": False}


async def update_image(context: Context, image: Image, *, fresh: bool = False) -> bool:
    """Replace an image by what its source has now; False where that is the same.

    Aliases, profiles and the last use go over to the new image.
    """
    if image.update_source is None:
        return False
    origin = image.update_source
    source = RemoteSource(origin.server, origin.protocol, origin.alias, origin.certificate, image_type=image.type)
    wanted = Wanted(public=image.public, auto_update=True)
    new = await fetch.fetch(context, image.project, source, wanted, fetch.Terms(cached=image.cached, fresh=fresh))
    if new.fingerprint == image.fingerprint:
        return False
    await context.events.react(ImageReplaced(image.fingerprint, new.fingerprint))
    await context.db.write(_hand_over, image, new)
    await delete.delete_image(context, image.project, image.fingerprint)
    _publish_refreshed(context, image)
    return True


def _hand_over(tx: Tx, old: Image, new: Image) -> None:
    present = store.find_image(tx, old.project, old.fingerprint)
    if present is None:
        raise NotFound("Image not found")
    alias_store.move_aliases(tx, present.id, new.id)
    store.take_over(tx, new.id, present)


async def update_all(context: Context) -> None:
    """The hourly look at the images that are to be kept up to date. One that fails does not keep the rest back."""
    async with context.locks.hold(_LOCK):
        for image in await context.db.read(store.list_auto_updated):
            preferences = await context.db.read(context.parts[ServerPreferences].of_project, image.project)
            if not is_due(time.monotonic() - _started, preferences.auto_update_interval_h):
                continue
            try:
                if await update_image(context, image):
                    log.info("Updated image %s of project %s", image.fingerprint, image.project)
            except CorralError as error:
                log.warning("Failed to update image %s of project %s: %s", image.fingerprint, image.project, error)


def is_due(uptime_s: float, interval_h: int) -> bool:
    """Whether an hourly look is one of those that an interval asks for; 0 asks for none."""
    return interval_h > 0 and round(uptime_s / 3600) % interval_h == 0


async def prune_expired(context: Context) -> None:
    """Remove cached images that were not used for as many days as the settings say."""
    async with context.locks.hold(_LOCK):
        for project in await context.db.read(projects.list_projects):
            preferences = await context.db.read(context.parts[ServerPreferences].of_project, project.name)
            if preferences.remote_cache_expiry_days <= 0:
                continue
            before = utc_now() - timedelta(days=preferences.remote_cache_expiry_days)
            for image in await context.db.read(store.list_images, project.name):
                if image.cached and _last_use(image) < before:
                    await _prune(context, image)


async def _prune(context: Context, image: Image) -> None:
    try:
        await delete.delete_image(context, image.project, image.fingerprint)
        log.info("Removed image %s of project %s: it was not used", image.fingerprint, image.project)
    except CorralError as error:
        log.warning("Failed to remove image %s of project %s: %s", image.fingerprint, image.project, error)


def _last_use(image: Image) -> datetime:
    """When an image was used, or came; long ago where the text is no date."""
    try:
        moment = datetime.fromisoformat(image.last_used_at or image.uploaded_at)
    except ValueError:
        return datetime.fromtimestamp(0, UTC)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _publish_refreshed(context: Context, image: Image) -> None:
    source = url("/1.0/images", image.fingerprint, project=image.project)
    context.events.publish(Lifecycle("image-refreshed", source, image.project))
