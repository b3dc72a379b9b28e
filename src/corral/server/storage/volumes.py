"""Volumes: made empty or from an image, mounted, resized, renamed, updated, deleted."""

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from corral.api.urls import url
from corral.errors import AlreadyExists, CommandFailed, InvalidRequest
from corral.server.context import Context, Member
from corral.server.db.database import Tx
from corral.server.events.model import Lifecycle
from corral.server.host.threads import in_thread
from corral.server.projects import permissions
from corral.server.rollback import Rollback
from corral.server.rollback import finish as to_its_end
from corral.server.storage import keys, model, pools, store
from corral.server.storage.driver import CountsTogether, ReclaimsSpace, SealsVolumes, StorageDriver, StoredVolume
from corral.server.storage.model import ContentType, ImageSource, Pool, Usage, Volume, VolumeType
from corral.server.storage.registry import open_driver


def path(member: Member, volume: Volume) -> Path:
    """The volume's directory; it is there while the pool is mounted."""
    return model.volume_path(member, volume.pool.name, volume.type, volume.storage_name)


def stored(member: Member, volume: Volume) -> StoredVolume:
    """The volume as its driver sees it."""
    return StoredVolume(volume.id, volume.type, path(member, volume))


def draft(
    pool: Pool, project: str, name: str, kind: VolumeType, config: Mapping[str, str], description: str = ""
) -> Volume:
    """A volume to insert: validated, with the pool's defaults. The size of an instance stays with its root disk."""
    kept = {key: value for key, value in config.items() if key != "size" or not kind.is_instance}
    completed = keys.with_defaults(kept, pool.config, kind, ContentType.FILESYSTEM)
    keys.validate_volume(completed, name, kind, ContentType.FILESYSTEM)
    return Volume(0, pool, project, name, kind, config=completed, description=description, pending="create")


async def refuse_leftover(context: Context, draft: Volume) -> None:
    """Raise AlreadyExists where something lies in a new volume's place that the database does not know.

    It may be all that is left after a database was lost: it is asked before a row is made, since what belongs to a row
    in the making is removed when that fails.
    """
    directory = path(context.member, draft)
    if await in_thread(os.path.lexists, directory):
        known = await context.db.read(store.find_volume, draft.pool, draft.project, draft.name, draft.type)
        if known is None:
            daemon = "lxd" if context.member.product.name == "lxd" else "corrald"
            raise AlreadyExists(
                f"Volume {keys.quoted(draft.name)} is on storage pool {keys.quoted(draft.pool.name)} and not in the"
                f" database: bring it back with `{daemon} recover`, or remove {directory}"
            )


async def create_from_image(  # noqa: PLR0913  (the shape that instances were promised)
    context: Context,
    pool_name: str,
    project: str,
    name: str,
    type: VolumeType,
    image: ImageSource,
    config: Mapping[str, str] | None = None,
) -> Volume:
    """Make a volume with the contents of an image, which is unpacked once for each pool.

    A `size` in `config` is the limit of the volume (an instance's root disk has it); it is not stored for instances.
    """
    pool = await pools.get_usable(context, pool_name)
    planned = draft(pool, project, name, type, config or {})
    size = keys.quota_of(config or {}, pool.config, type)
    driver = open_driver(context.member, pool)
    await refuse_leftover(context, planned)
    async with Rollback() as undo, pools.explain_full(context, pool):
        volume = await context.db.write(store.insert_volume, planned)
        undo.add(context.db.write, store.delete_volume, volume.id)
        undo.add(driver.delete_volume, stored(context.member, volume))
        await clone_image(context, image, pool, stored(context.member, volume), size)
        await finish(context, volume)
        undo.commit()
    return replace(volume, pending="")


async def clone_image(context: Context, image: ImageSource, pool: Pool, target: StoredVolume, size: int | None) -> None:
    """Make a volume as a copy of an image's, which is unpacked first where the pool does not have it."""
    driver = open_driver(context.member, pool)
    for last in (False, True):
        async with context.locks.hold("image volume", pool.id, image.fingerprint):
            cached = await _ensure_image(context, driver, pool, image)
        try:
            return await driver.copy_volume(stored(context.member, cached), target, size)
        except (OSError, CommandFailed):
            # Copies do not hold the image's lock, so that many run at once: the image may be removed under one.
            if last or path(context.member, cached).is_dir():
                raise
            await driver.delete_volume(target)
    return None


async def _ensure_image(context: Context, driver: StorageDriver, pool: Pool, image: ImageSource) -> Volume:
    """The image's volume in a pool, filled now where it is not there. The caller holds the image's lock."""
    found = await context.db.read(store.find_volume, pool, "default", image.fingerprint, VolumeType.IMAGE)
    if found is not None:
        if not found.pending and path(context.member, found).is_dir():
            return found
        # Half of an image, or one whose directory somebody removed: forget the row and unpack again.
        await context.db.write(store.delete_volume, found.id)
    planned = Volume(0, pool, "default", image.fingerprint, VolumeType.IMAGE, pending="create")
    final = path(context.member, planned)
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


