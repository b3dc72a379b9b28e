"""Backups of custom volumes: made, renamed, deleted, imported."""

import contextlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from corral.errors import InvalidRequest, NotFound
from corral.server.backups import index, kept, store, volume_parts
from corral.server.backups.index import IndexedVolume
from corral.server.backups.kept import Owner
from corral.server.backups.store import Backup
from corral.server.backups.upload import Upload
from corral.server.backups.volume_parts import Packing
from corral.server.context import Context
from corral.server.db.database import Tx
from corral.server.events.model import Lifecycle, format_time, utc_now
from corral.server.host.isolation.idmap import IdMap
from corral.server.projects import permissions
from corral.server.snapshots import naming
from corral.server.storage import (
    creation,
    custom,
    custom_snapshots,
    keys,
    model,
    pools,
    snapshot_store,
    volumes,
)
from corral.server.storage import store as storage
from corral.server.storage.model import ContentType, Pool, Volume, VolumeSnapshot, VolumeType

log = logging.getLogger(__name__)


def owner_of(context: Context, volume: Volume) -> Owner:
    """A volume as the owner of backups. Raises InvalidRequest for one that has none of its own."""
    if volume.type is not VolumeType.CUSTOM:
        raise InvalidRequest(f"Invalid storage volume type {keys.quoted(volume.type.value)}")
    place = ("/1.0/storage-pools", volume.pool.name, "volumes", volume.type.value, volume.name)
    directory = model.custom_backups_dir(context.member, volume)
    return Owner(store.VOLUMES, volume.id, directory, place, volume.project, "storage-volume")


async def create(context: Context, volume: Volume, new: Backup, algorithm: str = "") -> None:
    """Make a backup of a custom volume with its snapshots."""
    compress = await kept.choose_compressor(context, volume.project, algorithm)
    owner = owner_of(context, volume)
    async with context.locks.hold("volume", volume.id):
        found = [] if new.alone else await context.db.read(snapshot_store.list_snapshots, [volume])

        async def write(target: Path) -> None:
            names = [one.name for one in found]
            packing = Packing(names, describe(volume, found), new.optimized, compress, target)
            await volume_parts.write(context, volume, packing)

        await kept.create(context, owner, new, write)


def describe(volume: Volume, found: list[VolumeSnapshot]) -> dict[str, Any]:
    """What the index of a backup says of a custom volume."""
    return {
        "name": volume.name,
        "backend": volume.pool.driver,
        "pool": volume.pool.name,
        **({"snapshots": [one.name for one in found]} if found else {}),
        "type": index.CUSTOM,
        "config": {
            "volume": {
                "config": dict(volume.config),
                "description": volume.description,
                "name": volume.name,
                "type": volume.type.value,
                "used_by": [],
                "location": "none",
                "content_type": volume.content_type.value,
                "project": volume.project,
                "created_at": volume.created_at,
            },
            "volume_snapshots": [
                {
                    "description": one.description,
                    "expires_at": one.expires_at or store.NEVER,
                    "name": one.name,
                    "config": dict(one.config),
                    "content_type": volume.content_type.value,
                    "created_at": one.created_at,
                }
                for one in found
            ],
        },
    }


async def delete_expired(context: Context) -> None:
    """Remove the backups whose time is over."""
    expired = await context.db.read(store.list_expired, store.VOLUMES, format_time(utc_now()))
    if not expired:
        return
    owners = {one.id: one for one in await context.db.read(_list_custom)}
    for backup in expired:
        if backup.owner_id in owners:
            log.info("Backup %s of volume %s has expired", backup.name, owners[backup.owner_id].name)
            with contextlib.suppress(NotFound):
                await kept.delete(context, owner_of(context, owners[backup.owner_id]), backup.name)


def _list_custom(tx: Tx) -> list[Volume]:
    return storage.list_volumes(tx, types=[VolumeType.CUSTOM])


async def sweep(context: Context) -> None:
    """Remove what a daemon that died left of backups of volumes and of imports."""
    await kept.sweep_uploads(context)
    owners = [owner_of(context, one) for one in await context.db.read(_list_custom)]
    await kept.sweep(context, store.VOLUMES, owners)


async def import_volume(context: Context, upload: Upload) -> None:
    """Make the volume of a backup with its snapshots, whole or not at all."""
    try:
        pool = await pools.get_usable(context, upload.wanted.pool)
        volume_parts.check_driver(context, upload.index, pool)
        draft, snapshots = plan(pool, upload)
        if snapshots:
            await context.db.read(permissions.check_snapshots, draft.project)

        async def fill(volume: Volume) -> None:
            await volume_parts.restore(context, upload, volume, volume.config)

        def note(tx: Tx, volume: Volume) -> None:
            for one in snapshots:
                snapshot_store.insert_copy(tx, volume, one)

        volume = await creation.create_filled(context, draft, fill, note)
    finally:
        await upload.spool.discard()
    details = {"type": volume.type.value}
    context.events.publish(Lifecycle("storage-volume-created", volumes.url_of(volume), volume.project, details))


def plan(pool: Pool, upload: Upload) -> tuple[Volume, list[VolumeSnapshot]]:
    """The volume and the snapshots that a backup asks for, checked. Raises InvalidRequest. Pure."""
    config = upload.index.config
    assert config is not None
    assert config.volume is not None
    custom.validate_name(upload.name)
    if config.volume.content_type not in ("", ContentType.FILESYSTEM.value):
        raise InvalidRequest(f"Custom volumes of the content type {config.volume.content_type} are not supported yet")
    draft = volumes.draft(
        pool,
        upload.wanted.project,
        upload.name,
        VolumeType.CUSTOM,
        _known(config.volume.config or {}),
        config.volume.description,
    )
    by_name = {one.name: one for one in config.volume_snapshots or []}
    return draft, [_snapshot(draft, by_name[name]) for name in upload.index.snapshots or []]


def _known(config: Mapping[str, str]) -> dict[str, str]:
    """The config without the keys of volumes of other drivers."""
    kept_keys = {key: value for key, value in config.items() if value and keys.fits_custom(key)}
    try:
        IdMap.from_json(json.loads(kept_keys.get("volatile.idmap.last", "[]")))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidRequest("Invalid backup: volatile.idmap.last of the volume is no id map") from error
    return kept_keys


def _snapshot(draft: Volume, one: IndexedVolume) -> VolumeSnapshot:
    naming.check_name(one.name)
    checked = volumes.draft(
        draft.pool, draft.project, draft.name, draft.type, _known(one.config or {}), one.description
    )
    return VolumeSnapshot(
        0,
        draft,
        one.name,
        checked.config,
        one.description,
        custom_snapshots.parse_expiry(one.expires_at),
        one.created_at or format_time(utc_now()),
    )
