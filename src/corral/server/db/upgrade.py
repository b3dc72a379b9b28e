"""Opens a database safely: a copy is kept before its schema changes or a repair file of the administrator is run."""

import logging
import os
import shutil
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from corral.errors import CorralError, InternalError
from corral.server.db import schema
from corral.server.db.database import Database, Tx
from corral.server.host.threads import in_thread

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Upkeep:
    """What surrounds a database file: its kind, the copy that is kept, and the repair file that is looked for.

    `backup` is a file, or a directory that gets a `db.bin` where `in_directory` is set.
    """

    kind: str
    backup: Path
    patch: Path
    in_directory: bool = False


def of_global(directory: Path) -> Upkeep:
    """The upkeep of the shared database below the daemon's database directory."""
    return Upkeep("cluster", directory / "global.bak", directory / "patch.global.sql", in_directory=True)


def of_local(directory: Path) -> Upkeep:
    """The upkeep of this member's database below the daemon's database directory."""
    return Upkeep("local", directory / "local.db.bak", directory / "patch.local.sql")


async def open_database(database: Database, upkeep: Upkeep) -> None:
    """Open a database, bring its schema up to date and run the repair file, all or nothing.

    The repair file is deleted when its statements are committed. Raises InternalError where the database is damaged
    or a statement fails; the database is then as it was before.
    """
    await database.connect()
    queries = await in_thread(_read, upkeep.patch)
    if await database.read(_changes, upkeep.kind, queries):
        await _keep_copy(database, upkeep)
    try:
        await database.write(_change, upkeep, queries)
    except sqlite3.Error as error:
        raise InternalError(f"Failed to update the {upkeep.kind} database: {error}") from error
    if queries is not None:
        await in_thread(upkeep.patch.unlink)
        log.warning("The statements of %s were applied, the file is deleted", upkeep.patch)


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise InternalError(f"Failed to read {path}: it is no text ({error})") from error


def _changes(tx: Tx, kind: str, queries: str | None) -> bool:
    return not schema.is_empty(tx) and (queries is not None or schema.is_behind(tx, kind))


async def _keep_copy(database: Database, upkeep: Upkeep) -> None:
    """Replace the kept copy by the present state; a copy that cannot be made stops the change."""
    fresh = upkeep.backup.with_name(upkeep.backup.name + ".new")
    try:
        await in_thread(_clear, fresh)
        if upkeep.in_directory:
            await in_thread(fresh.mkdir, 0o750)
        await database.back_up(fresh / "db.bin" if upkeep.in_directory else fresh)
        await in_thread(_replace, fresh, upkeep.backup)
    except (OSError, sqlite3.Error, CorralError) as error:
        await in_thread(_clear, fresh)
        raise InternalError(f"The database is not changed because no copy of it could be made: {error}") from error
    log.warning("A copy of the %s database as it was is kept in %s", upkeep.kind, upkeep.backup)


def _clear(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _replace(fresh: Path, kept: Path) -> None:
    if fresh.is_dir():
        _clear(kept)
    os.replace(fresh, kept)


def _change(tx: Tx, upkeep: Upkeep, queries: str | None) -> None:
    schema.SCHEMAS[upkeep.kind](tx)
    for statement in schema.split(queries or ""):
        try:
            tx.execute(statement)
        except sqlite3.Error as error:
            raise InternalError(f"Failed to execute queries from {upkeep.patch}: {error} in: {statement}") from error
