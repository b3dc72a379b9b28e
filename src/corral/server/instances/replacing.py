"""Gives an instance another root and another record together: both or none, also where the daemon dies in between.

The new root carries the new record in a file until the database has it. The row's pending mark names that record, so
that a daemon that finds the mark knows by the file which of the two roots there is.
"""

import logging
import os
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from corral.server.context import Context
from corral.server.host.threads import in_thread
from corral.server.instances import root_volume, store
from corral.server.instances.backup import backup_file
from corral.server.instances.model import Instance
from corral.server.instances.store import Change
from corral.server.rollback import Rollback
from corral.server.storage import pools, snapshots, volumes
from corral.server.storage.driver import StoredVolume
from corral.server.storage.model import CREATED, Volume
from corral.server.storage.snapshots import Record

log = logging.getLogger(__name__)

PENDING = "rebuild "
"""The pending mark's beginning; the id of the new record follows."""

_FILE = ".rebuilt"
_LIMIT = 64 << 20


class _Carried(msgspec.Struct):
    id: str
    change: Change


async def replace_root(
    context: Context,
    instance: Instance,
    volume: Volume,
    fill: Callable[[StoredVolume], Awaitable[None]],
    change: Change,
) -> None:
    """Exchange root and record of a stopped instance that the caller has claimed; `fill` makes the new root."""
    carried = _Carried(str(uuid.uuid4()), change)

    async def before(undo: Rollback, directory: Path) -> None:
        await in_thread(_write, directory, msgspec.json.encode(carried))
        await context.db.write(store.mark_pending, instance.id, PENDING + carried.id)
        undo.add(context.db.write, store.mark_pending, instance.id, "")

    async def after() -> None:
        await _settle(context, instance, volume, carried.id)

    await snapshots.replace_contents(context, volume, fill, Record(before, after))


async def resume(context: Context, instance: Instance) -> None:
    """Finish or undo an exchange that the daemon's death cut short; the pool has settled on one root before.

    Where the pool is not there it waits for the instance's next start.
    """
    volume = await root_volume.find(context, instance)
    if volume is not None and pools.status(context, volume.pool) == CREATED:
        log.info("Putting instance %s in order: its rebuild was cut short", instance.storage_name)
        await _settle(context, instance, volume, instance.pending.removeprefix(PENDING))


async def _settle(context: Context, instance: Instance, volume: Volume, wanted: str) -> None:
    """Write the record that the root carries, if it is the one that is wanted. Repeatable."""
    directory = volumes.path(context.member, volume)
    carried = await in_thread(_read, directory)
    if carried is not None and carried.id == wanted:
        await context.db.write(store.update_instance, instance, carried.change)
    await in_thread(_remove, directory)
    await backup_file.write(context, await context.db.write(store.finish_instance, instance.id))


def _write(directory: Path, content: bytes) -> None:
    _remove(directory)
    descriptor = os.open(directory / _FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def _read(directory: Path) -> _Carried | None:
    """What the root carries; what an image brought under that name is nothing."""
    try:
        descriptor = os.open(directory / _FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with open(descriptor, "rb") as file:
        try:
            return msgspec.json.decode(file.read(_LIMIT), type=_Carried)
        except (msgspec.MsgspecError, OSError):
            return None


def _remove(directory: Path) -> None:
    (directory / _FILE).unlink(missing_ok=True)