async def create_empty(  # noqa: PLR0913  (the shape that instances were promised)
    context: Context,
    pool_name: str,
    project: str,
    name: str,
    type: VolumeType,
    config: Mapping[str, str] | None = None,
    description: str = "",
) -> Volume:
    """Make an empty volume."""
    pool = await pools.get_usable(context, pool_name)
    planned = draft(pool, project, name, type, config or {}, description)
    size = keys.quota_of(config or {}, pool.config, type)
    driver = open_driver(context.member, pool)
    await refuse_leftover(context, planned)
    async with Rollback() as undo, pools.explain_full(context, pool):
        volume = await context.db.write(insert, planned)
        undo.add(context.db.write, store.delete_volume, volume.id)
        undo.add(driver.delete_volume, stored(context.member, volume))
        await driver.create_volume(stored(context.member, volume), size)
        await finish(context, volume)
        undo.commit()
    return replace(volume, pending="")


async def finish(context: Context, volume: Volume, note: Callable[[Tx, Volume], None] | None = None) -> None:
    """Mark a volume as whole; `note` writes what else belongs to it.

    Without one an instance's volume stays in the making as its instance does, and is marked with it (`create`).
    """
    if volume.type.is_instance and note is None:
        return

    def mark(tx: Tx) -> None:
        store.mark_volume(tx, volume.id, "")
        if note is not None:
            note(tx, volume)

    await context.db.write(mark)


def insert(tx: Tx, planned: Volume) -> Volume:
    """Add a volume in the making, as far as its project's limits allow."""
    volume = store.insert_volume(tx, planned)
    if planned.type is VolumeType.CUSTOM:
        permissions.check_volumes(tx, planned.project, "volume creation")
    return volume


def _update(tx: Tx, volume: Volume, description: str, config: Mapping[str, str]) -> None:
    store.update_volume(tx, volume.id, description, config)
    if volume.type is VolumeType.CUSTOM:
        permissions.check_volumes(tx, volume.project, "volume update")


async def get(context: Context, pool_name: str, project: str, name: str, type: VolumeType) -> Volume:
    """A volume. Raises NotFound."""

    def read(tx: Tx) -> Volume:
        return store.get_volume(tx, store.get_pool(tx, pool_name), project, name, type)

    return await context.db.read(read)


async def delete(context: Context, volume: Volume) -> None:
    """Remove a volume. Raises InvalidRequest while it has snapshots."""
    pools.check_usable(context, volume.pool)
    await in_thread(_check_without_snapshots, path(context.member, volume))
    await context.db.write(store.mark_volume, volume.id, "delete")
    await delete_contents(context, volume)
    await context.db.write(store.delete_volume, volume.id)


async def delete_contents(context: Context, volume: Volume) -> None:
    """Remove what a volume holds and leave its row to the caller, who has noted that it goes. Repeatable.

    Raises InvalidRequest while it has snapshots.
    """
    pools.check_usable(context, volume.pool)
    await in_thread(_check_without_snapshots, path(context.member, volume))
    await open_driver(context.member, volume.pool).delete_volume(stored(context.member, volume))


def _check_without_snapshots(directory: Path) -> None:
    snapshots = model.snapshot_path(directory, "x").parent
    try:
        snapshots.rmdir()
    except FileNotFoundError:
        return
    except OSError as error:
        raise InvalidRequest("Cannot remove a volume that has snapshots") from error


async def delete_image(context: Context, fingerprint: str) -> None:
    """Remove the cached volumes of an image from all pools; a pool that is not there is left out."""
    for pool in await context.db.read(store.list_pools):
        if pools.status(context, pool) == model.CREATED:
            await delete_cached(context, pool, fingerprint)


async def delete_cached(context: Context, pool: Pool, fingerprint: str) -> None:
    """Remove the cached volume of an image from one pool."""
    async with context.locks.hold("image volume", pool.id, fingerprint):
        volume = await context.db.read(store.find_volume, pool, "default", fingerprint, VolumeType.IMAGE)
        if volume is not None:
            await delete(context, volume)


async def replace_image(context: Context, fingerprint: str, new: ImageSource) -> None:
    """Unpack a newer image in those pools that have the older one, so that its first instance need not wait."""
    for pool in await context.db.read(store.list_pools):
        if pools.status(context, pool) != model.CREATED:
            continue
        if await context.db.read(store.find_volume, pool, "default", fingerprint, VolumeType.IMAGE) is None:
            continue
        async with context.locks.hold("image volume", pool.id, new.fingerprint):
            await _ensure_image(context, open_driver(context.member, pool), pool, new)


async def mount(context: Context, volume: Volume) -> Path:
    """Make the volume's directory usable and return it."""
    pools.check_usable(context, volume.pool)
    return path(context.member, volume)


async def unmount(context: Context, volume: Volume) -> None:
    """The counterpart of `mount`; volumes of dir and btrfs stay where they are."""


