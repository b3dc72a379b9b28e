"""Backups that stay on the server until they are fetched, expire or are deleted: archives with rows, by owner."""

import logging
import os
import shutil
from collections.abc import Awaitable, Callable, Sequence
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
    """The command of the algorithm that was asked for, else the project's, else the server's.

    Raises InvalidRequest. Administrators, who set the latter two, may give the program arguments; a client may not.
    """
    if algorithm:
        archive.check_algorithm(algorithm)
    else:
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
    publish(context, owner, new_name, "renamed", old_name=f"{owner.place[-1]}/{name}")


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


async def sweep(context: Context, table: Table, owners: Sequence[Owner]) -> None:
    """Bring rows and archives in line after a daemon that died: what it was making goes, what it removed is forgotten.

    Archives without a row stay: after a database was lost they may be what is needed most.
    """
    by_id = {owner.id: owner for owner in owners}
    for backup in await context.db.read(store.list_pending, table):
        if backup.owner_id in by_id:
            await in_thread(archive.remove, by_id[backup.owner_id].path_of(backup.name))
        await context.db.write(store.delete_backup, table, backup.id)
    names = await context.db.read(store.names_by_owner, table)
    kept = [owner for owner in owners if owner.id in names]
    for owner, name in await in_thread(_sweep, owners, kept, names):
        log.warning("Forgetting backup %s of %s: its archive %s is gone", name, owner.place[-1], owner.path_of(name))
        backup = await context.db.read(store.get_backup, table, owner.id, name)
        await context.db.write(store.delete_backup, table, backup.id)


def _sweep(owners: Sequence[Owner], kept: list[Owner], names: dict[int, set[str]]) -> list[tuple[Owner, str]]:
    """Settle what is on the disk; returns the rows that have no archive."""
    for root in {owner.directory.parent for owner in owners}:
        if root.is_dir():
            for entry in list(os.scandir(root)):
                _remove_partial(Path(entry.path))
    lost = []
    for owner in kept:
        if not owner.directory.exists():
            _find_home(owner, owners, names[owner.id])
        present = set(os.listdir(owner.directory)) if owner.directory.is_dir() else set()
        missing, spare = names[owner.id] - present, present - names[owner.id]
        if len(missing) == len(spare) == 1:
            log.warning("Finishing the rename of a backup of %s to %s", owner.place[-1], *missing)
            owner.path_of(spare.pop()).rename(owner.path_of(missing.pop()))
        lost += [(owner, name) for name in missing]
    return lost


def _remove_partial(directory: Path) -> None:
    if directory.is_dir() and not directory.is_symlink():
        for name in os.listdir(directory):
            if name.startswith((archive.PARTIAL, SPOOL_PREFIX)):
                archive.remove(directory / name)
        archive.remove_empty(directory)


def _find_home(owner: Owner, owners: Sequence[Owner], names: set[str]) -> None:
    """An owner whose rename was cut short has its backups in a directory that is nobody's and holds just these."""
    taken = {one.directory for one in owners}
    root = owner.directory.parent
    found = [Path(one.path) for one in os.scandir(root) if Path(one.path) not in taken] if root.is_dir() else []
    fitting = [one for one in found if one.is_dir() and set(os.listdir(one)) == names]
    if len(fitting) == 1:
        log.warning("Moving %s to %s: the rename of its owner did not end", fitting[0], owner.directory)
        fitting[0].rename(owner.directory)
