"""The contents of a volume and its snapshots, of instances and custom ones alike, into an archive and out of it."""

import os
import shutil
import stat
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corral.errors import InvalidRequest
from corral.server.backups import archive, index
from corral.server.backups.index import HeaderPart, Index
from corral.server.backups.upload import Upload
from corral.server.context import Context
from corral.server.host.threads import in_thread
from corral.server.images import unpack
from corral.server.images.spool import PREFIX as SPOOL_PREFIX
from corral.server.operations.model import report
from corral.server.rollback import Rollback
from corral.server.storage import keys, model, pools, snapshots, volumes
from corral.server.storage.driver import ReceivedPart, SendsVolumes, StorageDriver, StoredVolume
from corral.server.storage.model import Pool, Volume
from corral.server.storage.registry import open_driver

_SCRATCH = ".partial-backup-"


@dataclass(frozen=True, slots=True)
class Packing:
    """An archive to make: `document` is what its index says beyond the format, `compress` a command or nothing.

    `optimized` asks for the form that the pool's driver has of its own, which it need not have.
    """

    snapshots: Sequence[str]
    document: Mapping[str, Any]
    optimized: bool
    compress: Sequence[str]
    target: Path


async def write(context: Context, volume: Volume, packing: Packing) -> None:
    """Make the archive of a volume and of its snapshots that the packing names."""
    pools.check_usable(context, volume.pool)
    driver = open_driver(context.member, volume.pool)
    sends = packing.optimized and isinstance(driver, SendsVolumes)
    head = {**packing.document, "optimized": sends, "optimized_header": sends}
    text = archive.render_yaml(head)
    if isinstance(driver, SendsVolumes):
        await _write_frozen(context, volume, packing, text, sends=sends)
    else:
        await _write_tree(volume, packing, text, volumes.path(context.member, volume))


def can_send(context: Context, pool: Pool) -> bool:
    """Whether the driver of a pool has a form of its own for backups."""
    return isinstance(open_driver(context.member, pool), SendsVolumes)


def _kind(volume: Volume) -> str:
    return index.CONTAINER if volume.type.is_instance else index.CUSTOM


def _scratch(context: Context, volume: Volume) -> StoredVolume:
    path = volumes.path(context.member, volume)
    return StoredVolume(0, volume.type, path.with_name(f"{_SCRATCH}{volume.id}-{path.name}"))


async def _write_frozen(context: Context, volume: Volume, packing: Packing, text: str, *, sends: bool) -> None:
    """From snapshots, which cost nothing here: what a running guest writes meanwhile is not seen."""
    driver = open_driver(context.member, volume.pool)
    assert isinstance(driver, SendsVolumes)
    scratch = _scratch(context, volume)
    present = volumes.stored(context.member, volume)
    async with Rollback() as undo, pools.explain_full(context, volume.pool):
        undo.add(driver.delete_volume, scratch)  # also of one that went well: nothing is committed
        await driver.create_volume(scratch)
        if sends:
            parts = await driver.freeze(present, packing.snapshots, scratch)
            header = archive.render_yaml(index.render_header(parts))
            texts = {"backup/index.yaml": text, "backup/optimized_header.yaml": header}
            streams = [(index.stream_name(_kind(volume), one.snapshot, one.path), one.command) for one in parts]
            await archive.pack_streams(texts, streams, packing.compress, packing.target)
        else:
            frozen = scratch.path / "volume"
            await driver.create_snapshot(present, frozen)
            await _write_tree(volume, packing, text, present.path, frozen)


async def _write_tree(
    volume: Volume, packing: Packing, text: str, directory: Path, present: Path | None = None
) -> None:
    """From the directories as they are; the contents from `present` where they have been kept still there."""
    main, kept = index.STREAM_NAMES[_kind(volume)]
    work = Path(await in_thread(tempfile.mkdtemp, prefix=SPOOL_PREFIX, dir=packing.target.parent))
    try:
        await in_thread((work / "index.yaml").write_text, text)
        parts = [(work / "index.yaml", "backup/index.yaml")]
        parts += [(model.snapshot_path(directory, name), f"{kept}/{name}") for name in packing.snapshots]
        parts.append((present or directory, main))
        await archive.pack(parts, packing.compress, packing.target)
    finally:
        await in_thread(shutil.rmtree, work, ignore_errors=True)


