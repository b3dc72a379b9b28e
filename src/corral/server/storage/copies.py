"""Copies of volumes: in a pool by its driver, between pools as streams or file by file, with snapshots or without."""

import contextlib
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from corral.server.context import Context
from corral.server.db.database import Tx
from corral.server.host.threads import in_thread
from corral.server.rollback import Rollback
from corral.server.storage import creation, keys, model, pools, snapshots, store, streamed_copies, tree, volumes
from corral.server.storage.driver import ClonesVolumes, SealsVolumes, StoredVolume
from corral.server.storage.model import Volume
from corral.server.storage.registry import open_driver
from corral.server.storage.snapshots import Record


@dataclass(frozen=True, slots=True)
class Origin:
    """What is copied: a volume, or its snapshot where one is named.

    `lenient` is for contents that change meanwhile: files that vanish are left out.
    """

    volume: Volume
    snapshot: str = ""
    lenient: bool = False


async def create_copy(  # noqa: PLR0913  (what a copy is made of and where it goes)
    context: Context,
    origin: Origin,
    pool_name: str,
    project: str,
    name: str,
    *,
    with_snapshots: Sequence[str] = (),
    config: Mapping[str, str] | None = None,
    note: Callable[[Tx, Volume], None] | None = None,
) -> Volume:
    """Make a volume with the contents of another, or of its snapshot; its own snapshots come along where named.

    Rows of the snapshots are the caller's work: `note` writes them in the transaction that finishes the volume. In
    `config` a `size` is the limit of an instance's volume.
    """
    source = origin.volume
    pools.check_usable(context, source.pool)
    pool = source.pool if source.pool.name == pool_name else await pools.get_usable(context, pool_name)
    wanted = dict(config if config is not None else source.config)
    draft = volumes.draft(pool, project, name, source.type, wanted, source.description)
    size = keys.quota_of(wanted, pool.config, source.type)

    async def fill(volume: Volume) -> None:
        target = volumes.stored(context.member, volume)
        if source.pool.id != pool.id and streamed_copies.is_possible(context, source.pool, pool):
            await streamed_copies.copy(context, source, origin.snapshot, with_snapshots, volume)
            await open_driver(context.member, pool).set_quota(target, size)
            return
        base: StoredVolume | None = None
        for one in with_snapshots:
            base = await copy_snapshot(context, source, volume, one, base)
        await _copy(context, origin, volume, target, size, base)

    return await creation.create_filled(context, draft, fill, note)


async def discard(context: Context, volume: Volume) -> None:
    """Remove a copy with all its snapshots. Repeatable."""
    driver = open_driver(context.member, volume.pool)
    await snapshots.remove_all(driver, volumes.stored(context.member, volume))
    await volumes.delete(context, volume)


async def discard_contents(context: Context, volume: Volume) -> None:
    """Remove what a volume and its snapshots hold, and the row, which is marked already. Repeatable."""
    driver = open_driver(context.member, volume.pool)
    await snapshots.remove_all(driver, volumes.stored(context.member, volume))
    await driver.delete_volume(volumes.stored(context.member, volume))
    await context.db.write(store.delete_volume, volume.id)


async def copy_snapshot(
    context: Context, source: Volume, volume: Volume, name: str, base: StoredVolume | None = None
) -> StoredVolume:
    """Give a volume the contents of another's snapshot as a snapshot of its own.

    `base` is what the volume's pool has already and is much like it.
    """
    driver = open_driver(context.member, volume.pool)
    target = stored_snapshot(context, volume, name)
    async with Rollback() as undo, pools.explain_full(context, volume.pool):
        await in_thread(snapshots.make_directory, target.path.parent)
        undo.add(snapshots.remove_empty, target.path.parent)
        undo.add(driver.delete_volume, target)
        await _copy(context, Origin(source, name), volume, target, None, base)
        if isinstance(driver, SealsVolumes):
            await driver.seal_volume(target)
        undo.commit()
    return target


async def refresh_contents(
    context: Context,
    origin: Origin,
    volume: Volume,
    size: int | None,
    *,
    latest: str = "",
    record: Record | None = None,
) -> None:
    """Give a volume the contents of another: all of it, or nothing if it fails or the daemon dies.

    Into pools that clone only the differences to the `latest` snapshot, or to the present contents, are written.
    """
    pools.check_usable(context, volume.pool)
    pools.check_usable(context, origin.volume.pool)
    base = stored_snapshot(context, volume, latest)

    async def fill(new: StoredVolume) -> None:
        await _copy(context, origin, volume, new, size, base)

    await snapshots.replace_contents(context, volume, fill, record)


def stored_snapshot(context: Context, volume: Volume, snapshot: str) -> StoredVolume:
    """A snapshot of a volume as its driver sees it; the volume itself where no snapshot is named."""
    present = volumes.stored(context.member, volume)
    if not snapshot:
        return present
    return StoredVolume(0, volume.type, model.snapshot_path(present.path, snapshot))


async def _copy(
    context: Context,
    origin: Origin,
    volume: Volume,
    target: StoredVolume,
    size: int | None,
    base: StoredVolume | None,
) -> None:
    """Make `target`, in the pool of `volume`, with the contents of an origin in whatever pool."""
    driver = open_driver(context.member, volume.pool)
    source = stored_snapshot(context, origin.volume, origin.snapshot)
    local = origin.volume.pool.id == volume.pool.id
    if local and (isinstance(driver, ClonesVolumes) or not origin.lenient):
        await driver.copy_volume(source, target, size)
        return
    if base is not None and isinstance(driver, ClonesVolumes):
        await driver.clone_volume(base, target)
        await driver.set_quota(target, size)
    else:
        await driver.create_volume(target, size)
    async with still(context, origin) as directory:
        await tree.sync_tree(directory, target.path, lenient=origin.lenient)
    await in_thread(os.chmod, target.path, target.type.mode)


@contextlib.asynccontextmanager
async def still(context: Context, origin: Origin) -> AsyncIterator[Path]:
    """A directory with the contents of an origin, of one moment where the pool can clone."""
    driver = open_driver(context.member, origin.volume.pool)
    source = stored_snapshot(context, origin.volume, origin.snapshot)
    if origin.snapshot or not isinstance(driver, ClonesVolumes):
        yield source.path
        return
    clone = volumes.scratch(source)
    async with Rollback() as undo:
        undo.add(driver.delete_volume, clone)
        await driver.clone_volume(source, clone)
        yield clone.path


def clones(context: Context, volume: Volume) -> bool:
    """Whether a volume is copied at once, so that what writes to it meanwhile does no harm."""
    return isinstance(open_driver(context.member, volume.pool), ClonesVolumes)
