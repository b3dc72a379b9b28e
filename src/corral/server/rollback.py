"""Undo steps that stand next to what they undo."""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, ParamSpec

P = ParamSpec("P")

log = logging.getLogger(__name__)


class Rollback:
    """Runs the undo steps in reverse order unless `commit` was called.

    An undo that fails is logged and the rest still run. The steps run to their end also when the operation is
    cancelled a second time: the one who waits is cancelled, the undo is not.

        async with Rollback() as undo:
            mount(...)
            undo.add(unmount, ...)
            undo.commit()
    """

    def __init__(self) -> None:
        self._steps: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = []

    def add(self, fn: Callable[P, Any], *args: P.args, **kwargs: P.kwargs) -> None:
        """Register a function, plain or async, to be called with these arguments if the work is not committed."""
        self._steps.append((fn, args, kwargs))

    def commit(self) -> None:
        """Keep what was done: forget the undo steps."""
        self._steps.clear()

    async def __aenter__(self) -> "Rollback":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._steps:
            await finish(self._undo())

    async def _undo(self) -> None:
        while self._steps:
            fn, args, kwargs = self._steps.pop()
            try:
                result = fn(*args, **kwargs)
                if inspect.isawaitable(result):
                    await result
            except Exception:
                log.exception("Undo step %s failed", getattr(fn, "__qualname__", fn))


async def together(*work: Awaitable[Any]) -> list[Any]:
    """Await several works beside each other, all to their ends: what they return, or what the first failed with."""
    outcomes = await asyncio.gather(*work, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return outcomes


async def finish(work: Any) -> Any:
    """Await a coroutine to its end even when the caller is cancelled meanwhile; the cancellation follows after it."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if task.done():
                break
            cancelled = error
        except BaseException:
            break
    if cancelled is not None:
        if not task.cancelled() and task.exception() is not None:
            log.error("Work that outlived its caller failed", exc_info=task.exception())
        raise cancelled
    return task.result()
