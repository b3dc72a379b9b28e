"""SQL of images."""

import re
from collections.abc import Mapping, Sequence

from corral.architectures import format_architecture, parse_architecture
from corral.errors import AlreadyExists, Conflict, NotFound
from corral.server.db import rows
from corral.server.db.database import Tx
from corral.server.events.model import format_time, utc_now
from corral.server.images import alias_store, applied_profiles
from corral.server.images.model import NEVER, PROTOCOLS, TYPES, Image, UpdateSource

_SELECT = (
    "SELECT i.id, p.name AS project, i.fingerprint, i.filename, i.size, i.public, i.auto_update, i.cached,"
    " i.architecture, i.type, i.creation_date, i.expiry_date, i.upload_date, i.last_use_date"
    " FROM images i JOIN projects p ON p.id = i.project_id"
)


def _load(tx: Tx, where: str, *values: str | int) -> list[Image]:
    found = tx.rows(f"{_SELECT} WHERE {where} ORDER BY i.id", *values)
    ids = [row["id"] for row in found]
    properties = rows.read_configs(tx, "images_properties", "image_id", ids)
    profiles = _profiles(tx, ids)
    aliases = alias_store.of_images(tx, ids)
    sources = _sources(tx, ids)
    return [
        Image(
            id=row["id"],
            project=row["project"],
            fingerprint=row["fingerprint"],
            filename=row["filename"],
            size=row["size"],
            public=bool(row["public"]),
            auto_update=bool(row["auto_update"]),
            cached=bool(row["cached"]),
            architecture=format_architecture(row["architecture"]),
            type=TYPES[row["type"]],
            created_at=row["creation_date"] or "",
            expires_at=row["expiry_date"] or "",
            uploaded_at=row["upload_date"],
            last_used_at=row["last_use_date"] or "",
            properties=properties.get(row["id"], {}),
            profiles=profiles.get(row["id"], []),
            aliases=aliases.get(row["id"], []),
            update_source=sources.get(row["id"]),
        )
        for row in found
    ]


