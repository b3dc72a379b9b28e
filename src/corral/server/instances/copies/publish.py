"""Publishes instances and their snapshots as images: packed by a confined tar with the ids that users have inside."""

import asyncio
import contextlib
import json
import os
import shutil
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from corral import architectures
from corral.errors import AlreadyExists, CommandFailed, InternalError, InvalidRequest, NotFound, NotSupported
from corral.server.background import alongside
from corral.server.context import Context
from corral.server.db.database import Tx
from corral.server.events.model import format_time, utc_now
from corral.server.host.programs import compressors, python_helper
from corral.server.host.threads import in_thread
from corral.server.images import alias_store, create, formats
from corral.server.images.formats import ImageFiles, ImageMetadata
from corral.server.images.model import NEVER, Image, Wanted
from corral.server.images.preferences import ServerPreferences
from corral.server.images.spool import Spool
from corral.server.instances import busy, root_volume, running, store
from corral.server.instances.model import Instance
from corral.server.instances.security import idmaps
from corral.server.instances.snapshots import snapshot_store
from corral.server.operations.model import report
from corral.server.storage.model import snapshot_path
from corral.units import format_size

DEADLINE_S = 6 * 3600.0
REPORT_EVERY_S = 0.5
METADATA_LIMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class Origin:
    """What to publish, as checked: an instance, or a snapshot of it by its name."""

    instance: Instance
    snapshot: str = ""
    disk_idmap: str = ""


@dataclass(frozen=True, slots=True)
class Publication:
    """An image to make of an origin for a project; `compression` is empty for the project's preference."""

    origin: Origin
    project: str
    wanted: Wanted
    properties: Mapping[str, str] | None
    compression: str = ""


def find_origin(tx: Tx, project: str, kind: str, name: str) -> Origin:
    """The instance or snapshot that a source names; raises NotFound or what is wrong with the source."""
    if not name:
        raise InvalidRequest("No source provided")
    parent, slash, snapshot = name.partition("/")
    if kind == "snapshot" and not slash:
        raise InvalidRequest("Not a snapshot")
    if kind != "snapshot" and slash:
        raise InvalidRequest("This is a snapshot")
    instance = store.get_instance(tx, project, parent)
    if kind in ("container", "virtual-machine") and instance.type.value != kind:
        raise NotFound("Instance not found")
    if not instance.is_container:
        raise NotSupported("Virtual machines cannot be published by this server")
    config = snapshot_store.get_snapshot(tx, instance.id, snapshot).config if slash else instance.config
    return Origin(instance, snapshot, config.get("volatile.last_state.idmap", ""))


async def publish(context: Context, publication: Publication) -> dict[str, str]:
    """Make the image and return what the operation shows of it. One at a time: each uses all the disk has.

    Raises InvalidRequest for a running instance, AlreadyExists for an image or an alias that is there.
    """
    origin, wanted = publication.origin, publication.wanted
    await context.db.read(alias_store.check_free, publication.project, [name for name, _ in wanted.aliases])
    preferences = await context.db.read(context.parts[ServerPreferences].of_project, publication.project)
    compression = compressors.compose(publication.compression or preferences.compression)
    async with context.locks.hold("publish"), _kept_stopped(context, origin) as instance:
        directory = await root_volume.mount(context, instance)
        if origin.snapshot:
            directory = snapshot_path(directory, origin.snapshot)
        spool = await Spool.make(context.member.images_dir)
        try:
            return await _publish(context, publication, directory, spool.directory, compression)
        finally:
            await spool.discard()


@contextlib.asynccontextmanager
async def _kept_stopped(context: Context, origin: Origin) -> AsyncIterator[Instance]:
    """The instance as it is now. One that is published itself must be stopped and stay so; a snapshot needs nothing."""
    if origin.snapshot:
        yield await context.db.read(store.reload, origin.instance.id)
        return
    async with busy.claim(context, origin.instance.id, "publish"):
        instance = await context.db.read(store.reload, origin.instance.id)
        if running.find(context, instance) is not None:
            raise InvalidRequest("Cannot export a running instance as an image")
        yield instance


