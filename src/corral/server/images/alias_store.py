"""SQL of image aliases."""

from collections.abc import Sequence

from corral.errors import AlreadyExists, NotFound
from corral.server.db import rows
from corral.server.db.database import Tx
from corral.server.images.model import TYPES, Alias

_SELECT = (
    "SELECT a.name, a.description, i.fingerprint, i.type FROM images_aliases a"
    " JOIN images i ON i.id = a.image_id JOIN projects p ON p.id = a.project_id"
)


def _load(tx: Tx, where: str, *values: str | int) -> list[Alias]:
    found = tx.rows(f"{_SELECT} WHERE {where} ORDER BY a.name", *values)
    return [Alias(row["name"], row["description"], row["fingerprint"], TYPES[row["type"]]) for row in found]


def list_aliases(tx: Tx, project: str) -> list[Alias]:
    """The aliases of a project by name."""
    return _load(tx, "p.name = ?", project)


def find_alias(tx: Tx, project: str, name: str, *, public_only: bool = False) -> Alias | None:
    """An alias of a project, or None."""
    found = _load(tx, "p.name = ? AND a.name = ? AND i.public >= ?", project, name, int(public_only))
    return found[0] if found else None


def get_alias(tx: Tx, project: str, name: str, *, public_only: bool = False) -> Alias:
    """An alias of a project, or NotFound."""
    found = find_alias(tx, project, name, public_only=public_only)
    if found is None:
        raise NotFound("Image alias not found")
    return found


def of_images(tx: Tx, ids: Sequence[int]) -> dict[int, list[tuple[str, str]]]:
    """Name and description of the aliases of many images, by the image's id."""
    found: dict[int, list[tuple[str, str]]] = {}
    for image, name, description in tx.rows(
        f"SELECT image_id, name, description FROM images_aliases WHERE image_id IN ({rows.marks(ids)}) ORDER BY id",
        *ids,
    ):
        found.setdefault(image, []).append((name, description))
    return found


def check_free(tx: Tx, project: str, names: Sequence[str]) -> None:
    """Raise AlreadyExists where one of the names is taken."""
    for name in names:
        if find_alias(tx, project, name) is not None:
            raise AlreadyExists(f"Alias already exists: {name}")


def insert_alias(tx: Tx, project: str, name: str, image_id: int, description: str) -> None:
    """Add an alias; AlreadyExists where the name is taken."""
    if find_alias(tx, project, name) is not None:
        raise AlreadyExists(f'Alias "{name}" already exists')
    tx.execute(
        "INSERT INTO images_aliases (name, image_id, description, project_id)"
        " VALUES (?, ?, ?, (SELECT id FROM projects WHERE name = ?))",
        name,
        image_id,
        description,
        project,
    )


def update_alias(tx: Tx, project: str, name: str, image_id: int, description: str) -> None:
    """Point an alias to an image and describe it."""
    get_alias(tx, project, name)
    tx.execute(
        "UPDATE images_aliases SET image_id = ?, description = ?"
        " WHERE name = ? AND project_id = (SELECT id FROM projects WHERE name = ?)",
        image_id,
        description,
        name,
        project,
    )


def move_aliases(tx: Tx, from_image: int, to_image: int) -> None:
    """Have all aliases of an image name another one."""
    tx.execute("UPDATE images_aliases SET image_id = ? WHERE image_id = ?", to_image, from_image)


def rename_alias(tx: Tx, project: str, name: str, new_name: str) -> None:
    """Give an alias another name; AlreadyExists where that is taken."""
    if find_alias(tx, project, new_name) is not None:
        raise AlreadyExists(f'Alias "{new_name}" already exists')
    get_alias(tx, project, name)
    tx.execute(
        "UPDATE images_aliases SET name = ? WHERE name = ? AND project_id = (SELECT id FROM projects WHERE name = ?)",
        new_name,
        name,
        project,
    )


def delete_alias(tx: Tx, project: str, name: str) -> None:
    """Remove an alias, or NotFound."""
    get_alias(tx, project, name)
    tx.execute(
        "DELETE FROM images_aliases WHERE name = ? AND project_id = (SELECT id FROM projects WHERE name = ?)",
        name,
        project,
    )
