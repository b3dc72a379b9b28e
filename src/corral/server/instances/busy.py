"""One verb at a time for each instance: the second is told what the first does, or waits where it wants the same."""

import contextlib
from collections.abc import AsyncIterator, Iterable

from corral.errors import Busy
from corral.server.context import Context

EXIT = "exit"
"""The daemon cleans up after a container that ended by itself; every verb waits for this."""


def holder(context: Context, instance_id: int) -> str | None:
    """The verb that runs on an instance now."""
    return context.locks.claimed("instance", instance_id)


@contextlib.asynccontextmanager
async def claim(
    context: Context, instance_id: int, verb: str, waits_for: Iterable[str] | None = None
) -> AsyncIterator[bool]:
    """Hold an instance for a verb; raises Busy where another verb has it.

    The same verb (or one of `waits_for`) by somebody else is waited for: then the value is True, and the caller looks
    whether anything is left to do.
    """
    patient = {EXIT, *([verb] if waits_for is None else waits_for)}
    waited = False
    async with contextlib.AsyncExitStack() as stack:
        while (present := holder(context, instance_id)) is not None:
            if present not in patient:
                raise Busy(f'Instance is busy running a "{present}" operation')
            waited = waited or present != EXIT
            async with context.locks.hold("instance verb", instance_id):
                pass
        await stack.enter_async_context(context.locks.hold("instance verb", instance_id))
        stack.enter_context(context.locks.claim("instance", instance_id, doing=verb))
        yield waited


@contextlib.asynccontextmanager
async def claim_after_all(context: Context, instance_id: int, verb: str = EXIT) -> AsyncIterator[None]:
    """Hold an instance for the daemon's own work, after whatever verb runs."""
    async with context.locks.hold("instance verb", instance_id):
        with context.locks.claim("instance", instance_id, doing=verb):
            yield