async def _publish(
    context: Context, publication: Publication, directory: Path, work: Path, compression: list[str]
) -> dict[str, str]:
    origin = publication.origin
    idmap = idmaps.of_text(origin.disk_idmap)
    owner = (idmap.outside_uid(0) or 0, idmap.outside_gid(0) or 0) if idmap is not None else (0, 0)
    metadata = await in_thread(_prepare, directory, work, publication, owner)
    request = {
        "parts": str(work / "parts"),
        "rootfs": str(directory / "rootfs"),
        "compress": compression,
        "output": str(work / "main") if compression[:1] == [compressors.WRITES_FILES] else "",
        "uid_map": idmap.proc_map(uids=True) if idmap is not None else "",
        "gid_map": idmap.proc_map(uids=False) if idmap is not None else "",
    }
    await _pack(request, work / "main")
    files = ImageFiles(work / "main")
    fingerprint = await formats.fingerprint_of(files)
    size = await in_thread(lambda: files.size)
    shown = {"fingerprint": fingerprint, "size": str(size)}
    report(**shown)
    try:
        await create.add_image(context, _compose(publication, metadata, fingerprint, size), files)
    except AlreadyExists as error:
        if "fingerprint" not in str(error):
            raise
        raise AlreadyExists(f"The image already exists: {fingerprint}") from error
    return shown


async def _pack(request: Mapping[str, object], path: Path) -> None:
    output = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        async with alongside("progress of packing", _report_size(output)):
            await python_helper.run("pack", json.dumps(request), stdout=output, timeout_s=DEADLINE_S)
    except CommandFailed as error:
        raise InternalError(f"Failed to pack the instance: {error.stderr.strip() or error}") from error
    finally:
        os.close(output)


async def _report_size(output: int) -> None:
    """Tell how much was written, again and again."""
    started = time.monotonic()
    while True:
        await asyncio.sleep(REPORT_EVERY_S)
        size = os.fstat(output).st_size
        rate = format_size(int(size / (time.monotonic() - started)))
        report(create_image_from_container_pack_progress=f"Image pack: {format_size(size)} ({rate}/s)")


def _prepare(directory: Path, work: Path, publication: Publication, owner: tuple[int, int]) -> ImageMetadata:
    """Lay out metadata.yaml and the templates as the image gets them; returns what metadata.yaml says."""
    parts = work / "parts"
    parts.mkdir(mode=0o755)
    if (directory / "templates").is_dir():
        shutil.copytree(directory / "templates", parts / "templates", symlinks=True)
    document, metadata = _metadata(directory / "metadata.yaml", publication)
    (parts / "metadata.yaml").write_text(document)
    os.utime(parts / "metadata.yaml", (metadata.creation_date, metadata.creation_date))
    for path in (parts, *parts.rglob("*")):
        os.chown(path, *owner, follow_symlinks=False)
    return metadata


def _metadata(path: Path, publication: Publication) -> tuple[str, ImageMetadata]:
    """The text and the values of metadata.yaml: the instance's own where nothing else is asked for."""
    instance, wanted = publication.origin.instance, publication.wanted
    expires_at = datetime.fromisoformat(wanted.expires_at) if wanted.expires_at else None
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), encoding="utf-8", errors="strict") as file:
            document = file.read(METADATA_LIMIT)
        metadata = formats.parse_metadata(document)
    except (FileNotFoundError, UnicodeDecodeError):
        architecture = architectures.format_architecture(instance.architecture)
        document, metadata = "", ImageMetadata(architecture, int(time.time()))
    if document and publication.properties is None and expires_at is None:
        return document, metadata
    metadata = replace(
        metadata,
        properties=publication.properties if publication.properties is not None else metadata.properties,
        expiry_date=int(expires_at.timestamp()) if expires_at is not None else metadata.expiry_date,
    )
    return formats.render_metadata(metadata), metadata


def _compose(publication: Publication, metadata: ImageMetadata, fingerprint: str, size: int) -> Image:
    wanted, instance = publication.wanted, publication.origin.instance
    expiry = format_time(datetime.fromtimestamp(metadata.expiry_date, UTC)) if metadata.expiry_date else NEVER
    return Image(
        id=0,
        project=publication.project,
        fingerprint=fingerprint,
        filename=wanted.filename,
        size=size,
        public=wanted.public,
        auto_update=False,
        cached=False,
        architecture=architectures.format_architecture(instance.architecture),
        type=instance.type.value,
        created_at=format_time(utc_now()),
        expires_at=expiry,
        uploaded_at="",
        last_used_at="",
        properties=metadata.properties,
        profiles=wanted.profiles if wanted.profiles is not None else ["default"],
        aliases=wanted.aliases,
    )
