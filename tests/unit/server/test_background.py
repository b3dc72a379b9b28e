"""Tasks beside a block: they end with it, also when it fails, and their own failures are only logged."""

import asyncio
import logging

import pytest

from corral.server.background import alongside


async def test_what_runs_beside_a_block_has_ended_when_the_block_has() -> None:
    seen: list[str] = []

    async def watch(name: str) -> None:
        seen.append(name)
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            seen.append(f"{name} ended")

    with pytest.raises(ValueError, match="work"):
        async with alongside("watch", watch("a"), watch("b")):
            await asyncio.sleep(0)
            raise ValueError("work")
    assert seen == ["a", "b", "a ended", "b ended"]


async def test_a_failure_beside_a_block_is_logged_and_does_not_end_it(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise ValueError("progress")

    with caplog.at_level(logging.ERROR):
        async with alongside("watch", fail()):
            await asyncio.sleep(0)
            assert not caplog.records
    assert [record.getMessage() for record in caplog.records] == ["Background task watch failed"]
