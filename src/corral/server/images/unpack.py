"""Judges and unpacks image archives through the confined helper; what the members may be is in helper/tar_guard.py."""

import asyncio
import errno
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from corral.errors import InternalError, InvalidRequest, NotSupported
from corral.server.background import alongside
from corral.server.host.programs import python_helper
from corral.server.host.threads import in_thread
from corral.server.images.formats import Format, ImageFiles, ImageMetadata, detect_format, parse_metadata

DEADLINE_S = 3600.0
MEMBER_LIMIT = 4_000_000
SIZE_LIMIT = 1 << 40
PROGRESS_EVERY_S = 0.2

Progress = Callable[[int], None]
"""Takes the share of the archive that was read, in percent."""


class _TooLarge(InvalidRequest):
    """It needs more space than there is."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """What an image is, told by its files: the metadata, its kind, and the bytes that it unpacks to."""

    metadata: ImageMetadata
    type: str
    size: int
    members: int


@dataclass(frozen=True, slots=True)
class _Report:
    members: int
    size: int
    document: str | None
    templates: list[str]
    has_root: bool
    has_disk: bool
    header: str | None
    streams: list[str]


@dataclass(frozen=True, slots=True)
class BackupInspection:
    """What a backup holds: the texts of its documents, and the names of its streams in their order."""

    index: str
    header: str | None
    streams: list[str]


async def inspect(files: ImageFiles) -> Inspection:
    """Read an image's files to their end and judge every member, without writing anything.

    Raises InvalidRequest with the reason where the image is hostile, damaged or no image.
    """
    report = await _run(files.main, _Work("image"))
    if report.document is None:
        raise InvalidRequest("Metadata tarball is missing metadata.yaml")
    metadata = parse_metadata(report.document)
    missing = {entry.template for entry in metadata.templates.values()} - set(report.templates)
    if missing:
        raise InvalidRequest(
            f"Invalid image: metadata.yaml names the template {min(missing)!r}, which is not in templates/"
        )
    if files.rootfs is not None:
        if detect_format(files.rootfs) is Format.QCOW2:
            return Inspection(metadata, "virtual-machine", files.rootfs.stat().st_size, 1)
        root = await _run(files.rootfs, _Work("rootfs"))
        return Inspection(metadata, "container", root.size, root.members)
    if report.has_disk:
        return Inspection(metadata, "virtual-machine", report.size, report.members)
    if not report.has_root:
        raise InvalidRequest(
            "Invalid image: it has neither rootfs/ nor rootfs.img, and no second file with the root file system"
        )
    return Inspection(metadata, "container", report.size, report.members)


async def unpack(
    files: ImageFiles,
    target: Path,
    *,
    size_limit: int | None = None,
    progress: Progress | None = None,
) -> ImageMetadata:
    """Unpack a container image into an existing, empty directory: metadata.yaml, templates/ and rootfs/.

    `size_limit` bounds what it may unpack to, in bytes; without it, what the file system of `target` has free.
    Raises InvalidRequest with the reason, or OSError (ENOSPC) where the space does not suffice; then nothing is left
    in `target`.
    """
    limit = size_limit if size_limit is not None else await in_thread(_free_bytes, target)
    try:
        report = await _run(files.main, _Work("image", target, limit), progress if files.rootfs is None else None)
        if report.document is None:
            raise InvalidRequest("Metadata tarball is missing metadata.yaml")
        if files.rootfs is not None:
            if detect_format(files.rootfs) is Format.QCOW2:
                raise NotSupported(
                    "The image is one of a virtual machine: it has a disk and no root file system to unpack"
                )
            rootfs = target / "rootfs"
            rootfs.mkdir(mode=0o755, exist_ok=True)
            await _run(files.rootfs, _Work("rootfs", rootfs, limit), progress)
        elif not report.has_root:
            raise InvalidRequest(f"Image is missing a rootfs: {files.main.name}")
        return parse_metadata(report.document)
    except _TooLarge as error:
        await in_thread(_empty, target)
        if size_limit is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target)) from error
        raise
    except BaseException:
        await in_thread(_empty, target)
        raise


async def inspect_backup(path: Path) -> BackupInspection:
    """Read a backup to its end and judge every member.

    Raises InvalidRequest with the reason where the archive is hostile, damaged or no backup.
    """
    if await in_thread(detect_format, path) is Format.QCOW2:
        raise InvalidRequest("The backup is refused: it is the disk of a virtual machine")
    report = await _run(path, _Work("backup"))
    if report.document is None:
        raise InvalidRequest("Backup is missing at backup/index.yaml")
    return BackupInspection(report.document, report.header, report.streams)


async def receive_streams(
    path: Path, streams: Mapping[str, str], target: Path, progress: Progress | None = None
) -> None:
    """Receive streams of a backup, {member: new directory of the target}, in the order that they have in it.

    `target` is a btrfs subvolume, the only thing that the streams can reach. Raises InvalidRequest, or OSError (ENOSPC)
    where the space does not suffice; what came before is left to the caller.
    """
    try:
        await _run(path, _Work("backup", target, streams=streams), progress)
    except _TooLarge as error:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target)) from error


async def unpack_part(path: Path, part: str, target: Path, progress: Progress | None = None) -> None:
    """Unpack what is below one part of a backup (backup/container) into an existing, empty directory.

    Raises InvalidRequest, or OSError (ENOSPC) where the space does not suffice; then nothing is left in `target`.
    """
    limit = await in_thread(_free_bytes, target)
    try:
        await _run(path, _Work("backup", target, limit, part), progress)
    except _TooLarge as error:
        await in_thread(_empty, target)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target)) from error
    except BaseException:
        await in_thread(_empty, target)
        raise


async def empty(directory: Path) -> None:
    """Remove everything in a directory."""
    await in_thread(_empty, directory)


@dataclass(frozen=True, slots=True)
class _Work:
    """What the helper does with an archive of a layout; without a target it only looks.

    `limit` bounds the bytes that come of it; `prefix` names the one part, and `streams` {member: directory} those
    members of a backup that are wanted.
    """

    layout: str
    target: Path | None = None
    limit: int = SIZE_LIMIT
    prefix: str = ""
    streams: Mapping[str, str] = field(default_factory=dict)


async def _run(path: Path, work: _Work, progress: Progress | None = None) -> _Report:
    kind = await in_thread(detect_format, path)
    if kind is Format.QCOW2:
        raise InvalidRequest("Invalid image: a disk without metadata; give the metadata's file and the disk")
    request = {
        "layout": work.layout,
        "decompress": _decompressor(kind),
        "squashfs": str(path.resolve()) if kind is Format.SQUASHFS else "",
        "target": str(work.target.resolve()) if work.target is not None else "",
        "size": work.limit,
        "members": MEMBER_LIMIT,
        "prefix": work.prefix,
        "streams": dict(work.streams),
    }
    archive = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        watch = [_report_share(archive, progress)] if progress is not None else []
        async with alongside("progress of unpacking", *watch):
            completed = await python_helper.run("unarchive", json.dumps(request), stdin=archive, timeout_s=DEADLINE_S)
    finally:
        os.close(archive)
    return _read_report(completed.stdout, path, "backup" if work.layout == "backup" else "image")


def _read_report(output: str, path: Path, noun: str) -> _Report:
    try:
        report = json.loads(output)
    except ValueError:
        raise InternalError(f"The helper that reads images gave no result for {path.name}") from None
    if "refused" in report:
        kind = _TooLarge if report["for_space"] else InvalidRequest
        raise kind(f"The {noun} is refused: {report['refused']}")
    return _Report(**report)


async def _report_share(archive: int, progress: Progress) -> None:
    """Tell how far the archive was read, again and again: the helper shares the descriptor's offset with us."""
    size = os.fstat(archive).st_size
    while size:
        await asyncio.sleep(PROGRESS_EVERY_S)
        progress(os.lseek(archive, 0, os.SEEK_CUR) * 100 // size)


def _decompressor(kind: Format) -> list[str]:
    if kind is Format.GZIP and shutil.which("pigz"):
        return ["pigz", "-dc"]
    return list(kind.decompress)


def _free_bytes(target: Path) -> int:
    status = os.statvfs(target)
    return status.f_bavail * status.f_frsize


def _empty(target: Path) -> None:
    for entry in os.scandir(target):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)
