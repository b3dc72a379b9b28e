"""Copies of volumes into another pool of the same driver, in the form that it sends them: `btrfs send` and the like."""

import os
from collections.abc import Sequence
from pathlib import Path

from corral.server.context import Context
from corral.server.host.programs import command
from corral.server.host.threads import in_thread
from corral.server.rollback import Rollback
from corral.server.storage import model, snapshots, volumes
from corral.server.storage.driver import ReceivedPart, SendsVolumes, SentPart, StoredVolume
from corral.server.storage.model import Pool, Volume
from corral.server.storage.registry import open_driver
from corral.server.storage.tree import COPY_TIMEOUT_S


def is_possible(context: Context, source: Pool, target: Pool) -> bool:
    """Whether what one pool sends the other one receives."""
    return source.driver == target.driver and isinstance(open_driver(context.member, source), SendsVolumes)


async def copy(context: Context, origin: Volume, snapshot: str, names: Sequence[str], volume: Volume) -> None:
    """Fill a new volume, whose row is there and pending, with what another volume or a snapshot of it holds now.

    The named snapshots come along. The caller removes the volume and its snapshots where this fails; the scratch
    volumes that both pools have meanwhile are gone at its end, at the latest after a restart of the daemon.
    """
    sender, taker = open_driver(context.member, origin.pool), open_driver(context.member, volume.pool)
    assert isinstance(sender, SendsVolumes)
    assert isinstance(taker, SendsVolumes)
    present, target = volumes.stored(context.member, origin), volumes.stored(context.member, volume)
    frozen, received = volumes.scratch(present), volumes.scratch(target)
    source = present
    if snapshot:
        source = StoredVolume(0, present.type, model.snapshot_path(present.path, snapshot))
    async with Rollback() as undo:
        undo.add(sender.delete_volume, frozen)  # also of what went well: nothing is committed
        await sender.create_volume(frozen)
        undo.add(taker.delete_volume, received)
        await taker.create_volume(received)
        parts = await sender.freeze(source, names, frozen)
        kept = [await _send(part, received.path / str(number), taker) for number, part in enumerate(parts)]
        if names:
            await in_thread(snapshots.make_directory, model.snapshot_path(target.path, "x").parent)
        await taker.settle(kept, target)


async def _send(part: SentPart, directory: Path, taker: SendsVolumes) -> ReceivedPart:
    await in_thread(os.mkdir, directory, 0o700)

    async def send(output: int) -> None:
        await command.run(list(part.command), stdout=output, timeout_s=COPY_TIMEOUT_S)

    async def receive(source: int) -> None:
        await command.run(list(taker.receiver(directory)), stdin=source, timeout_s=COPY_TIMEOUT_S)

    await command.join(send, receive)
    return ReceivedPart(part.snapshot, part.path, part.read_only, directory)
