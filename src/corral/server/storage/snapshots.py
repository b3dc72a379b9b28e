"""Snapshots of a volume's contents: taken, removed, restored. Rows and names are their users' work."""

import contextlib
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from corral.server.context import Context
from corral.server.host.threads import in_thread
from corral.server.rollback import Rollback, finish
from corral.server.storage import model, pools, volumes
from corral.server.storage.driver import CountsSnapshots, StorageDriver, StoredVolume
from corral.server.storage.model import Volume
from corral.server.storage.registry import open_driver


async def create_snapshot(context: Context, volume: Volume, snapshot: str) -> Path:
    """Keep the present contents of a volume under a snapshot's name and return their directory."""
    pools.check_usable(context, volume.pool)
    target = model.snapshot_path(volumes.path(context.member, volume), snapshot)
    driver = open_driver(context.member, volume.pool)
    async with Rollback() as undo, pools.explain_full(context, volume.pool):
        await in_thread(make_directory, target.parent)
        undo.add(remove_empty, target.parent)
        undo.add(driver.delete_volume, StoredVolume(0, volume.type, target))
        await driver.create_snapshot(volumes.stored(context.member, volume), target)
        undo.commit()
    return target


async def usages(context: Context, volume: Volume) -> dict[str, int]:
    """Bytes that each snapshot of a volume takes for itself, by name; what nothing counts is left out."""
    if pools.status(context, volume.pool) != model.CREATED:
        return {}
    driver = open_driver(context.member, volume.pool)
    if not isinstance(driver, CountsSnapshots):
        return {}
    return await driver.snapshot_usages(model.snapshot_path(volumes.path(context.member, volume), "x").parent)


async def delete_snapshot(context: Context, volume: Volume, snapshot: str) -> None:
    """Remove a snapshot's contents. Repeatable."""
    pools.check_usable(context, volume.pool)
    target = model.snapshot_path(volumes.path(context.member, volume), snapshot)
    await open_driver(context.member, volume.pool).delete_volume(StoredVolume(0, volume.type, target))
    await in_thread(remove_empty, target.parent)


async def rename_snapshot(context: Context, volume: Volume, name: str, new_name: str) -> None:
    """Move a snapshot's contents to another name."""
    pools.check_usable(context, volume.pool)
    present = volumes.path(context.member, volume)
    source = StoredVolume(0, volume.type, model.snapshot_path(present, name))
    await open_driver(context.member, volume.pool).rename_volume(source, model.snapshot_path(present, new_name))


@dataclass(frozen=True, slots=True)
class Record:
    """What the database tells of an exchange of contents: `before` it, with its undo, and `after` it.

    `before` gets the directory of the new contents, which are ready.
    """

    before: Callable[[Rollback, Path], Awaitable[None]]
    after: Callable[[], Awaitable[None]]


async def restore_snapshot(
    context: Context, volume: Volume, snapshot: str, size: int | None = None, record: Record | None = None
) -> None:
    """Replace a volume's contents by those of its snapshot: all of it, or nothing if it fails or the daemon dies."""
    pools.check_usable(context, volume.pool)
    driver = open_driver(context.member, volume.pool)
    path = model.snapshot_path(volumes.path(context.member, volume), snapshot)
    source = StoredVolume(0, volume.type, path)

    async def fill(new: StoredVolume) -> None:
        await driver.copy_volume(source, new, size)

    await replace_contents(context, volume, fill, record)


async def replace_contents(
    context: Context,
    volume: Volume,
    fill: Callable[[StoredVolume], Awaitable[None]],
    record: Record | None = None,
) -> None:
    """Replace a volume's contents by what `fill` makes: all of it, or nothing if it fails or the daemon dies.

    The exchange itself cannot be cancelled.
    """
    driver = open_driver(context.member, volume.pool)
    present = volumes.stored(context.member, volume)
    new = StoredVolume(volume.id, volume.type, model.partial(present.path))
    async with Rollback() as undo, pools.explain_full(context, volume.pool):
        undo.add(driver.delete_volume, new)
        await fill(new)
        await finish(_exchange(driver, present, new, record))
        undo.commit()


async def _exchange(driver: StorageDriver, present: StoredVolume, new: StoredVolume, record: Record | None) -> None:
    old = StoredVolume(0, present.type, model.former(present.path))
    async with Rollback() as undo:
        if record is not None:
            await record.before(undo, new.path)
        await driver.rename_volume(present, old.path)
        undo.add(driver.rename_volume, old, present.path)
        await driver.rename_volume(new, present.path)
        undo.commit()
    if record is not None:
        await record.after()
    await driver.delete_volume(old)


def make_directory(directory: Path) -> None:
    """Make the directory of a volume's snapshots. Repeatable."""
    with contextlib.suppress(FileExistsError):
        directory.mkdir(0o700)


def remove_empty(directory: Path) -> None:
    """Remove the directory of a volume's snapshots where it has none. Repeatable."""
    with contextlib.suppress(OSError):
        directory.rmdir()


async def remove_all(driver: StorageDriver, volume: StoredVolume) -> None:
    """Remove the contents of all snapshots of a volume. Repeatable."""
    directory = model.snapshot_path(volume.path, "x").parent
    for name in await in_thread(_list, directory):
        await driver.delete_volume(StoredVolume(0, volume.type, directory / name))
    await in_thread(remove_empty, directory)


def _list(directory: Path) -> list[str]:
    return os.listdir(directory) if directory.is_dir() else []
