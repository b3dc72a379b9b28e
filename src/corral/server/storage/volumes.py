"""Volumes: drafted, mounted, resized, renamed, updated, deleted. They are made in creation.py and image_volumes.py."""

import contextlib
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from corral.api.urls import url
from corral.errors import AlreadyExists, InvalidRequest
from corral.server.context import Context, Member
from corral.server.db.database import Tx
from corral.server.events.model import Lifecycle
from corral.server.host.threads import in_thread
from corral.server.projects import permissions
from corral.server.rollback import Rollback
from corral.server.rollback import finish as to_its_end
from corral.server.storage import keys, model, pools, store
from corral.server.storage.driver import CountsTogether, StoredVolume
from corral.server.storage.model import ContentType, Pool, Usage, Volume, VolumeType
from corral.server.storage.registry import open_driver


def path(member: Member, volume: Volume) -> Path:
    """The volume's directory; it is there while the pool is mounted."""
    return model.volume_path(member, volume.pool.name, volume.type, volume.storage_name)


def stored(member: Member, volume: Volume) -> StoredVolume:
    """The volume as its driver sees it."""
    return StoredVolume(volume.id, volume.type, path(member, volume))


def scratch(beside: StoredVolume) -> StoredVolume:
    """A volume without a row for the time of a work, in a volume's pool: a restart removes what is left of it."""
    return StoredVolume(0, beside.type, beside.path.with_name(f"{model.PARTIAL}{uuid.uuid4()}"))


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
