"""The sending side of a migration: an instance, its snapshot, or a custom volume with its snapshots."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from corral.errors import InvalidRequest, NotSupported
from corral.server.context import Context
from corral.server.db.database import Tx
from corral.server.instances import busy, criu, root_volume, running, store
from corral.server.instances.backup import backup_file
from corral.server.instances.model import Instance, Snapshot
from corral.server.instances.security import idmaps
from corral.server.instances.sessions.channels import Connections
from corral.server.instances.snapshots import stillness
from corral.server.migration import records, trees, wire
from corral.server.migration.session import Remote, Session, open_session
from corral.server.migration.wire import Header, SnapshotRecord
from corral.server.operations.model import report
from corral.server.storage import copies, pools, snapshot_store
from corral.server.storage.copies import Origin
from corral.server.storage.model import Volume, VolumeSnapshot


@dataclass(frozen=True, slots=True)
class Sending:
    """An instance to be sent; `snapshot` is the one that is sent as an instance of its own."""

    instance: Instance
    snapshot: str = ""
    instance_only: bool = False
    allow_inconsistent: bool = False


async def check_live(context: Context) -> None:
    """Raise why a running container cannot take its state to another server, or come from there with it."""
    reason = await criu.why_not(context) or "this server saves the state of containers for itself only"
    raise NotSupported(
        f"Unable to perform container live migration: {reason}. Stop the instance, or copy it with --stateless"
    )


async def send_instance(context: Context, wanted: Sending, link: Connections | Remote) -> None:
    """Send an instance. A running one is sent twice: as it runs, and then what changed, while it is halted."""
    async with open_session(context, link) as session, busy.claim(context, wanted.instance.id, "copy"):
        instance = await context.db.read(store.reload, wanted.instance.id)
        volume = await root_volume.get(context, instance)
        pools.check_usable(context, volume.pool)
        runs = running.find(context, instance) is not None and not wanted.snapshot
        found = await context.db.read(_snapshots, instance, wanted)
        idmap = idmaps.of_text(instance.config.get("volatile.last_state.idmap"))
        document = await backup_file.compose(context, instance, volume)
        transfer = _Transfer(
            context,
            session,
            volume,
            Header(
                criu=wire.CRIU_NONE if runs else None,
                idmap=records.idmap_to_wire(idmap),
                snapshot_names=tuple(one.name for one in found),
                snapshots=tuple(records.snapshot_to_wire(instance, one) for one in found),
            ),
            document,
        )
        await transfer.negotiate()
        await transfer.send_snapshots()
        if transfer.is_sent_twice:
            await transfer.send(Origin(volume, lenient=True))
        origin = Origin(volume, wanted.snapshot, wanted.allow_inconsistent)
        async with stillness.keep_still(context, instance, volume, needed=runs, origin=origin):
            await transfer.send(origin)
        await session.receive_end()


def _snapshots(tx: Tx, instance: Instance, wanted: Sending) -> list[Snapshot]:
    if wanted.snapshot or wanted.instance_only:
        return []
    return store.list_snapshots(tx, [instance.id]).get(instance.id, [])


async def send_volume(
    context: Context, volume: Volume, link: Connections | Remote, *, volume_only: bool = False
) -> None:
    """Send a custom volume."""
    async with open_session(context, link) as session, context.locks.hold("volume", volume.id):
        pools.check_usable(context, volume.pool)
        found = [] if volume_only else await context.db.read(snapshot_store.list_snapshots, [volume])
        header = Header(
            snapshot_names=tuple(one.name for one in found),
            snapshots=tuple(_volume_snapshot(one) for one in found),
        )
        transfer = _Transfer(context, session, volume, header, records.describe_volume(volume, found))
        await transfer.negotiate()
        await transfer.send_snapshots()
        await transfer.send(Origin(volume, lenient=True))
        await session.receive_end()


def _volume_snapshot(one: VolumeSnapshot) -> SnapshotRecord:
    return SnapshotRecord(
        name=one.name,
        config={**one.config},
        created_at=records.to_seconds(one.created_at),
        expires_at=records.to_seconds(one.expires_at),
    )


@dataclass(slots=True)
class _Transfer:
    """What is sent and how: offered first, then as the target answered."""

    context: Context
    session: Session
    volume: Volume
    offer: Header
    document: Mapping[str, Any]
    features: frozenset[int] = frozenset()
    snapshots: Sequence[str] = ()
    index_version: int = 0
    is_sent_twice: bool = False
    refresh: bool = field(default=False)

    async def negotiate(self) -> None:
        """Offer, and take the answer."""
        ours = trees.offered(self.volume.pool.config)
        offer = Header(
            criu=self.offer.criu,
            idmap=self.offer.idmap,
            snapshot_names=self.offer.snapshot_names,
            snapshots=self.offer.snapshots,
            rsync=ours,
            index_version=wire.INDEX_VERSION,
        )
        await self.session.send_header(offer)
        answer = await self.session.receive_header()
        if answer.filesystem != wire.RSYNC:
            raise InvalidRequest("The target server wants the files in a form that was not offered")
        self.features = trees.common(ours, answer.rsync)
        self.index_version = min(answer.index_version, wire.INDEX_VERSION)
        self.is_sent_twice = self.offer.criu == wire.CRIU_NONE and answer.criu == wire.CRIU_NONE
        self.snapshots = offer.snapshot_names
        if answer.refresh:
            self.snapshots = [name for name in answer.snapshot_names if name in offer.snapshot_names]
        await self._describe()

    async def _describe(self) -> None:
        """Describe what follows, where the target wants to know."""
        if self.index_version:
            kept = [one for one in self.document["volume_snapshots"] if one["name"] in self.snapshots]
            await self.session.send_document({"config": {**self.document, "volume_snapshots": kept}})
            records.check_answer(await self.session.receive_document())

    async def send_snapshots(self) -> None:
        for name in self.snapshots:
            await self.send(Origin(self.volume, name))
        self.snapshots = ()

    async def send(self, origin: Origin) -> None:
        """Send the contents of an origin."""
        name = f"{origin.volume.name}/{origin.snapshot}" if origin.snapshot else origin.volume.name
        report(fs_progress=f"{name}: sending")
        bwlimit = self.volume.pool.config.get("rsync.bwlimit", "")
        async with copies.still(self.context, origin) as directory:
            await trees.send(self.session.files, directory, self.features, bwlimit=bwlimit, lenient=origin.lenient)
