"""The database as the verbs see it: whole transactions as plain functions, run in one thread.

    pool = await db.read(store.get_pool, "default")
    await db.write(store.insert_volume, pool.id, ...)

The function gets a `Tx` and its arguments; it cannot await, so no transaction ever waits for anything but the disk.
"""

import asyncio
import contextlib
import errno
import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from corral.errors import CorralError, InternalError, OutOfSpace, Unavailable
from corral.server.db import changes
from corral.server.db.changes import Changes
from corral.server.host.threads import Unbroken, call, in_thread

P = ParamSpec("P")
R = TypeVar("R")

Value = str | int | float | bytes | None


class Tx:
    """One transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def rows(self, sql: str, *values: Value) -> list[sqlite3.Row]:
        """All rows of a query."""
        return self._connection.execute(sql, values).fetchall()

    def row(self, sql: str, *values: Value) -> sqlite3.Row | None:
        """The first row of a query, or None."""
        found: sqlite3.Row | None = self._connection.execute(sql, values).fetchone()
        return found

    def execute(self, sql: str, *values: Value) -> int:
        """Run a statement and return the id of the last inserted row."""
        return self._connection.execute(sql, values).lastrowid or 0

    def change(self, sql: str, *values: Value) -> int:
        """Run a statement and return the number of rows that it changed."""
        return self._connection.execute(sql, values).rowcount

    def table(self, sql: str) -> tuple[list[str], list[list[Value]]]:
        """The names of the columns of a query, and its rows."""
        cursor = self._connection.execute(sql)
        return [column[0] for column in cursor.description], [list(row) for row in cursor]

    def many(self, sql: str, values: Sequence[Sequence[Value]]) -> None:
        """Run a statement once for each row of values."""
        self._connection.executemany(sql, values)


READ, WRITE = "BEGIN", "BEGIN IMMEDIATE"

WAL_KEPT_BYTES = 16 * 1024 * 1024
"""What the write-ahead log may keep on the disk once it was written back."""

RESERVED_BYTES = 8 * 1024 * 1024
"""Free space on the database's disk that no transaction may grow into: what deletes and frees can always be stored."""

_FULL = frozenset({"SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_FSYNC", "SQLITE_IOERR_SHMSIZE"})
_DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_IOERR")
_UNWRITABLE = ("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")


def explain(path: str, error: sqlite3.Error) -> CorralError | None:
    """What the failure of a database file means for the user; None where the statement was wrong, not the file."""
    name = getattr(error, "sqlite_errorname", "")
    if name in _FULL:
        return OutOfSpace(f"{_full(path)} ({error})")
    if name.startswith(_DAMAGED):
        return InternalError(f"The database {path} cannot be read, restore it from a backup: {error}")
    if name.startswith(_UNWRITABLE):
        return InternalError(f"The database {path} cannot be written: {error}")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return Unavailable(f"The database {path} is locked by another program: try again ({error})")
    return None


