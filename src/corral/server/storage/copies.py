"""Copies of volumes: within a pool by its driver, between pools file by file, with snapshots or without."""

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from corral.server.context import Context
from corral.server.db.database import Tx
from corral.server.host import command
from corral.server.host.threads import in_thread
from corral.server.rollback import Rollback
from corral.server.storage import keys, model, pools, snapshots, store, tree, volumes
from corral.server.storage.driver import SealsVolumes, StorageDriver, StoredVolume
from corral.server.storage.model import Volume
from corral.server.storage.registry import open_driver


async def create_copy(  # noqa: PLR0913  (what a copy is made of and where it goes)
    context: Context,
    source: Volume,
    pool_name: str,
    project: str,
    name: str,
    *,
    snapshot: str = "",
    with_snapshots: Sequence[str] = (),
    config: Mapping[str, str] | None = None,
    note: Callable[[Tx, Volume], None] | None = None,
) -> Volume:
    """Make a volume with the contents of another, or of its snapshot; its own snapshots come along where named.

    Rows of the snapshots are the caller's work: `note` writes them in the transaction that finishes the volume. In
    `config` a `size` is the limit of an instance's volume.
    """
    pool = await pools.get_usable(context, pool_name)
    pools.check_usable(context, source.pool)
    wanted = dict(config if config is not None else source.config)
    draft = volumes.draft(pool, project, name, source.type, wanted, source.description)
    size = keys.quota_of(wanted, pool.config, source.type)
    driver = open_driver(context.member, pool)
    await volumes.refuse_leftover(context, draft)
    async with Rollback() as undo, pools.explain_full(context, pool):
        volume = await context.db.write(volumes.insert, draft)
        undo.add(context.db.write, store.delete_volume, volume.id)
        target = volumes.stored(context.member, volume)
        undo.add(driver.delete_volume, target)
        undo.add(remove_snapshots, driver, target)
        for one in with_snapshots:
            await copy_snapshot(context, source, volume, one)
        await _copy(driver, _contents(context, source, snapshot), target, size, local=source.pool.id == pool.id)
        await volumes.finish(context, volume, note)
        undo.commit()
    return replace(volume, pending="")


async def create_filled(
    context: Context,
    draft: Volume,
    fill: Callable[[Volume], Awaitable[None]],
    note: Callable[[Tx, Volume], None] | None = None,
) -> Volume:
    """Make a volume that `fill` makes on the disk, with its snapshots; what came so far goes where that fails.

    `note` writes what else belongs to the volume in the transaction that finishes it.
    """
    driver = open_driver(context.member, draft.pool)
    await volumes.refuse_leftover(context, draft)
    async with Rollback() as undo, pools.explain_full(context, draft.pool):
        volume = await context.db.write(volumes.insert, draft)
        undo.add(context.db.write, store.delete_volume, volume.id)
        target = volumes.stored(context.member, volume)
        undo.add(driver.delete_volume, target)
        undo.add(remove_snapshots, driver, target)
        await fill(volume)
        await volumes.finish(context, volume, note)
        undo.commit()
    return replace(volume, pending="")


async def discard(context: Context, volume: Volume) -> None:
    """Remove a copy with all its snapshots. Repeatable."""
    driver = open_driver(context.member, volume.pool)
    await remove_snapshots(driver, volumes.stored(context.member, volume))
    await volumes.delete(context, volume)


async def copy_snapshot(context: Context, source: Volume, volume: Volume, name: str) -> None:
    """Give a volume the contents of another's snapshot as a snapshot of its own."""
    driver = open_driver(context.member, volume.pool)
    path = model.snapshot_path(volumes.path(context.member, volume), name)
    target = StoredVolume(0, volume.type, path)
    await in_thread(snapshots.make_directory, path.parent)
    local = source.pool.id == volume.pool.id
    await _copy(driver, _contents(context, source, name), target, None, local=local)
    if isinstance(driver, SealsVolumes):
        await driver.seal_volume(target)


async def replace_contents(context: Context, source: Volume, snapshot: str, volume: Volume) -> None:
    """Give a volume the contents of another, or of its snapshot: all of it, or nothing if it fails."""
    pools.check_usable(context, volume.pool)
    driver = open_driver(context.member, volume.pool)
    present = volumes.stored(context.member, volume)
    new = StoredVolume(volume.id, volume.type, model.partial(present.path))
    old = StoredVolume(0, volume.type, model.former(present.path))
    async with Rollback() as undo, pools.explain_full(context, volume.pool):
        undo.add(driver.delete_volume, new)
        local = source.pool.id == volume.pool.id
        await _copy(driver, _contents(context, source, snapshot), new, None, local=local)
        await driver.rename_volume(present, old.path)
        undo.add(driver.rename_volume, old, present.path)
        await driver.rename_volume(new, present.path)
        undo.commit()
    await driver.delete_volume(old)


def _contents(context: Context, volume: Volume, snapshot: str) -> StoredVolume:
    present = volumes.stored(context.member, volume)
    if not snapshot:
        return present
    return StoredVolume(0, volume.type, model.snapshot_path(present.path, snapshot))


async def _copy(
    driver: StorageDriver, source: StoredVolume, target: StoredVolume, size: int | None, *, local: bool
) -> None:
    if local:
        await driver.copy_volume(source, target, size)
        return
    await driver.create_volume(target, size)
    argv = ["cp", "-a", "--sparse=auto", "--", f"{source.path}/.", str(target.path)]
    await command.run(argv, timeout_s=tree.COPY_TIMEOUT_S)
    await in_thread(os.chmod, target.path, target.type.mode)


async def remove_snapshots(driver: StorageDriver, volume: StoredVolume) -> None:
    """Remove the contents of all snapshots of a volume. Repeatable."""
    directory = model.snapshot_path(volume.path, "x").parent
    for name in await in_thread(_list, directory):
        await driver.delete_volume(StoredVolume(0, volume.type, directory / name))
    await in_thread(snapshots.remove_empty, directory)


def _list(directory: Path) -> list[str]:
    return os.listdir(directory) if directory.is_dir() else []
