"""Backups that stay on the server until they are fetched, expire or are deleted: archives with rows, by owner."""

import asyncio
import logging
import os
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from corral.api.urls import url
from corral.server.backups import archive, store
from corral.server.backups.store import Backup, Table
from corral.server.context import Context
from corral.server.events.model import Lifecycle
from corral.server.host.threads import in_thread
from corral.server.images.spool import PREFIX as SPOOL_PREFIX
from corral.server.projects.store import get_project
from corral.server.rollback import Rollback
from corral.server.settings import keys
from corral.server.settings.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Owner:
    """What backups are made of: its row, the directory of its backups, its URL's words, and what events call it."""

    table: Table
    id: int
    directory: Path
    place: tuple[str, ...]
    project: str
    event: str

    def path_of(self, name: str) -> Path:
        """The archive of a backup."""
        return self.directory / name


async def choose_compressor(context: Context, project: str, algorithm: str) -> list[str]:
    """The command of the algorithm that was asked for, else the project's, else the server's."""
    if not algorithm:
        own = await context.db.read(get_project, project)
        preferred = context.parts[Settings].config[keys.BACKUPS_COMPRESSION]
        algorithm = own.config.get("backups.compression_algorithm") or preferred or "gzip"
    return archive.compressor(algorithm)


async def next_name(context: Context, owner: Owner) -> str:
    """The first free name of an owner's series of backups."""
    found = await context.db.read(store.list_backups, owner.table, owner.id)
    return archive.next_name(one.name for one in found)


async def create(context: Context, owner: Owner, new: Backup, write: Callable[[Path], Awaitable[None]]) -> None:
    """Keep a backup whose archive `write` makes at a path that it is given. Raises AlreadyExists."""
    target = owner.path_of(new.name)
    partial = target.with_name(archive.PARTIAL + new.name)
    async with Rollback() as undo:
        backup_id = await context.db.write(store.insert_backup, owner.table, new)
        undo.add(context.db.write, store.delete_backup, owner.table, backup_id)
        await in_thread(archive.make_directory, target.parent)
        undo.add(in_thread, archive.remove, partial)
        await write(partial)
        await in_thread(archive.settle, partial, target)
        undo.add(in_thread, archive.remove, target)
        await context.db.write(store.finish_backup, owner.table, backup_id)
        undo.commit()
    publish(context, owner, new.name, "created")


async def rename(context: Context, owner: Owner, name: str, new_name: str) -> None:
    """Give a backup another name."""
    archive.check_name(new_name)
    async with context.locks.hold(owner.table.name, owner.id):
        backup = await context.db.read(store.get_backup, owner.table, owner.id, name)
        async with Rollback() as undo:
            await context.db.write(store.rename_backup, owner.table, backup, new_name)
            undo.add(context.db.write, store.rename_backup, owner.table, backup, name)
            await in_thread(owner.path_of(name).rename, owner.path_of(new_name))
            undo.commit()
    publish(context, owner, new_name, "renamed", old_name=name)


async def delete(context: Context, owner: Owner, name: str) -> None:
    """Remove a backup and its archive."""
    async with context.locks.hold(owner.table.name, owner.id):
        backup = await context.db.read(store.get_backup, owner.table, owner.id, name)
        await in_thread(archive.remove, owner.path_of(name))
        await context.db.write(store.delete_backup, owner.table, backup.id)
    publish(context, owner, name, "deleted")


def publish(context: Context, owner: Owner, name: str, verb: str, **more: str) -> None:
    """Tell what happened to a backup."""
    source = url(*owner.place, "backups", name, project=owner.project)
    context.events.publish(Lifecycle(f"{owner.event}-backup-{verb}", source, owner.project, more))


async def sweep_uploads(context: Context) -> None:
    """Remove what a daemon that died left of imports."""
    await in_thread(_remove_spools, context.member.state_dir / "backups")


def _remove_spools(directory: Path) -> None:
    for entry in os.scandir(directory):
        if entry.name.startswith(SPOOL_PREFIX):
            shutil.rmtree(entry.path, ignore_errors=True)


async def sweep(context: Context, table: Table, owners: list[Owner], roots: list[Path]) -> None:
    """Bring the archives below some directories in line with the rows of a table."""
    await context.db.write(store.delete_pending, table)
    names = await context.db.read(store.names_by_owner, table)
    wanted = {owner.directory: names[owner.id] for owner in owners if owner.id in names}
    await asyncio.gather(*(in_thread(_sweep, root, wanted) for root in roots))


def _sweep(root: Path, wanted: dict[Path, set[str]]) -> None:
    """Archives of no backup go, except those whose owner was being renamed: they go to where they belong."""
    if not root.is_dir():
        return
    for directory in [Path(entry.path) for entry in os.scandir(root)]:
        present = {name for name in os.listdir(directory) if not name.startswith(".")} if directory.is_dir() else set()
        if directory not in wanted and present:
            homes = [one for one in wanted if one.parent == root and not one.exists() and wanted[one] == present]
            if len(homes) == 1:
                log.warning("Moving %s to %s: the rename of its owner did not end", directory, homes[0])
                directory.rename(homes[0])
                continue
        _sweep_owner(directory, wanted.get(directory, set()))
    archive.remove_empty(root)


def _sweep_owner(directory: Path, wanted: set[str]) -> None:
    if not directory.is_dir():
        return
    listed = os.listdir(directory)
    gone = [name for name in listed if name not in wanted]
    if wanted and not wanted & set(listed) and len(gone) == len(wanted) == 1 and not gone[0].startswith("."):
        log.warning("Renaming %s to %s: the rename of the backup did not end", directory / gone[0], min(wanted))
        (directory / gone[0]).rename(directory / min(wanted))
        return
    for name in gone:
        log.warning("Removing %s: it belongs to no backup", directory / name)
        archive.remove(directory / name)
    archive.remove_empty(directory)
