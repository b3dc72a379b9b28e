"""The volumes that pools keep of images, unpacked once for each pool, and the volumes that are cloned from them."""

from dataclasses import replace

from corral.errors import CommandFailed
from corral.server.context import Context
from corral.server.host.threads import in_thread
from corral.server.rollback import Rollback
from corral.server.storage import creation, model, pools, store, volumes
from corral.server.storage.driver import ReclaimsSpace, SealsVolumes, StorageDriver, StoredVolume
from corral.server.storage.model import ImageSource, Pool, Volume, VolumeType
from corral.server.storage.registry import open_driver


async def create_from_image(context: Context, draft: Volume, image: ImageSource, size: int | None) -> Volume:
    """Make a volume, of at most `size` bytes, with the contents of an image."""

    async def fill(volume: Volume) -> None:
        await clone(context, image, volume.pool, volumes.stored(context.member, volume), size)

    return await creation.create_filled(context, draft, fill)


async def clone(context: Context, image: ImageSource, pool: Pool, target: StoredVolume, size: int | None) -> None:
    """Make a volume as a copy of an image's, which is unpacked first where the pool does not have it."""
    driver = open_driver(context.member, pool)
    for last in (False, True):
        async with context.locks.hold("image volume", pool.id, image.fingerprint):
            cached = await _ensure_image(context, driver, pool, image)
        try:
            return await driver.copy_volume(volumes.stored(context.member, cached), target, size)
        except (OSError, CommandFailed):
            # Copies do not hold the image's lock, so that many run at once: the image may be removed under one.
            if last or volumes.path(context.member, cached).is_dir():
                raise
            await driver.delete_volume(target)
    return None


async def _ensure_image(context: Context, driver: StorageDriver, pool: Pool, image: ImageSource) -> Volume:
    """The image's volume in a pool, filled now where it is not there. The caller holds the image's lock."""
    found = await context.db.read(store.find_volume, pool, "default", image.fingerprint, VolumeType.IMAGE)
    if found is not None:
        if not found.pending and volumes.path(context.member, found).is_dir():
            return found
        # Half of an image, or one whose directory somebody removed: forget the row and unpack again.
        await context.db.write(store.delete_volume, found.id)
    planned = Volume(0, pool, "default", image.fingerprint, VolumeType.IMAGE, pending="create")
    final = volumes.path(context.member, planned)
    async with Rollback() as undo:
        volume = await context.db.write(store.insert_volume, planned)
        undo.add(context.db.write, store.delete_volume, volume.id)
        # What has the final name without a row is of a database that is gone; it may be half of an image.
        await driver.delete_volume(StoredVolume(volume.id, VolumeType.IMAGE, final))
        partial = StoredVolume(volume.id, VolumeType.IMAGE, model.partial(final))
        await driver.delete_volume(partial)
        undo.add(driver.delete_volume, partial)
        await _fill(driver, partial, image)
        await in_thread(partial.path.chmod, VolumeType.IMAGE.mode)
        await driver.rename_volume(partial, final)
        undo.add(driver.delete_volume, StoredVolume(volume.id, VolumeType.IMAGE, final))
        if isinstance(driver, SealsVolumes):
            await driver.seal_volume(StoredVolume(volume.id, VolumeType.IMAGE, final))
        await context.db.write(store.mark_volume, volume.id, "")
        undo.commit()
    return replace(volume, pending="")


async def _fill(driver: StorageDriver, volume: StoredVolume, image: ImageSource) -> None:
    """Make a volume and unpack an image into it; again where that failed while deleted data still took the space."""
    for last in (False, True):
        try:
            await driver.create_volume(volume)
            return await image.fill(volume.path)
        except (OSError, CommandFailed) as error:
            await driver.delete_volume(volume)
            if last or not pools.is_for_space(error) or not isinstance(driver, ReclaimsSpace):
                raise
            if not await driver.reclaim():
                raise
    return None


async def delete(context: Context, fingerprint: str) -> None:
    """Remove the cached volumes of an image from all pools; a pool that is not there is left out."""
    for pool in await context.db.read(store.list_pools):
        if pools.status(context, pool) == model.CREATED:
            await delete_cached(context, pool, fingerprint)


async def delete_cached(context: Context, pool: Pool, fingerprint: str) -> None:
    """Remove the cached volume of an image from one pool."""
    async with context.locks.hold("image volume", pool.id, fingerprint):
        volume = await context.db.read(store.find_volume, pool, "default", fingerprint, VolumeType.IMAGE)
        if volume is not None:
            await volumes.delete(context, volume)


async def replace_image(context: Context, fingerprint: str, new: ImageSource) -> None:
    """Unpack a newer image in those pools that have the older one, so that its first instance need not wait."""
    for pool in await context.db.read(store.list_pools):
        if pools.status(context, pool) != model.CREATED:
            continue
        if await context.db.read(store.find_volume, pool, "default", fingerprint, VolumeType.IMAGE) is None:
            continue
        async with context.locks.hold("image volume", pool.id, new.fingerprint):
            await _ensure_image(context, open_driver(context.member, pool), pool, new)
