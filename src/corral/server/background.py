"""Tasks that nobody awaits: kept alive, named, logged when they fail, and ended with the daemon or with a block."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

log = logging.getLogger(__name__)


class Background:
    """The daemon's own tasks."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, name: str, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a coroutine; its failure is logged."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def every(self, interval_s: float, name: str, fn: Callable[[], Awaitable[Any]]) -> asyncio.Task[Any]:
        """Call a function now and then again `interval_s` seconds after each end; a failure does not end the series."""

        async def series() -> None:
            while True:
                try:
                    await fn()
                except Exception:
                    log.exception("Background task %s failed", name)
                await asyncio.sleep(interval_s)

        return self.start(name, series())

    async def stop(self) -> None:
        """Cancel all tasks and wait for their ends."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        _log_failure(task)


@contextlib.asynccontextmanager
async def alongside(name: str, *works: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run coroutines beside the block, for what only watches or feeds its work.

    They are cancelled and waited for at the block's end; the failure of one is logged and does not end the block.
    """
    tasks = [asyncio.create_task(work, name=name) for work in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in tasks:
            _log_failure(task)


def _log_failure(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("Background task %s failed", task.get_name(), exc_info=task.exception())
