"""The image that an instance is made from: found by alias, fingerprint or properties among the project's images."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from corral.api.instances import InstanceSource
from corral.errors import InvalidRequest, NotFound, NotSupported
from corral.server.context import Context
from corral.server.db import rows
from corral.server.db.database import Tx
from corral.server.images import unpack
from corral.server.images.formats import image_files
from corral.server.instances.model import InstanceType
from corral.server.storage.model import ImageSource


@dataclass(frozen=True, slots=True)
class SourceImage:
    """What a new instance takes from its image."""

    id: int
    fingerprint: str
    architecture: int
    type: InstanceType
    properties: Mapping[str, str]
    profiles: tuple[str, ...]


def image_project(tx: Tx, project: str) -> str:
    """The project whose images the instances of a project are made from."""
    row = tx.row(
        "SELECT c.value FROM projects p JOIN projects_config c ON c.project_id = p.id"
        " WHERE p.name = ? AND c.key = 'features.images'",
        project,
    )
    own = row is not None and (row[0] or "").lower() in ("true", "1", "yes", "on")
    return project if own or project == "default" else "default"


def resolve(tx: Tx, project: str, source: InstanceSource) -> SourceImage:
    """The image that a source names; NotFound or InvalidRequest where there is none."""
    owner = image_project(tx, project)
    if source.server and not (source.fingerprint and _by_fingerprint(tx, owner, source.fingerprint)):
        raise NotSupported(
            f"Images of remote servers ({source.server}) cannot be fetched by this server yet: import the image or "
            "copy it here first"
        )
    if source.fingerprint:
        ids = _by_fingerprint(tx, owner, source.fingerprint)
        if len(ids) > 1:
            raise InvalidRequest(f"More than one image matches the fingerprint prefix {source.fingerprint!r}")
        missing = "Image not found"
    elif source.alias:
        ids = _by_alias(tx, owner, source.alias)
        missing = "Image alias not found"
    elif source.properties is not None:
        ids = _by_properties(tx, owner, source.properties)
        missing = "No matching image could be found"
    else:
        raise InvalidRequest("Must specify one of alias, fingerprint or properties for init from image")
    if not ids:
        raise NotFound(missing)
    return _load(tx, owner, ids[0])


_IMAGES = "FROM images i JOIN projects p ON p.id = i.project_id WHERE p.name = ?"


def _by_fingerprint(tx: Tx, project: str, prefix: str) -> list[int]:
    if not prefix or any(character not in "0123456789abcdef" for character in prefix.lower()):
        raise InvalidRequest(f"Invalid image fingerprint {prefix!r}")
    found = tx.rows(f"SELECT i.id {_IMAGES} AND i.fingerprint LIKE ?", project, prefix.lower() + "%")
    return [row[0] for row in found]


def _by_alias(tx: Tx, project: str, alias: str) -> list[int]:
    sql = (
        "SELECT a.image_id FROM images_aliases a JOIN projects p ON p.id = a.project_id WHERE p.name = ? AND a.name = ?"
    )
    return [row[0] for row in tx.rows(sql, project, alias)]


def _by_properties(tx: Tx, project: str, wanted: Mapping[str, str]) -> list[int]:
    """The images with these properties, newest first."""
    ids = [row[0] for row in tx.rows(f"SELECT i.id {_IMAGES} ORDER BY i.creation_date DESC, i.id DESC", project)]
    properties = rows.read_configs(tx, "images_properties", "image_id", ids)
    return [one for one in ids if all(properties.get(one, {}).get(key) == value for key, value in wanted.items())]


def _load(tx: Tx, project: str, image_id: int) -> SourceImage:
    row = tx.rows("SELECT fingerprint, architecture, type FROM images WHERE id = ?", image_id)[0]
    profiles = tx.rows(
        "SELECT f.name FROM images_profiles ip JOIN profiles f ON f.id = ip.profile_id WHERE ip.image_id = ?"
        " ORDER BY ip.rowid",
        image_id,
    )
    return SourceImage(
        image_id,
        row["fingerprint"],
        row["architecture"],
        InstanceType.of_number(row["type"]),
        rows.read_configs(tx, "images_properties", "image_id", [image_id]).get(image_id, {}),
        tuple(one["name"] for one in profiles),
    )


def mark_used(tx: Tx, image_id: int, moment: str) -> None:
    """Note that an image was used, so that it is not taken for forgotten."""
    tx.execute("UPDATE images SET last_use_date = ? WHERE id = ?", moment, image_id)


def volume_source(context: Context, fingerprint: str) -> ImageSource:
    """The image as storage wants it: unpacked on demand, once for each pool."""

    async def fill(directory: Path) -> None:
        await unpack.unpack(image_files(context.member.images_dir, fingerprint), directory)

    return ImageSource(fingerprint, fill)
