"""What a daemon that died left in a pool: half-made volumes are removed, half-done exchanges are undone."""

import logging
import os
from dataclasses import replace
from pathlib import Path

from corral.server.context import Context
from corral.server.db.database import Tx
from corral.server.host.threads import in_thread
from corral.server.storage import copies, model, snapshot_store, store, volumes
from corral.server.storage.driver import StorageDriver, StoredVolume
from corral.server.storage.model import FORMER, PARTIAL, RENAME, Pool, Volume, VolumeSnapshot, VolumeType
from corral.server.storage.registry import open_driver

log = logging.getLogger(__name__)


async def sweep_pool(context: Context, pool: Pool) -> None:
    """Bring a mounted pool into the state that the database tells."""
    driver = open_driver(context.member, pool)
    for volume in await context.db.read(store.list_pending, pool):
        if volume.pending.startswith(RENAME):
            await _finish_rename(context, volume)
            continue
        log.warning("Removing volume %s of storage pool %s: its %s did not end", volume.name, pool.name, volume.pending)
        # A copy's snapshots are made before the volume is whole.
        await copies.discard_contents(context, volume)
    for snapshot in await context.db.read(_pending_snapshots, pool):
        if snapshot.pending.startswith(RENAME):
            await _finish_snapshot_rename(context, driver, snapshot)
            continue
        log.warning(
            "Removing snapshot %s of volume %s: its %s did not end",
            snapshot.name,
            snapshot.volume.name,
            snapshot.pending,
        )
        volume = snapshot.volume
        path = model.volume_path(context.member, pool.name, volume.type, volume.storage_name)
        await driver.delete_volume(StoredVolume(0, volume.type, model.snapshot_path(path, snapshot.name)))
        await context.db.write(snapshot_store.delete_snapshot, snapshot.id)
    for kind in VolumeType:
        await _sweep_directory(driver, model.pool_path(context.member, pool.name) / kind.directory, kind)


async def _finish_rename(context: Context, volume: Volume) -> None:
    """Give a volume's directories the name that the database has."""
    former = replace(volume, name=volume.pending.removeprefix(RENAME))
    log.warning("Finishing the rename of volume %s to %s", former.storage_name, volume.storage_name)
    await volumes.move_directories(context, former, volume)
    await context.db.write(store.mark_volume, volume.id, "")


async def _finish_snapshot_rename(context: Context, driver: StorageDriver, snapshot: VolumeSnapshot) -> None:
    path = volumes.path(context.member, snapshot.volume)
    old = model.snapshot_path(path, snapshot.pending.removeprefix(RENAME))
    new = model.snapshot_path(path, snapshot.name)
    if old.exists() and not new.exists():
        await driver.rename_volume(StoredVolume(0, snapshot.volume.type, old), new)
    await context.db.write(snapshot_store.mark_snapshot, snapshot.id, "")


def _pending_snapshots(tx: Tx, pool: Pool) -> list[VolumeSnapshot]:
    return snapshot_store.list_pending(tx, store.list_volumes(tx, pool))


async def _sweep_directory(driver: StorageDriver, directory: Path, kind: VolumeType) -> None:
    for name in await in_thread(os.listdir, directory):
        path = directory / name
        if name.startswith(PARTIAL):
            log.warning("Removing the half-made volume %s", path)
            await driver.delete_volume(StoredVolume(0, kind, path))
        elif name.startswith(FORMER):
            await _settle(driver, StoredVolume(0, kind, path), directory / name.removeprefix(FORMER))


async def _settle(driver: StorageDriver, former: StoredVolume, path: Path) -> None:
    """A volume was being replaced: keep the new one where it has its name, else put the old one back."""
    if path.exists():
        await driver.delete_volume(former)
    else:
        log.warning("Putting back the volume %s: its restore did not end", path)
        await driver.rename_volume(former, path)