class Database:
    """A SQLite file with write-ahead log, used from one thread of its own.

    A commit is on the disk when `write` returns (synchronous=FULL): what a client was told is kept.
    """

    def __init__(self, path: Path | str) -> None:
        self._path = str(path)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="db")
        self._connection: sqlite3.Connection | None = None

    async def open(self, schema: Callable[[Tx], None]) -> None:
        """Open the file, create what is missing and bring the schema up to date in one transaction.

        Raises InternalError where the file is damaged or no database.
        """
        await self.connect()
        try:
            await self.write(schema)
        except sqlite3.DatabaseError as error:
            raise InternalError(f"Failed to open the database {self._path}: {error}") from error

    async def connect(self) -> None:
        """Open the file as it is; raises InternalError where it is damaged or no database."""
        try:
            await self._in_thread(self._open)
        except sqlite3.DatabaseError as error:
            raise InternalError(f"Failed to open the database {self._path}: {error}") from error

    async def watch(self, name: str, tables: Mapping[str, changes.Owner]) -> Changes:
        """Note from now on what is written to some tables; each watch has a name of its own, an SQL word."""
        noted = Changes()
        await self._in_thread(lambda: changes.watch(self._opened(), name, tables, noted.note))
        return noted

    async def checkpoint(self) -> None:
        """Bring all that is committed from the log into the file itself."""
        await self._in_thread(self._checkpoint)

    async def back_up(self, target: Path) -> None:
        """Write a copy of the present state to a file that does not exist yet; the copy is on the disk on return."""
        await self._in_thread(lambda: self._back_up(target))

    async def read(self, fn: Callable[Concatenate[Tx, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a function in a read transaction."""
        return await self._in_thread(lambda: self._transaction(READ, fn, args, kwargs))

    async def write(self, fn: Callable[Concatenate[Tx, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a function in a write transaction: all of it is kept or, when it raises, none.

        Not torn by a cancellation: a caller that is cancelled meanwhile still gets the result, so that the line after
        can register its undo, and meets the cancellation at its next await.
        """
        return await self._write(True, fn, args, kwargs)

    async def write_behind(self, fn: Callable[Concatenate[Tx, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a write transaction that is on the disk with the next `write`, not yet on return.

        A daemon that dies loses nothing; a host that loses power may have none of it, but never what came after it.
        For a step of a longer work, of which nothing outside of the database must be undone without it.
        """
        return await self._write(False, fn, args, kwargs)

    async def _write(self, waits: bool, fn: Callable[..., R], args: Any, kwargs: Any) -> R:
        future: Unbroken[R] = Unbroken(loop=asyncio.get_running_loop())
        try:
            return await call(self._thread, lambda: self._transaction(WRITE, fn, args, kwargs, waits=waits), future)
        except asyncio.CancelledError:
            if not future.done() or future.exception() is not None:
                raise
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()
            task.cancel()
            return future.result()

    async def flush(self) -> None:
        """Wait until all that `write_behind` wrote is on the disk; the database serves others meanwhile."""
        try:
            await in_thread(self._flush)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise OutOfSpace(_full(self._path)) from error
            raise InternalError(f"The database {self._path} cannot be written: {error}") from error

    async def close(self) -> None:
        """Checkpoint the log and close the file."""
        if self._connection is not None:
            await self._in_thread(self._connection.close)
            self._connection = None
        self._thread.shutdown()

    async def _in_thread(self, fn: Callable[[], R]) -> R:
        return await call(self._thread, fn, asyncio.get_running_loop().create_future())

    def _open(self) -> None:
        connection = sqlite3.connect(self._path, isolation_level=None, timeout=10, cached_statements=512)
        connection.row_factory = sqlite3.Row
        try:
            for pragma in (
                "journal_mode=WAL",
                "synchronous=FULL",
                "foreign_keys=ON",
                "busy_timeout=10000",
                f"journal_size_limit={WAL_KEPT_BYTES}",
            ):
                connection.execute(f"PRAGMA {pragma}")
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                raise sqlite3.DatabaseError(str(found).replace("\n", " "))
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    def _checkpoint(self) -> None:
        try:
            self._opened().execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            raise explain(self._path, error) or error from error

    def _back_up(self, target: Path) -> None:
        copy = sqlite3.connect(target, isolation_level=None)
        try:
            self._opened().backup(copy)
        except sqlite3.Error as error:
            raise explain(str(target), error) or error from error
        finally:
            copy.close()
        with open(target, "rb") as file:
            os.fsync(file.fileno())

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise InternalError("The database is closed")
        return self._connection

    def _transaction(self, begin: str, fn: Callable[..., R], args: Any, kwargs: Any, *, waits: bool = True) -> R:
        connection = self._opened()
        try:
            try:
                if not waits:
                    # With a write-ahead log: do not wait for the disk. The next commit that waits brings all before it.
                    connection.execute("PRAGMA synchronous=NORMAL")
                connection.execute(begin)
                pages = _count_pages(connection) if begin == WRITE else 0
                result = fn(Tx(connection), *args, **kwargs)
                if begin == WRITE and _count_pages(connection) > pages:
                    self._check_space()
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            finally:
                if not waits:
                    connection.execute("PRAGMA synchronous=FULL")
        except sqlite3.Error as error:
            meaning = explain(self._path, error)
            if meaning is None:
                raise
            raise meaning from error
        return result

    def _flush(self) -> None:
        # What is no longer in the log is in the file itself, and was brought there with a wait for the disk.
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(f"{self._path}-wal", os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fdatasync(fd)
            finally:
                os.close(fd)

    def _check_space(self) -> None:
        if self._path == ":memory:":
            return
        stat = os.statvfs(os.path.dirname(self._path) or ".")
        if stat.f_bavail * stat.f_frsize < RESERVED_BYTES:
            raise OutOfSpace(_full(self._path))


def _full(path: str) -> str:
    return f"The disk of the database {path} is full: free some space there and try again"


def _count_pages(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA page_count").fetchone()[0])


class LocalDatabase(Database):
    """The tables of this member alone."""
