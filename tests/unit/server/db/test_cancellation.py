"""A cancelled caller of a write knows what was written."""

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from corral.server.db.database import Database, Tx


def make_table(tx: Tx) -> None:
    tx.execute("CREATE TABLE things (name TEXT)")


def insert(tx: Tx, started: threading.Event, go_on: threading.Event) -> int:
    started.set()
    assert go_on.wait(60)
    return tx.execute("INSERT INTO things VALUES ('a')")


def fail(tx: Tx, started: threading.Event, go_on: threading.Event) -> int:
    insert(tx, started, go_on)
    raise ValueError("after all")


def count(tx: Tx) -> int:
    return len(tx.rows("SELECT * FROM things"))


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database(tmp_path / "db")
    await database.open(make_table)
    yield database
    await database.close()


async def test_the_result_comes_before_the_cancellation(db: Database) -> None:
    started, go_on = threading.Event(), threading.Event()
    steps: list[str] = []

    async def verb() -> None:
        steps.append(f"row {await db.write(insert, started, go_on)}")
        steps.append("undo registered")
        await asyncio.sleep(0)
        steps.append("never")

    task = asyncio.ensure_future(verb())
    await asyncio.to_thread(started.wait, 10)
    task.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert steps == ["row 1", "undo registered"]
    assert await db.read(count) == 1


async def test_a_failed_write_of_a_cancelled_caller_is_a_cancellation(db: Database) -> None:
    started, go_on = threading.Event(), threading.Event()
    task = asyncio.ensure_future(db.write(fail, started, go_on))
    await asyncio.to_thread(started.wait, 10)
    task.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await db.read(count) == 0


async def test_a_deadline_stays_a_deadline(db: Database) -> None:
    started, go_on = threading.Event(), threading.Event()

    async def verb() -> None:
        async with asyncio.timeout(0.02):
            await db.write(insert, started, go_on)
            await asyncio.sleep(10)

    task = asyncio.ensure_future(verb())
    await asyncio.sleep(0.05)
    go_on.set()
    with pytest.raises(TimeoutError):
        await task