def _profiles(tx: Tx, ids: Sequence[int]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for image, name in tx.rows(
        "SELECT ip.image_id, pr.name FROM images_profiles ip JOIN profiles pr ON pr.id = ip.profile_id"
        " JOIN images i ON i.id = ip.image_id"
        " LEFT JOIN projects_config c ON c.project_id = i.project_id AND c.key = 'features.profiles'"
        f" WHERE ip.image_id IN ({rows.marks(ids)}) AND pr.project_id ="
        " CASE WHEN lower(coalesce(c.value, '')) IN ('true', '1', 'yes', 'on') THEN i.project_id ELSE 1 END"
        " ORDER BY ip.rowid",
        *ids,
    ):
        found.setdefault(image, []).append(name)
    return found


def _sources(tx: Tx, ids: Sequence[int]) -> dict[int, UpdateSource]:
    return {
        row["image_id"]: UpdateSource(row["server"], PROTOCOLS[row["protocol"]], row["certificate"], row["alias"])
        for row in tx.rows(f"SELECT * FROM images_source WHERE image_id IN ({rows.marks(ids)})", *ids)
    }


def list_images(tx: Tx, project: str, *, public_only: bool = False) -> list[Image]:
    """The images of a project, in the order in which they came."""
    return _load(tx, "p.name = ? AND i.public >= ?", project, int(public_only))


def get_image(tx: Tx, project: str, fingerprint: str) -> Image:
    """The image whose fingerprint is or begins with this. Raises NotFound, Conflict where more than one does."""
    if re.fullmatch(r"[0-9a-f]{1,64}", fingerprint) is None:
        raise NotFound("Image not found")
    found = _load(tx, "p.name = ? AND i.fingerprint LIKE ?", project, f"{fingerprint}%")
    if not found:
        raise NotFound("Image not found")
    if len(found) > 1:
        raise Conflict("More than one image matches")
    return found[0]


def find_image(tx: Tx, project: str, fingerprint: str) -> Image | None:
    """The image of exactly this fingerprint, or None."""
    found = _load(tx, "p.name = ? AND i.fingerprint = ?", project, fingerprint)
    return found[0] if found else None


def find_anywhere(tx: Tx, fingerprint: str) -> Image | None:
    """The image of exactly this fingerprint in whatever project, or None."""
    found = _load(tx, "i.fingerprint = ?", fingerprint)
    return found[0] if found else None


def find_by_source(tx: Tx, source: UpdateSource, kind: str, architecture: str) -> Image | None:
    """The newest image of whatever project that came from there and is kept up to date; `kind` may be empty."""
    types = [TYPES.index(kind)] if kind in TYPES else list(range(len(TYPES)))
    row = tx.row(
        "SELECT i.id FROM images i JOIN images_source s ON s.image_id = i.id WHERE s.server = ? AND s.protocol = ?"
        " AND s.certificate = ? AND s.alias = ? AND i.auto_update = 1 AND i.architecture = ?"
        f" AND i.type IN ({rows.marks(types)}) ORDER BY i.creation_date DESC LIMIT 1",
        source.server,
        PROTOCOLS.index(source.protocol),
        source.certificate,
        source.alias,
        parse_architecture(architecture),
        *types,
    )
    return _load(tx, "i.id = ?", row["id"])[0] if row is not None else None


def list_auto_updated(tx: Tx) -> list[Image]:
    """The images of all projects that are to be kept up to date."""
    return _load(tx, "i.auto_update = 1")


def resolve_image(tx: Tx, project: str, name: str) -> Image:
    """The image that a user means by a name: an alias, else (the beginning of) a fingerprint. Raises NotFound."""
    alias = alias_store.find_alias(tx, project, name)
    return get_image(tx, project, alias.target if alias is not None else name)


def count_projects(tx: Tx, fingerprint: str) -> int:
    """How many projects have the image of this fingerprint; they share its files."""
    row = tx.row("SELECT COUNT(*) AS count FROM images WHERE fingerprint = ?", fingerprint)
    return int(row["count"]) if row is not None else 0


def list_fingerprints(tx: Tx) -> set[str]:
    """The fingerprints of all projects' images."""
    return {row["fingerprint"] for row in tx.rows("SELECT DISTINCT fingerprint FROM images")}


def insert_image(tx: Tx, image: Image) -> int:
    """Add an image (its `id` and `uploaded_at` are ignored) with properties, profiles and aliases; returns its id.

    Raises AlreadyExists for the fingerprint or an alias, InvalidRequest for a profile that does not exist.
    """
    if find_image(tx, image.project, image.fingerprint) is not None:
        raise AlreadyExists("Image with same fingerprint already exists")
    project = tx.row("SELECT id FROM projects WHERE name = ?", image.project)
    if project is None:
        raise NotFound("Project not found")
    image_id = tx.execute(
        "INSERT INTO images (fingerprint, filename, size, public, architecture, creation_date, expiry_date,"
        " upload_date, cached, auto_update, project_id, type, last_use_date)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        image.fingerprint,
        image.filename,
        image.size,
        int(image.public),
        parse_architecture(image.architecture),
        image.created_at,
        image.expires_at or NEVER,
        format_time(utc_now()),
        int(image.cached),
        int(image.auto_update),
        project["id"],
        TYPES.index(image.type),
        image.last_used_at or None,
    )
    if image.update_source is not None:
        _insert_source(tx, image_id, image.update_source)
    tx.execute("INSERT INTO images_nodes (image_id, node_id) VALUES (?, 1)", image_id)
    _write_properties(tx, image_id, image.properties)
    applied_profiles.write(tx, image_id, image.project, image.profiles)
    if image.project == "default":
        applied_profiles.share(tx, image_id)
    for name, description in image.aliases:
        alias_store.insert_alias(tx, image.project, name, image_id, description)
    return image_id


def _insert_source(tx: Tx, image_id: int, source: UpdateSource) -> None:
    tx.execute(
        "INSERT INTO images_source (image_id, server, protocol, certificate, alias) VALUES (?, ?, ?, ?, ?)",
        image_id,
        source.server,
        PROTOCOLS.index(source.protocol),
        source.certificate,
        source.alias,
    )


def update_image(tx: Tx, image: Image, user: str = "") -> None:
    """Store what clients may change: public, auto_update, expires_at, properties and profiles.

    The profiles are those for the project `user`, where it is not the image's own that asks.
    """
    tx.execute(
        "UPDATE images SET public = ?, auto_update = ?, expiry_date = ? WHERE id = ?",
        int(image.public),
        int(image.auto_update),
        image.expires_at or NEVER,
        image.id,
    )
    _write_properties(tx, image.id, image.properties)
    applied_profiles.write(tx, image.id, user or image.project, image.profiles)


def take_over(tx: Tx, image_id: int, old: Image) -> None:
    """Give an image the profiles, the last use and the cached mark of the one that it replaces."""
    tx.execute(
        "UPDATE images SET cached = ?, last_use_date = ? WHERE id = ?",
        int(old.cached),
        old.last_used_at or None,
        image_id,
    )
    tx.execute("DELETE FROM images_profiles WHERE image_id = ?", image_id)
    tx.execute(
        "INSERT INTO images_profiles (image_id, profile_id) SELECT ?, profile_id FROM images_profiles"
        " WHERE image_id = ? ORDER BY rowid",
        image_id,
        old.id,
    )


def touch_image(tx: Tx, image_id: int) -> None:
    """Remember that an image was used now."""
    tx.execute("UPDATE images SET last_use_date = ? WHERE id = ?", format_time(utc_now()), image_id)


def delete_image(tx: Tx, image_id: int) -> None:
    """Remove an image's row, with its aliases and properties."""
    tx.execute("DELETE FROM images WHERE id = ?", image_id)


def _write_properties(tx: Tx, image_id: int, properties: Mapping[str, str]) -> None:
    """Replace the properties. Clients unset one by giving it no value."""
    tx.execute("DELETE FROM images_properties WHERE image_id = ?", image_id)
    tx.many(
        "INSERT INTO images_properties (image_id, type, key, value) VALUES (?, 0, ?, ?)",
        [(image_id, key, value) for key, value in properties.items() if value],
    )
