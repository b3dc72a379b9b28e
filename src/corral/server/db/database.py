"""The database as the verbs see it: whole transactions as plain functions, run in one thread.

    pool = await db.read(store.get_pool, "default")
    await db.write(store.insert_volume, pool.id, ...)

The function gets a `Tx` and its arguments; it cannot await, so no transaction ever waits for anything but the disk.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from corral.errors import InternalError
from corral.server.host.threads import settle

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

    def many(self, sql: str, values: Sequence[Sequence[Value]]) -> None:
        """Run a statement once for each row of values."""
        self._connection.executemany(sql, values)


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
        try:
            await self._in_thread(self._open)
            await self.write(schema)
        except sqlite3.DatabaseError as error:
            raise InternalError(f"Failed to open the database {self._path}: {error}") from error

    async def read(self, fn: Callable[Concatenate[Tx, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a function in a read transaction."""
        return await self._in_thread(lambda: self._transaction("BEGIN", fn, args, kwargs))

    async def write(self, fn: Callable[Concatenate[Tx, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a function in a write transaction: all of it is kept or, when it raises, none.

        Not torn by a cancellation: a caller that is cancelled meanwhile still gets the result, so that the line after
        can register its undo, and meets the cancellation at its next await.
        """
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._thread, lambda: self._transaction("BEGIN IMMEDIATE", fn, args, kwargs))
        cancelled = await settle(future)
        if cancelled is not None:
            if future.exception() is not None:
                raise cancelled
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()
            task.cancel()
        return future.result()

    async def close(self) -> None:
        """Checkpoint the log and close the file."""
        if self._connection is not None:
            await self._in_thread(self._connection.close)
            self._connection = None
        self._thread.shutdown()

    async def _in_thread(self, fn: Callable[[], R]) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._thread, fn)

    def _open(self) -> None:
        connection = sqlite3.connect(self._path, isolation_level=None, timeout=10, cached_statements=512)
        connection.row_factory = sqlite3.Row
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=10000"):
            connection.execute(f"PRAGMA {pragma}")
        self._connection = connection

    def _transaction(self, begin: str, fn: Callable[..., R], args: Any, kwargs: Any) -> R:
        connection = self._connection
        if connection is None:
            raise InternalError("The database is closed")
        connection.execute(begin)
        try:
            result = fn(Tx(connection), *args, **kwargs)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return result


class LocalDatabase(Database):
    """The tables of this member alone."""
