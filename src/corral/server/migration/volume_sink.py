"""The receiving side of a migration of a custom volume: made anew, or a copy brought up to date."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from corral.errors import AlreadyExists, InvalidRequest, NotSupported
from corral.server.context import Context
from corral.server.db.database import Tx
from corral.server.events.model import Lifecycle, format_time, utc_now
from corral.server.instances import custom_volumes
from corral.server.instances.sessions.channels import Connections
from corral.server.migration import receiving, records
from corral.server.migration.receiving import Reception
from corral.server.migration.session import Remote, open_session
from corral.server.migration.wire import SnapshotRecord
from corral.server.projects import permissions
from corral.server.storage import (
    creation,
    custom,
    custom_snapshots,
    keys,
    pools,
    snapshot_store,
    snapshots,
    volumes,
)
from corral.server.storage import store as storage
from corral.server.storage.driver import StoredVolume
from corral.server.storage.model import ContentType, Volume, VolumeSnapshot, VolumeType


@dataclass(frozen=True, slots=True)
class VolumeReceiving:
    """A custom volume that is to be received; `present` is the one to bring up to date."""

    pool: str
    project: str
    name: str
    config: Mapping[str, str] = field(default_factory=dict)
    description: str = ""
    present: Volume | None = None
    alone: bool = False


def plan(tx: Tx, wanted: VolumeReceiving, mode: str, *, refresh: bool) -> VolumeReceiving:
    """Check what is to be received, and find the volume that is there already. Raises what is wrong with it."""
    if mode not in ("pull", "push"):
        raise NotSupported(f'Mode "{mode}" not implemented')
    custom.validate_name(wanted.name)
    pool = storage.get_pool(tx, wanted.pool)
    present = storage.find_volume(tx, pool, wanted.project, wanted.name, VolumeType.CUSTOM)
    if present is not None and not refresh:
        raise AlreadyExists("Volume by that name already exists")
    return replace(wanted, present=present)


async def receive_volume(context: Context, wanted: VolumeReceiving, link: Connections | Remote) -> None:
    """Receive a custom volume with its snapshots, whole or not at all."""
    async with open_session(context, link) as session:
        reception = await receiving.begin(context, session)
        if wanted.alone:
            reception.wanted = ()
        if wanted.present is not None:
            async with custom_volumes.at_rest(context, wanted.present):
                await _refresh(context, wanted, wanted.present, reception)
            action, volume = "storage-volume-updated", wanted.present
        else:
            action, volume = "storage-volume-created", await _create(context, wanted, reception)
        await session.send_end()
    context.events.publish(Lifecycle(action, volumes.url_of(volume), volume.project, {"type": volume.type.value}))


async def _create(context: Context, wanted: VolumeReceiving, reception: Reception) -> Volume:
    pool = await pools.get_usable(context, wanted.pool)
    config = {key: value for key, value in wanted.config.items() if value}
    draft = volumes.draft(pool, wanted.project, wanted.name, VolumeType.CUSTOM, config, wanted.description)
    size = keys.quota_of(draft.config, pool.config, VolumeType.CUSTOM)

    async def receive(volume: Volume) -> None:
        await reception.fill_new(volume, size)

    def note(tx: Tx, volume: Volume) -> None:
        for one in reception.wanted:
            permissions.check_snapshots(tx, volume.project)
            snapshot_store.insert_copy(tx, volume, _snapshot(volume, reception, one))

    return await creation.create_filled(context, draft, receive, note)


def _snapshot(volume: Volume, reception: Reception, one: SnapshotRecord) -> VolumeSnapshot:
    """A snapshot as the source describes it, as far as it can be so here."""
    described = {found.name.rpartition("/")[2]: found for found in reception.described.volume_snapshots or []}
    found = described.get(one.name)
    config = dict((found.config if found is not None else one.config) or {})
    keys.validate_volume(config, volume.name, VolumeType.CUSTOM, ContentType.FILESYSTEM)
    created_at = records.to_time(records.to_seconds(found.created_at) if found is not None else one.created_at)
    expires_at = records.to_seconds(found.expires_at) if found is not None else one.expires_at
    return VolumeSnapshot(
        0,
        volume,
        one.name,
        config,
        found.description if found is not None else "",
        records.to_time(expires_at),
        created_at or format_time(utc_now()),
    )


async def _refresh(context: Context, wanted: VolumeReceiving, volume: Volume, reception: Reception) -> None:
    if not wanted.alone:
        reception.wanted = await _settle_snapshots(context, volume, reception.wanted)
    async with context.locks.hold("volume", volume.id):
        size = keys.quota_of(volume.config, volume.pool.config, volume.type)

        async def keep(contents: StoredVolume, one: SnapshotRecord) -> None:
            await _keep(context, volume, reception, contents, one)

        async def fill(new: StoredVolume) -> None:
            await reception.fill_copy(volume, new, size, keep)

        await snapshots.replace_contents(context, volume, fill)


async def _settle_snapshots(
    context: Context, volume: Volume, offered: Sequence[SnapshotRecord]
) -> list[SnapshotRecord]:
    """Delete the snapshots whose names the source does not have; those that are missing here.

    Custom volumes' snapshots are known by their names alone: LXD tells no times.
    """
    names = {one.name for one in offered}
    present = await context.db.read(snapshot_store.list_snapshots, [volume])
    for one in present:
        if one.name not in names:
            await custom_snapshots.delete(context, one)
    kept = {one.name for one in present}
    return [one for one in offered if one.name not in kept]


async def _keep(
    context: Context, volume: Volume, reception: Reception, contents: StoredVolume, one: SnapshotRecord
) -> None:
    def begin(tx: Tx) -> int:
        permissions.check_snapshots(tx, volume.project)
        return snapshot_store.insert_copy(tx, volume, _snapshot(volume, reception, one), "create")

    snapshot_id = await context.db.write(begin)
    try:
        await reception.keep_snapshot(volume, contents, one.name)
        await context.db.write(snapshot_store.mark_snapshot, snapshot_id, "")
    except BaseException:
        await snapshots.delete_snapshot(context, volume, one.name)
        await context.db.write(snapshot_store.delete_snapshot, snapshot_id)
        raise


def check_content(content_type: str) -> None:
    """Raise for volumes that are no trees of files."""
    if content_type not in ("", ContentType.FILESYSTEM.value):
        if content_type != ContentType.BLOCK.value:
            raise InvalidRequest("Invalid volume content type name")
        raise NotSupported("Custom volumes of the content type block cannot be received by this server")