async def restore(context: Context, upload: Upload, volume: Volume, config: Mapping[str, str]) -> None:
    """Fill a new volume, whose row is there and pending, and its snapshots from a backup.

    The caller removes what is there where it fails: the volume and its snapshots. `config` may have the `size`.
    """
    pools.check_usable(context, volume.pool)
    driver = open_driver(context.member, volume.pool)
    size = keys.quota_of(config, volume.pool.config, volume.type)
    async with pools.explain_full(context, volume.pool):
        if upload.index.optimized:
            await _receive(context, upload, volume, driver)
            await driver.set_quota(volumes.stored(context.member, volume), size)
        else:
            await driver.create_volume(volumes.stored(context.member, volume), size)
            await _unpack(context, upload, volume)
    await in_thread(_check_trees, volume, volumes.path(context.member, volume), list(upload.index.snapshots or []))


async def _unpack(context: Context, upload: Upload, volume: Volume) -> None:
    """Unpack the snapshots one after the other and keep each, then what is newest."""
    directory = volumes.path(context.member, volume)
    main, kept = index.STREAM_NAMES[_kind(volume)]
    for name in upload.index.snapshots or []:
        await unpack.unpack_part(upload.archive, f"{kept}/{name}", directory)
        await snapshots.create_snapshot(context, volume, name)
        await unpack.empty(directory)
    await unpack.unpack_part(upload.archive, main, directory, _progress)
    await in_thread(os.chmod, directory, volume.type.mode)


def _progress(percent: int) -> None:
    report(create_instance_from_backup_unpack_progress=f"Unpack: {percent}%")


async def _receive(context: Context, upload: Upload, volume: Volume, driver: StorageDriver) -> None:
    check_driver(context, upload.index, volume.pool)
    assert isinstance(driver, SendsVolumes)
    parts = index.parse_parts(upload.index, upload.header)
    names = [index.stream_name(_kind(volume), one.snapshot, one.path) for one in parts]
    missing = set(names) - set(upload.streams)
    if missing:
        raise InvalidRequest(f"Invalid backup: it has no {min(missing)}")
    scratch = _scratch(context, volume)
    present = volumes.stored(context.member, volume)
    async with Rollback() as undo:
        undo.add(driver.delete_volume, scratch)
        await driver.create_volume(scratch)
        await _receive_streams(upload, names, scratch.path)
        if upload.index.snapshots:
            await in_thread(snapshots.make_directory, model.snapshot_path(present.path, "x").parent)
        await driver.settle(_received(parts, scratch.path), present)


async def _receive_streams(upload: Upload, names: Sequence[str], target: Path) -> None:
    """In one go where they lie in the archive as they build on each other, else one by one."""
    numbered = {name: str(number) for number, name in enumerate(names)}
    if [name for name in upload.streams if name in numbered] == list(names):
        await unpack.receive_streams(upload.archive, numbered, target, _progress)
        return
    for name, directory in numbered.items():
        await unpack.receive_streams(upload.archive, {name: directory}, target, _progress)


def _received(parts: Sequence[HeaderPart], scratch: Path) -> list[ReceivedPart]:
    return [
        ReceivedPart(part.snapshot, part.path, part.readonly, scratch / str(number))
        for number, part in enumerate(parts)
    ]


def check_driver(context: Context, found: Index, pool: Pool) -> None:
    """Raise InvalidRequest where a backup is in a form that the driver of a pool does not know."""
    if found.optimized and (found.backend != pool.driver or not can_send(context, pool)):
        raise InvalidRequest(
            f'Optimized backup storage driver "{found.backend}" differs from the target storage pool driver'
            f' "{pool.driver}"'
        )


def _check_trees(volume: Volume, directory: Path, names: Sequence[str]) -> None:
    if volume.type.is_instance:
        for path in [*(model.snapshot_path(directory, name) for name in names), directory]:
            check_instance_tree(path)


def check_instance_tree(directory: Path) -> None:
    """Raise InvalidRequest where a volume has links in the places that the daemon itself goes to."""
    wanted = {
        "rootfs": stat.S_IFDIR,
        "templates": stat.S_IFDIR,
        "metadata.yaml": stat.S_IFREG,
        "backup.yaml": stat.S_IFREG,
    }
    for name, kind in wanted.items():
        try:
            mode = os.lstat(directory / name).st_mode
        except FileNotFoundError:
            if name == "rootfs":
                raise InvalidRequest("Invalid backup: it has no root file system") from None
            continue
        if stat.S_IFMT(mode) != kind:
            raise InvalidRequest(f"Invalid backup: {name} is not what it should be")
