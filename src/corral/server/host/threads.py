"""Runs a few system calls that may sleep away from the event loop."""

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_pool = ThreadPoolExecutor(max_workers=16, thread_name_prefix="host")


class Unbroken(asyncio.Future[R]):
    """What a thread will bring. A caller that is cancelled meanwhile is told so when it is there, and not before."""

    def cancel(self, msg: Any | None = None) -> bool:
        """The thread goes on: the task that waits keeps its cancellation for later."""
        return False


async def in_thread(fn: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a plain function in the pool and return its result.

    A cancelled caller goes on only when the function has ended: what undoes its work must not meet it half-way. A
    function that may wait for somebody else belongs in `in_thread_abandonable`.
    """
    return await call(_pool, partial(fn, *args, **kwargs), Unbroken(loop=asyncio.get_running_loop()))


async def in_thread_abandonable(fn: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a plain function in the pool; a cancelled caller stops waiting, and the function runs on to its end."""
    return await call(_pool, partial(fn, *args, **kwargs), asyncio.get_running_loop().create_future())


def call(pool: Executor, fn: Callable[[], R], future: asyncio.Future[R]) -> asyncio.Future[R]:
    """Have a thread of a pool call a function for a future, which is returned.

    As `run_in_executor` does, without its chain of two futures: every query of the database comes by here, and the
    chain costs more than most of them.
    """
    loop = future.get_loop()

    def run() -> None:
        if future.cancelled():
            return
        try:
            deliver = partial(_bring, future, fn())
        except BaseException as error:
            deliver = partial(_bring_error, future, error)
        with contextlib.suppress(RuntimeError):  # The loop is closed: nobody waits any more.
            loop.call_soon_threadsafe(deliver)

    pool.submit(run)
    return future


def _bring(future: asyncio.Future[R], result: R) -> None:
    if not future.done():
        future.set_result(result)


def _bring_error(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
