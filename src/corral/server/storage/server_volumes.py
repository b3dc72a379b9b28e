"""Volumes of the server's own: its images and backups may lie on a custom volume instead of the state directory."""

import os
import shutil
from pathlib import Path

from corral.errors import InvalidRequest, NotFound
from corral.server.context import Context
from corral.server.db.database import LocalDatabase, Tx
from corral.server.host.programs import command
from corral.server.host.threads import in_thread
from corral.server.storage import pools, snapshot_store, store, tree, volumes
from corral.server.storage.model import ContentType, Volume, VolumeType

DIRECTORIES = {"storage.images_volume": "images", "storage.backups_volume": "backups"}
"""The keys of the server's configuration, and the directory that each moves."""

_OF_A_NEW_FILE_SYSTEM = frozenset({"lost+found", ".zfs"})


async def move(context: Context, key: str, wanted: str) -> None:
    """Move what is in a directory of the server to a volume ("POOL/VOLUME"), or back with "".

    Everything is copied first; then a link takes the directory's place, and at last what was there goes. Raises
    InvalidRequest where the volume is not fit.
    """
    directory = context.member.state_dir / DIRECTORIES[key]
    present = await in_thread(_resolve, directory)
    if wanted:
        volume = await _find(context, wanted)
        target = await volumes.mount(context, volume)
        if target == present:
            return
        await in_thread(_check_empty, target, wanted)
        await in_thread(os.chmod, target, 0o700)
    elif present == directory:
        return
    else:
        target = directory.with_name(f".{directory.name}.new")
        await in_thread(shutil.rmtree, target, ignore_errors=True)
        await in_thread(target.mkdir, 0o700)
    argv = ["cp", "-a", "--reflink=auto", "--sparse=auto", "--", f"{present}/.", str(target)]
    await command.run(argv, timeout_s=tree.COPY_TIMEOUT_S)
    await in_thread(_exchange, directory, target, bool(wanted))
    if present != directory:
        await tree.empty_directory(present)


def _resolve(directory: Path) -> Path:
    return directory.parent / os.readlink(directory) if directory.is_symlink() else directory


async def _find(context: Context, wanted: str) -> Volume:
    pool_name, _, name = wanted.partition("/")
    try:
        pool = await context.db.read(store.get_pool, pool_name)
    except NotFound as error:
        raise InvalidRequest(f'Unable to load storage pool "{pool_name}": {error}') from error
    try:
        volume = await context.db.read(store.get_volume, pool, "default", name, VolumeType.CUSTOM)
    except NotFound as error:
        raise InvalidRequest(f'Failed loading storage volume "{wanted}" in "default" project: {error}') from error
    if volume.content_type is not ContentType.FILESYSTEM:
        raise InvalidRequest(f'Storage volume "{wanted}" in "default" project is not filesystem content type')
    if await context.db.read(snapshot_store.list_snapshots, [volume]):
        raise InvalidRequest("Storage volumes for use by LXD itself cannot have snapshots")
    pools.check_usable(context, pool)
    return volume


def _check_empty(directory: Path, wanted: str) -> None:
    if set(os.listdir(directory)) - _OF_A_NEW_FILE_SYSTEM:
        raise InvalidRequest(f'Storage volume "{wanted}" isn\'t empty')


def _exchange(directory: Path, target: Path, linked: bool) -> None:
    """Put a link to the target, or the target itself, in the directory's place."""
    if not linked:
        directory.unlink()
        target.rename(directory)
        return
    link = directory.with_name(f".{directory.name}.link")
    link.unlink(missing_ok=True)
    link.symlink_to(target)
    if not directory.is_symlink():
        former = directory.with_name(f".{directory.name}.old")
        directory.rename(former)
        link.rename(directory)
        shutil.rmtree(former, ignore_errors=True)
    else:
        link.rename(directory)


async def check_unused(context: Context, volume: Volume, action: str) -> None:
    """Raise InvalidRequest where the server keeps its own data on a volume."""
    if volume.type is not VolumeType.CUSTOM or volume.project != "default":
        return
    used = await context.parts[LocalDatabase].read(_list_used)
    if f"{volume.pool.name}/{volume.name}" in used:
        raise InvalidRequest(f"Volume is used by LXD itself and cannot be {action}")


def _list_used(tx: Tx) -> list[str]:
    return [row["value"] for row in tx.rows("SELECT value FROM config WHERE key IN (?, ?)", *DIRECTORIES)]
