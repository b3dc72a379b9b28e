"""Makes volumes: a row in the making, the contents, the row made whole; all of it or nothing."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

from corral.server.context import Context
from corral.server.db.database import Tx
from corral.server.rollback import Rollback
from corral.server.storage import pools, snapshots, store, volumes
from corral.server.storage.model import Volume
from corral.server.storage.registry import open_driver


async def create_filled(
    context: Context,
    draft: Volume,
    fill: Callable[[Volume], Awaitable[None]],
    note: Callable[[Tx, Volume], None] | None = None,
) -> Volume:
    """Make a volume that `fill` makes on the disk, with its snapshots; what came so far goes where that fails.

    `note` writes what else belongs to the volume in the transaction that finishes it.
    """
    driver = open_driver(context.member, draft.pool)
    await volumes.refuse_leftover(context, draft)
    async with Rollback() as undo, pools.explain_full(context, draft.pool):
        volume = await context.db.write(volumes.insert, draft)
        undo.add(context.db.write, store.delete_volume, volume.id)
        target = volumes.stored(context.member, volume)
        undo.add(driver.delete_volume, target)
        undo.add(snapshots.remove_all, driver, target)
        await fill(volume)
        await volumes.finish(context, volume, note)
        undo.commit()
    return replace(volume, pending="")


async def create_empty(context: Context, draft: Volume, size: int | None) -> Volume:
    """Make an empty volume of at most `size` bytes."""

    async def fill(volume: Volume) -> None:
        await open_driver(context.member, volume.pool).create_volume(volumes.stored(context.member, volume), size)

    return await create_filled(context, draft, fill)
