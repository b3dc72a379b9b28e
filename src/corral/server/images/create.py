"""Adds images: from files that were uploaded, and from recipes built here."""

import re
from datetime import UTC, datetime

from corral import architectures
from corral.api.urls import url
from corral.errors import AlreadyExists, Conflict, Forbidden, InvalidRequest
from corral.server.context import Context
from corral.server.db.database import Tx
from corral.server.events.model import Lifecycle, format_time
from corral.server.host.threads import in_thread
from corral.server.images import alias_store, build, formats, spool, store, unpack
from corral.server.images.formats import ImageFiles
from corral.server.images.model import NEVER, Image, Wanted
from corral.server.images.recipe import Recipe
from corral.server.images.spool import Spool
from corral.server.operations.model import report
from corral.server.projects import permissions
from corral.server.rollback import Rollback

_BUILDS = "image builds"


async def from_upload(context: Context, project: str, upload: Spool, expected: str, wanted: Wanted) -> dict[str, str]:
    """Store an upload as an image and return what the operation shows of it. The spool is discarded in any case.

    Raises InvalidRequest for a fingerprint that is not the expected one and for a hostile or damaged image,
    AlreadyExists where the project has it.
    """
    try:
        fingerprint = upload.fingerprint
        if expected and fingerprint != expected:
            raise InvalidRequest(f"fingerprints don't match, got {fingerprint} expected {expected}")
        return await _register(context, project, upload.files, fingerprint, wanted)
    finally:
        await upload.discard()


async def from_recipe(context: Context, project: str, recipe: Recipe, wanted: Wanted) -> dict[str, str]:
    """Build an image and store it. Builds run one after another: each uses all the machine has."""
    await context.db.read(alias_store.check_free, project, [name for name, _ in wanted.aliases])
    work = await Spool.make(context.member.images_dir)
    try:
        report(build_progress="Waiting for other builds")
        async with context.locks.hold(_BUILDS):
            cache = context.member.cache_dir / "packages"
            files = await build.build(recipe, work.directory, cache, _report_build)
            report(build_progress="Storing the image: 99%")
            fingerprint = await formats.fingerprint_of(files)
            return await _register(context, project, files, fingerprint, wanted)
    finally:
        await work.discard()


def _report_build(phase: str, percent: int) -> None:
    report(build_progress=f"{phase}: {percent}%")


async def _register(
    context: Context, project: str, files: ImageFiles, fingerprint: str, wanted: Wanted
) -> dict[str, str]:
    """Judge an image and make it one of the project's."""
    size = await in_thread(lambda: files.size)
    shown = {"fingerprint": fingerprint, "size": str(size)}
    # Clients take the fingerprint from the operation also where it fails because the image is there.
    report(**shown)
    await context.db.read(_check_new, project, fingerprint, [name for name, _ in wanted.aliases])
    image = compose_image(project, fingerprint, size, await unpack.inspect(files), wanted)
    await add_image(context, image, files)
    return shown


async def add_image(context: Context, image: Image, files: ImageFiles | None) -> Image:
    """Make an image that was judged one of its project's and return it as stored.

    `files` is None where another project has them. Raises AlreadyExists where the project has the image or an alias,
    Conflict where the other project's went meanwhile.
    """
    fingerprint = image.fingerprint
    async with context.locks.hold("image", fingerprint):
        await context.db.read(_check_new, image.project, fingerprint, [name for name, _ in image.aliases])
        async with Rollback() as undo:
            if not await context.db.read(store.count_projects, fingerprint):
                if files is None:
                    raise Conflict(f"The image {fingerprint} was deleted meanwhile: try again")
                undo.add(in_thread, spool.remove_files, context.member.images_dir, fingerprint)
                await in_thread(spool.store_files, files, context.member.images_dir, fingerprint)
            await context.db.write(_insert, image)
            undo.commit()
    source = url("/1.0/images", fingerprint, project=image.project)
    context.events.publish(Lifecycle("image-created", source, image.project, {"type": image.type}))
    return await context.db.read(store.get_image, image.project, fingerprint)


def _check_new(tx: Tx, project: str, fingerprint: str, aliases: list[str]) -> None:
    if store.find_image(tx, project, fingerprint) is not None:
        raise AlreadyExists("Image with same fingerprint already exists")
    alias_store.check_free(tx, project, aliases)


def _insert(tx: Tx, image: Image) -> None:
    budget = permissions.image_budget(tx, image.project)
    if budget is not None and image.size > budget:
        raise Forbidden(f"Not enough space for image: it has {image.size} bytes, the project has {budget} left")
    store.insert_image(tx, image)


def compose_image(project: str, fingerprint: str, size: int, inspection: unpack.Inspection, wanted: Wanted) -> Image:
    """The image to store, from its metadata and what was asked for."""
    metadata = inspection.metadata
    expires_at = wanted.expires_at
    if not expires_at and metadata.expiry_date:
        expires_at = format_time(datetime.fromtimestamp(metadata.expiry_date, UTC))
    return Image(
        id=0,
        project=project,
        fingerprint=fingerprint,
        filename=wanted.filename,
        size=size,
        public=wanted.public,
        auto_update=wanted.auto_update,
        cached=False,
        architecture=architectures.canonical_name(metadata.architecture),
        type=inspection.type,
        created_at=format_time(datetime.fromtimestamp(metadata.creation_date, UTC)),
        expires_at=expires_at or NEVER,
        uploaded_at="",
        last_used_at="",
        properties={**metadata.properties, **wanted.properties},
        profiles=wanted.profiles if wanted.profiles is not None else ["default"],
        aliases=wanted.aliases,
    )


def check_alias_name(name: str) -> None:
    """Raise InvalidRequest where an alias cannot be called so."""
    if not name or len(name) > 255 or re.search(r"[\x00-\x1f]", name) or name.startswith("-"):
        raise InvalidRequest(f"Invalid alias name {name!r}")


def parse_expiry(text: str) -> str:
    """A date of a client as RFC 3339 in UTC; empty for none and for the zero time. Raises InvalidRequest."""
    if not text or text.startswith("0001-01-01T00:00:00"):
        return ""
    shortened = re.sub(r"(\.\d{6})\d+", r"\1", text)
    try:
        moment = datetime.fromisoformat(shortened)
    except ValueError:
        raise InvalidRequest(f"Invalid expires_at {text!r}: give an RFC 3339 time") from None
    if moment.tzinfo is None:
        raise InvalidRequest(f"Invalid expires_at {text!r}: it has no time zone")
    return format_time(moment)
