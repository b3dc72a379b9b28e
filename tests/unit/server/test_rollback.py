"""Undo steps run in reverse, all of them, also under cancellation."""

import asyncio

import pytest

from corral.server.rollback import Rollback, finish, together


async def test_undo_runs_in_reverse_when_the_work_fails() -> None:
    undone: list[str] = []

    async def slow(name: str) -> None:
        await asyncio.sleep(0)
        undone.append(name)

    with pytest.raises(ValueError, match="work"):
        async with Rollback() as undo:
            undo.add(undone.append, "first")
            undo.add(slow, "second")
            raise ValueError("work")
    assert undone == ["second", "first"]


async def test_commit_keeps_everything() -> None:
    undone: list[str] = []
    async with Rollback() as undo:
        undo.add(undone.append, "x")
        undo.commit()
    assert undone == []


async def test_leaving_without_commit_undoes() -> None:
    undone: list[str] = []
    async with Rollback() as undo:
        undo.add(undone.append, "x")
    assert undone == ["x"]


async def test_a_failing_undo_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    undone: list[str] = []

    def broken() -> None:
        raise OSError("disk")

    with pytest.raises(ValueError, match="work"):
        async with Rollback() as undo:
            undo.add(undone.append, "x")
            undo.add(broken)
            raise ValueError("work")
    assert undone == ["x"]
    assert "broken" in caplog.text


async def test_undo_is_finished_under_two_cancellations() -> None:
    entered, release = asyncio.Event(), asyncio.Event()
    undone: list[str] = []

    async def slow_undo() -> None:
        entered.set()
        await release.wait()
        undone.append("done")

    async def work() -> None:
        async with Rollback() as undo:
            undo.add(slow_undo)
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    await entered.wait()
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert undone == ["done"]


async def test_finish_returns_and_raises_like_the_work() -> None:
    async def answer() -> int:
        return 42

    async def fail() -> None:
        raise ValueError("no")

    assert await finish(answer()) == 42
    with pytest.raises(ValueError, match="no"):
        await finish(fail())


async def test_works_beside_each_other_all_end() -> None:
    ended: list[str] = []

    async def work(name: str, error: Exception | None = None) -> str:
        await asyncio.sleep(0)
        ended.append(name)
        if error is not None:
            raise error
        return name

    assert await together(work("a"), work("b")) == ["a", "b"]
    ended.clear()
    with pytest.raises(ValueError, match="first"):
        await together(work("c", ValueError("first")), work("d", ValueError("second")), work("e"))
    assert ended == ["c", "d", "e"]
