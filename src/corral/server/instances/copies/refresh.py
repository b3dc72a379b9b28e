"""Brings a stopped copy of an instance up to date: snapshots that are missing, those that are gone, the contents."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from corral.errors import InvalidRequest
from corral.server.context import Context
from corral.server.db.database import Tx
from corral.server.devices import registry
from corral.server.host.threads import in_thread
from corral.server.instances import busy, create, root_volume, running, start, store
from corral.server.instances.backup import backup_file
from corral.server.instances.model import Instance, Snapshot
from corral.server.instances.sessions import files
from corral.server.instances.snapshots import (
    snapshot_copies,
    snapshot_removal,
    snapshot_store,
    snapshot_taking,
    stillness,
)
from corral.server.rollback import Rollback
from corral.server.storage import copies, keys, volumes
from corral.server.storage.copies import Origin
from corral.server.storage.model import Volume
from corral.server.storage.snapshots import Record

PENDING = "refresh"
_MARK = ".refreshed"
"""A file in new contents that tells the idmap of their files, until the database knows it."""


@dataclass(frozen=True, slots=True)
class Difference:
    """What makes the snapshots of a copy those of its source; `latest` is the last one that both have, or ""."""

    missing: tuple[Snapshot, ...]
    surplus: tuple[Snapshot, ...]
    latest: str


def compare(source: Sequence[Snapshot], present: Sequence[Snapshot]) -> Difference:
    """Snapshots of the same name and time are the same. Pure."""
    wanted = {(one.name, one.created_at) for one in source}
    kept = {(one.name, one.created_at) for one in present} & wanted
    common = [one.name for one in source if (one.name, one.created_at) in kept]
    return Difference(
        tuple(one for one in source if (one.name, one.created_at) not in kept),
        tuple(one for one in present if (one.name, one.created_at) not in kept),
        common[-1] if common else "",
    )


async def refresh_instance(
    context: Context,
    source: Instance,
    target: Instance,
    *,
    snapshot: str = "",
    alone: bool = False,
    allow_inconsistent: bool = False,
) -> None:
    """Give a stopped copy the contents of its source, and its snapshots unless `alone`; its configuration stays.

    With `snapshot` the contents are those of that one of the source.
    """
    if source.id == target.id:
        raise InvalidRequest("An instance cannot be refreshed from itself")
    # Always in the same order: two refreshes in opposite directions do not wait for each other.
    async with busy.claim(context, target.id, "refresh"), busy.claim(context, source.id, "copy"):
        target = await context.db.read(store.reload, target.id)
        source = await context.db.read(store.reload, source.id)
        if running.find(context, target) is not None:
            raise InvalidRequest("Cannot refresh a running instance")
        files.release(context, target.id)
        source_volume = await root_volume.get(context, source)
        volume = await root_volume.get(context, target)
        latest = ""
        if not alone:
            latest = await _refresh_snapshots(context, source, source_volume, target, volume)
        origin = Origin(source_volume, snapshot, allow_inconsistent)
        async with stillness.keep_still(context, source, source_volume, needed=not snapshot, origin=origin):
            await _refresh_contents(context, origin, source, target, volume, latest)
        await backup_file.write(context, await context.db.read(store.reload, target.id))
    start.publish(context, target, "instance-updated")


async def _refresh_snapshots(
    context: Context, source: Instance, source_volume: Volume, target: Instance, volume: Volume
) -> str:
    found = await context.db.read(store.list_snapshots, [source.id, target.id])
    difference = compare(found.get(source.id, []), found.get(target.id, []))
    configs = await context.db.read(snapshot_store.list_volume_configs, source_volume.id)
    for one in difference.surplus:
        await snapshot_removal.remove(context, target, one)
        snapshot_taking.publish(context, target, one.name, "deleted")
    latest = difference.latest
    for one in difference.missing:
        base = copies.stored_snapshot(context, volume, latest)
        snapshot_id = await context.db.write(snapshot_copies.begin, target, one)
        try:
            await copies.copy_snapshot(context, source_volume, volume, one.name, base)
            config = configs.get(one.name, {})
            await context.db.write(snapshot_copies.finish, snapshot_id, volume, one.name, config)
        except BaseException:
            await context.db.write(snapshot_store.delete_snapshot, snapshot_id, volume.id, one.name)
            raise
        snapshot_taking.publish(context, target, one.name, "created")
        latest = one.name
    await in_thread(root_volume.link_snapshots, context.member, target, volumes.path(context.member, volume))
    return latest


async def _refresh_contents(
    context: Context, origin: Origin, source: Instance, target: Instance, volume: Volume, latest: str
) -> None:
    """Exchange the contents. Those of another idmap carry it with them, should the daemon die before it is noted."""
    _, root = registry.find_root_disk(target.expanded_devices)
    size = keys.quota_of(create.size_of(root), volume.pool.config, volume.type)
    idmap = source.config.get("volatile.last_state.idmap", "[]")

    record = new_record(context, target, volume, idmap)
    await copies.refresh_contents(context, origin, volume, size, latest=latest, record=record)


def new_record(context: Context, target: Instance, volume: Volume, idmap: str) -> Record:
    """What the database tells of an exchange of an instance's contents for others, whose files have an idmap."""

    async def before(undo: Rollback, directory: Path) -> None:
        await in_thread((directory / _MARK).write_text, json.dumps(idmap))
        await context.db.write(store.mark_pending, target.id, PENDING)
        undo.add(context.db.write, store.mark_pending, target.id, "")

    async def after() -> None:
        await settle(context, target, volume)

    return Record(before, after)


async def settle(context: Context, instance: Instance, volume: Volume | None) -> None:
    """Note what the contents say of themselves; after a refresh, and where the daemon died in one. Repeatable."""
    values: dict[str, str | None] = {}
    if volume is not None:
        path = volumes.path(context.member, volume) / _MARK
        text = await in_thread(_read, path)
        if text:
            values["volatile.last_state.idmap"] = json.loads(text)
        await context.db.write(_settle, instance.id, values)
        await in_thread(_remove, path)


def _settle(tx: Tx, instance_id: int, values: dict[str, str | None]) -> None:
    store.set_config(tx, instance_id, values)
    store.mark_pending(tx, instance_id, "")


def _read(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


async def resume(context: Context, instance: Instance) -> None:
    """Finish a refresh that the daemon's death cut short: the contents are the old ones or the new ones, whole."""
    await settle(context, instance, await root_volume.find(context, instance))
