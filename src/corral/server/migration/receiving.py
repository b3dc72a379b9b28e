"""What the receiving of instances and of custom volumes share: the answer to an offer, and the trees in their order."""

import os
import stat
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from corral.errors import InvalidRequest, NotSupported
from corral.server.context import Context
from corral.server.host.threads import in_thread
from corral.server.migration import records, trees, wire
from corral.server.migration.records import DescribedInstance
from corral.server.migration.session import Session
from corral.server.migration.wire import Header, SnapshotRecord
from corral.server.operations.model import report
from corral.server.storage import copies, snapshots, volumes
from corral.server.storage.driver import StoredVolume
from corral.server.storage.model import Pool, Volume
from corral.server.storage.registry import open_driver

Keep = Callable[[StoredVolume, SnapshotRecord], Awaitable[None]]
"""Keeps what was received into a directory as the snapshot that it is."""


@dataclass(slots=True)
class Reception:
    """A migration that is received: the offer, what of it is wanted, and the description that came with it."""

    context: Context
    session: Session
    offer: Header
    wanted: Sequence[SnapshotRecord]
    features: frozenset[int] = frozenset()
    described: DescribedInstance = field(default_factory=DescribedInstance)

    @property
    def is_sent_twice(self) -> bool:
        """Whether the source runs, and sends again what changed meanwhile."""
        return self.offer.criu == wire.CRIU_NONE

    async def fill_new(self, volume: Volume, size: int | None) -> None:
        """Make a volume's directory, of at most `size` bytes, and receive its snapshots and its contents."""
        target = volumes.stored(self.context.member, volume)
        await open_driver(self.context.member, volume.pool).create_volume(target, size)

        async def keep(contents: StoredVolume, one: SnapshotRecord) -> None:
            await self.keep_snapshot(volume, contents, one.name)

        await self._answer(volume.pool, refresh=False)
        await self._receive(target, keep)

    async def fill_copy(self, volume: Volume, new: StoredVolume, size: int | None, keep: Keep) -> None:
        """Bring a copy of a volume up to date: only what differs is sent."""
        driver = open_driver(self.context.member, volume.pool)
        await driver.copy_volume(volumes.stored(self.context.member, volume), new, size)
        await self._answer(volume.pool, refresh=True)
        await self._receive(new, keep)

    async def _answer(self, pool: Pool, *, refresh: bool) -> None:
        """Accept the offer; from here on the source sends."""
        self.features = trees.common(trees.offered(pool.config), self.offer.rsync)
        await self.session.send_header(
            Header(
                criu=self.offer.criu,
                snapshot_names=tuple(one.name for one in self.wanted),
                snapshots=tuple(self.wanted),
                rsync=self.features | {wire.BIDIRECTIONAL},
                refresh=refresh,
                index_version=min(self.offer.index_version, wire.INDEX_VERSION),
            )
        )
        self.described = await self._describe(refresh=refresh)

    async def _describe(self, *, refresh: bool) -> DescribedInstance:
        if not min(self.offer.index_version, wire.INDEX_VERSION):
            return DescribedInstance()
        described = records.read_index(await self.session.receive_document())
        await self.session.send_document(records.answer(refresh=refresh))
        return described

    async def _receive(self, target: StoredVolume, keep: Keep) -> None:
        """Receive the snapshots, each of which `keep` keeps, and then the contents, into an existing directory."""
        for one in self.wanted:
            await self._receive_tree(target, one.name)
            await keep(target, one)
        await self._receive_tree(target)
        if self.is_sent_twice:
            await self._receive_tree(target)

    async def _receive_tree(self, target: StoredVolume, snapshot: str = "") -> None:
        report(fs_progress=f"{snapshot or 'contents'}: receiving")
        await trees.receive(self.session.files, target.path, self.features)
        await in_thread(_settle, target)

    async def keep_snapshot(self, volume: Volume, contents: StoredVolume, name: str) -> None:
        """Keep what was received as a snapshot of a volume."""
        target = copies.stored_snapshot(self.context, volume, name)
        await in_thread(snapshots.make_directory, target.path.parent)
        await open_driver(self.context.member, volume.pool).create_snapshot(contents, target.path)


def _settle(target: StoredVolume) -> None:
    """The directory is the server's, whatever owner and mode it had at the source."""
    os.chown(target.path, 0, 0)
    os.chmod(target.path, target.type.mode)
    if target.type.is_instance:
        check_root(target.path)


def check_root(directory: Path) -> None:
    """Raise InvalidRequest where an instance's volume has no directory for its root file system."""
    root = directory / "rootfs"
    if not os.path.lexists(root):
        raise InvalidRequest("The source server sent no root file system")
    if not stat.S_ISDIR(os.lstat(root).st_mode):
        raise InvalidRequest("The source server sent something else than a directory as root file system")


async def begin(context: Context, session: Session) -> Reception:
    """Wait for the offer. Raises for what this server cannot take."""
    offer = await session.receive_header()
    if offer.criu == wire.CRIU_RSYNC:
        raise NotSupported("The source wants to move a running container with its state, which this server cannot take")
    if offer.snapshots and len(offer.snapshots) != len(offer.snapshot_names):
        raise InvalidRequest("The source server describes other snapshots than it names")
    found = offer.snapshots or tuple(SnapshotRecord(name) for name in offer.snapshot_names)
    records.check_snapshots([one.name for one in found])
    return Reception(context, session, offer, found)
