"""What happens to custom volumes that instances attach: none of them may run or start while it does."""

import contextlib
from collections.abc import AsyncIterator

from corral.errors import InvalidRequest
from corral.server.context import Context
from corral.server.db.database import Tx
from corral.server.instances import busy, running, store
from corral.server.instances.backup import backup_file
from corral.server.instances.model import Instance
from corral.server.storage import custom, custom_copies, custom_snapshots, scope
from corral.server.storage.model import Volume, VolumeType

_IN_USE = "Volume is still in use by running instances"


async def rename(context: Context, volume: Volume, name: str) -> Volume:
    """Give a custom volume another name; the devices that attach it follow."""
    async with at_rest(context, volume, _IN_USE):
        return await custom.rename(context, volume, name)


async def move(context: Context, volume: Volume, pool: str, project: str, name: str) -> None:
    """Move a custom volume to another pool or project; the devices that attach it follow."""
    async with at_rest(context, volume, _IN_USE):
        await custom_copies.move(context, volume, pool, project, name)


async def refresh(context: Context, source: Volume, volume: Volume, *, volume_only: bool = False) -> None:
    """Bring a custom volume up to date with the one that it is a copy of."""
    async with at_rest(context, volume):
        await custom_copies.refresh(context, source, volume, volume_only=volume_only)


async def restore(context: Context, volume: Volume, snapshot: str) -> None:
    """Bring a custom volume back to a snapshot."""
    async with at_rest(context, volume, "Cannot restore custom volume used by running instances"):
        await custom_snapshots.restore(context, volume, snapshot)


@contextlib.asynccontextmanager
async def at_rest(
    context: Context, volume: Volume, refusal: str = "Cannot refresh custom volume used by running instances"
) -> AsyncIterator[None]:
    """Hold all instances that attach a volume, in one order; InvalidRequest where one of them runs."""
    users = await context.db.read(_list_users, volume)
    if any(running.find(context, one) is not None for one in users):
        raise InvalidRequest(refusal)
    async with contextlib.AsyncExitStack() as stack:
        for one in sorted(users, key=lambda instance: instance.id):
            await stack.enter_async_context(busy.claim(context, one.id, "volume change"))
        if any(running.find(context, one) is not None for one in users):
            raise InvalidRequest(refusal)
        yield
        for one in users:
            await backup_file.write(context, await context.db.read(store.reload, one.id))


def _list_users(tx: Tx, volume: Volume) -> list[Instance]:
    """The instances that attach a volume by devices of their own or of their profiles."""
    return [
        one
        for one in store.list_instances(tx)
        if any(
            device.get("type") == "disk"
            and device.get("pool") == volume.pool.name
            and device.get("source") == volume.name
            for device in one.expanded_devices.values()
        )
        and scope.project_of(tx, one.project, VolumeType.CUSTOM) == volume.project
    ]
