"""Runs a few system calls that may sleep away from the event loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_pool = ThreadPoolExecutor(max_workers=16, thread_name_prefix="host")


async def in_thread(fn: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a plain function in the pool and return its result.

    A cancelled caller goes on only when the function has ended: what undoes its work must not meet it half-way. A
    function that may wait for somebody else belongs in `in_thread_abandonable`.
    """
    future = asyncio.get_running_loop().run_in_executor(_pool, lambda: fn(*args, **kwargs))
    cancelled = await settle(future)
    if cancelled is not None:
        raise cancelled
    return future.result()


async def in_thread_abandonable(fn: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a plain function in the pool; a cancelled caller stops waiting, and the function runs on to its end."""
    return await asyncio.get_running_loop().run_in_executor(_pool, lambda: fn(*args, **kwargs))


async def settle(future: asyncio.Future[Any]) -> asyncio.CancelledError | None:
    """Wait until a future is done, also when the caller is cancelled meanwhile; returns that cancellation."""
    cancelled = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None and not future.cancelled():
        future.exception()  # seen: nobody will ask for it
    return cancelled
