"""Halts a running container while its files are copied one by one, so that the copy is of one moment."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from corral.server.context import Context, Member
from corral.server.host.threads import in_thread
from corral.server.instances import running, stop
from corral.server.instances.model import Instance
from corral.server.instances.running import RunningContainer
from corral.server.rollback import finish
from corral.server.storage import copies
from corral.server.storage.copies import Origin
from corral.server.storage.model import Volume


@contextlib.asynccontextmanager
async def keep_still(
    context: Context, instance: Instance, volume: Volume, *, needed: bool = True, origin: Origin | None = None
) -> AsyncIterator[None]:
    """While this lasts, nothing in the instance runs, unless its pool copies at once or the copy may be inconsistent.

    The caller has claimed the instance. A file remembers that it is the server who froze it.
    """
    container = running.find(context, instance)
    tolerant = origin is not None and origin.lenient
    if container is None or container.frozen or not needed or tolerant or copies.clones(context, volume):
        yield
        return
    path = _mark(context.member, instance)
    await in_thread(path.touch)
    try:
        await in_thread(stop.set_frozen, context, container, True)
        yield
    finally:
        await finish(_thaw(context, instance, container))


async def _thaw(context: Context, instance: Instance, container: RunningContainer) -> None:
    if not container.exited.is_set():
        await in_thread(stop.set_frozen, context, container, False)
    await in_thread(_mark(context.member, instance).unlink, missing_ok=True)


def _mark(member: Member, instance: Instance) -> Path:
    return member.state_dir / "run" / f"{instance.storage_name}.still"


async def resume(context: Context, instance: Instance, container: RunningContainer) -> None:
    """Let a container run on that was halted for a copy when the daemon died."""
    if await in_thread(_mark(context.member, instance).exists):
        await _thaw(context, instance, container)
