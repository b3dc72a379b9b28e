"""The profiles that an image brings to its instances: a list for each project that uses the image. SQL."""

from collections.abc import Iterable

from corral.errors import InvalidRequest
from corral.server.db.database import Tx
from corral.server.projects.store import get_project

_OF_PROJECT = "SELECT pr.id FROM profiles pr JOIN projects p ON p.id = pr.project_id WHERE p.name = ?"


def read(tx: Tx, image_id: int, project: str) -> list[str]:
    """The names of the profiles that instances of a project take over from an image."""
    owner = get_project(tx, project).owner_of("features.profiles")
    found = tx.rows(
        "SELECT pr.name FROM images_profiles ip JOIN profiles pr ON pr.id = ip.profile_id"
        " JOIN projects p ON p.id = pr.project_id WHERE ip.image_id = ? AND p.name = ? ORDER BY ip.rowid",
        image_id,
        owner,
    )
    return [row["name"] for row in found]


def write(tx: Tx, image_id: int, project: str, names: Iterable[str]) -> None:
    """Replace them. Raises InvalidRequest for a profile that does not exist."""
    owner = get_project(tx, project).owner_of("features.profiles")
    tx.execute(f"DELETE FROM images_profiles WHERE image_id = ? AND profile_id IN ({_OF_PROJECT})", image_id, owner)
    for name in dict.fromkeys(names):
        row = tx.row(f"{_OF_PROJECT} AND pr.name = ?", owner, name)
        if row is None:
            raise InvalidRequest(f"Profile '{name}' doesn't exist")
        tx.execute("INSERT INTO images_profiles (image_id, profile_id) VALUES (?, ?)", image_id, row["id"])


def share(tx: Tx, image_id: int) -> None:
    """Give a new image of the default project the default profile in each project that uses it from there."""
    tx.execute(
        "INSERT OR IGNORE INTO images_profiles (image_id, profile_id) SELECT ?, pr.id FROM profiles pr"
        " JOIN projects_config f ON f.project_id = pr.project_id AND f.key = 'features.profiles'"
        " LEFT JOIN projects_config i ON i.project_id = pr.project_id AND i.key = 'features.images'"
        " WHERE pr.name = 'default' AND lower(f.value) IN ('true', '1', 'yes', 'on')"
        " AND lower(coalesce(i.value, '')) NOT IN ('true', '1', 'yes', 'on')",
        image_id,
    )