async def resize(context: Context, volume: Volume, size_bytes: int | None) -> None:
    """Limit a volume, or remove its limit; None means the pool's default."""
    pools.check_usable(context, volume.pool)
    wanted = size_bytes or keys.quota_of({}, volume.pool.config, volume.type)
    await open_driver(context.member, volume.pool).set_quota(stored(context.member, volume), wanted)


async def usage(context: Context, volume: Volume) -> Usage:
    """Bytes used by a volume and its own limit, as far as they are known."""
    pools.check_usable(context, volume.pool)
    used = await open_driver(context.member, volume.pool).usage(stored(context.member, volume))
    return Usage(used, keys.quota_of(volume.config, {}, volume.type))


async def usages(context: Context, volumes: Sequence[Volume]) -> dict[int, Usage]:
    """Use of many volumes at once, by their ids; those of pools that are not there or do not count are left out."""
    by_pool: dict[str, list[Volume]] = {}
    for volume in volumes:
        by_pool.setdefault(volume.pool.name, []).append(volume)
    found: dict[int, Usage] = {}
    for together in by_pool.values():
        pool = together[0].pool
        if pools.status(context, pool) != model.CREATED:
            continue
        driver = open_driver(context.member, pool)
        if isinstance(driver, CountsTogether):
            used = await driver.usages([stored(context.member, volume) for volume in together])
        else:
            each = [(volume.id, await driver.usage(stored(context.member, volume))) for volume in together]
            used = {volume_id: size for volume_id, size in each if size is not None}
        for volume in together:
            if volume.id in used:
                found[volume.id] = Usage(used[volume.id], keys.quota_of(volume.config, {}, volume.type))
    return found


async def rename(context: Context, volume: Volume, name: str) -> Volume:
    """Give a volume another name, its snapshots too. Raises AlreadyExists. Once begun it cannot be cancelled."""
    pools.check_usable(context, volume.pool)
    renamed: Volume = await to_its_end(_rename(context, volume, name))
    return renamed


async def _rename(context: Context, volume: Volume, name: str) -> Volume:
    renamed = replace(volume, name=name)
    if await context.db.read(store.find_volume, volume.pool, volume.project, name, volume.type) is None:
        await refuse_leftover(context, renamed)
        for _, new in _directories_beside(context.member, volume, renamed):
            await in_thread(_refuse_in_the_way, new)
    async with Rollback() as undo:
        await context.db.write(store.rename_volume, volume, name)
        undo.add(context.db.write, store.mark_volume, volume.id, "")
        undo.add(context.db.write, store.rename_volume, renamed, volume.name)
        undo.add(move_directories, context, renamed, volume)
        await move_directories(context, volume, renamed)
        undo.commit()
    await context.db.write(store.mark_volume, volume.id, "")
    return renamed


async def move_directories(context: Context, volume: Volume, renamed: Volume) -> None:
    """Give the directories of a volume, of its snapshots and of its backups the name of the renamed one. Repeatable."""
    old, new = path(context.member, volume), path(context.member, renamed)
    if await in_thread(lambda: old.is_dir() and not new.exists()):
        await open_driver(context.member, volume.pool).rename_volume(stored(context.member, volume), new)
    for source, target in _directories_beside(context.member, volume, renamed):
        await in_thread(_move, source, target)


def _directories_beside(member: Member, volume: Volume, renamed: Volume) -> list[tuple[Path, Path]]:
    """What a volume has besides its own directory, under both names."""
    old, new = (model.snapshot_path(path(member, one), "x").parent for one in (volume, renamed))
    if volume.type is not VolumeType.CUSTOM:
        return [(old, new)]
    return [(old, new), (model.custom_backups_dir(member, volume), model.custom_backups_dir(member, renamed))]


def _refuse_in_the_way(directory: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if os.listdir(directory):
            raise AlreadyExists(f"{directory} is in the way and belongs to no volume: remove it")
        directory.rmdir()


def _move(old: Path, new: Path) -> None:
    if old.is_dir() and not new.exists():
        old.rename(new)


async def update(context: Context, volume: Volume, description: str, config: Mapping[str, str]) -> None:
    """Change a volume's description and config; a new size takes effect at once."""
    wanted = {key: value for key, value in config.items() if value != ""}
    changed = {key for key in {*volume.config, *wanted} if volume.config.get(key) != wanted.get(key)}
    if volume.type is VolumeType.IMAGE and changed:
        raise InvalidRequest("Volume config is not editable")
    keys.validate_volume(wanted, volume.name, volume.type, volume.content_type)
    async with Rollback() as undo:
        await context.db.write(_update, volume, description, wanted)
        undo.add(context.db.write, store.update_volume, volume.id, volume.description, volume.config)
        if "size" in changed:
            await resize(context, volume, keys.quota_of(wanted, {}, volume.type))
        undo.commit()
    context.events.publish(Lifecycle("storage-volume-updated", url_of(volume), volume.project))


def url_of(volume: Volume) -> str:
    """The volume's URL in the API."""
    return url(
        "/1.0/storage-pools", volume.pool.name, "volumes", volume.type.value, volume.name, project=volume.project
    )
