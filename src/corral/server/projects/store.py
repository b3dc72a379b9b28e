"""SQL of projects."""

from collections.abc import Mapping

from corral.api.urls import url
from corral.errors import AlreadyExists, InvalidRequest, NotFound
from corral.server.db import rows
from corral.server.db.database import Tx
from corral.server.projects import subnets
from corral.server.projects.model import Project
from corral.units import is_true

_CUSTOM_VOLUME = 2


def find_project(tx: Tx, name: str) -> Project | None:
    """A project by name, or None."""
    row = tx.row("SELECT id, name, description FROM projects WHERE name = ?", name)
    if row is None:
        return None
    configs = rows.read_configs(tx, "projects_config", "project_id", [row["id"]])
    return rows.to(Project, row, config=configs.get(row["id"], {}))


def get_project(tx: Tx, name: str) -> Project:
    """A project by name, or NotFound."""
    found = find_project(tx, name)
    if found is None:
        raise NotFound("Project not found")
    return found


def list_projects(tx: Tx) -> list[Project]:
    """All projects by name."""
    configs = rows.read_configs(tx, "projects_config", "project_id")
    found = tx.rows("SELECT id, name, description FROM projects ORDER BY name")
    return [rows.to(Project, row, config=configs.get(row["id"], {})) for row in found]


def insert_project(tx: Tx, name: str, description: str, config: Mapping[str, str]) -> None:
    """Add a project, with a default profile where it has its own profiles; AlreadyExists where the name is taken."""
    if find_project(tx, name) is not None:
        raise AlreadyExists(
            f'Failed creating project "{name}": Failed adding database record: This "projects" entry already exists'
        )
    subnets.check(tx, config)
    project = tx.execute("INSERT INTO projects (name, description) VALUES (?, ?)", name, description)
    rows.write_config(tx, "projects_config", "project_id", project, config)
    if is_true(config.get("features.profiles")):
        _insert_default_profile(tx, project, name)
        if not is_true(config.get("features.images")):
            _apply_default_profile(tx, project)


def update_project(tx: Tx, name: str, description: str, config: Mapping[str, str]) -> None:
    """Replace description and config; the project's own default profile comes and goes with its feature."""
    before = get_project(tx, name)
    subnets.check(tx, config)
    tx.execute("UPDATE projects SET description = ? WHERE id = ?", description, before.id)
    rows.write_config(tx, "projects_config", "project_id", before.id, config)
    had, has = is_true(before.config.get("features.profiles")), is_true(config.get("features.profiles"))
    if has and not had:
        _insert_default_profile(tx, before.id, name)
    elif had and not has:
        tx.execute("DELETE FROM profiles WHERE project_id = ? AND name = 'default'", before.id)
    shared = not is_true(config.get("features.images"))
    if has and shared and (not had or is_true(before.config.get("features.images"))):
        _apply_default_profile(tx, before.id)


def _insert_default_profile(tx: Tx, project: int, name: str) -> None:
    tx.execute(
        "INSERT INTO profiles (project_id, name, description) VALUES (?, 'default', ?)",
        project,
        f"Default LXD profile for project {name}",
    )


def _apply_default_profile(tx: Tx, project: int) -> None:
    """Let the images that a project uses from the default one bring the project's own default profile."""
    tx.execute(
        "INSERT OR IGNORE INTO images_profiles (image_id, profile_id) SELECT i.id, pr.id FROM images i, profiles pr"
        " WHERE i.project_id = 1 AND pr.project_id = ? AND pr.name = 'default'",
        project,
    )


def rename_project(tx: Tx, name: str, new_name: str) -> None:
    """Give an empty project another name."""
    if find_project(tx, new_name) is not None:
        raise AlreadyExists(f'A project named "{new_name}" already exists')
    project = get_project(tx, name)
    if not is_empty(tx, project):
        raise InvalidRequest("Only empty projects can be renamed")
    tx.execute("UPDATE projects SET name = ? WHERE id = ?", new_name, project.id)


def delete_project(tx: Tx, name: str) -> None:
    """Remove an empty project and its default profile."""
    project = find_project(tx, name)
    if project is None:
        raise NotFound(f'Fetch project "{name}": Project not found')
    if not is_empty(tx, project):
        raise InvalidRequest("Only empty projects can be removed")
    tx.execute("DELETE FROM projects WHERE id = ?", project.id)


def is_empty(tx: Tx, project: Project) -> bool:
    """Whether nothing but its default profile belongs to a project."""
    mine = url("/1.0/profiles", "default", project=project.name)
    return all(used == mine for used in list_used_by(tx, project))


def list_used_by(tx: Tx, project: Project) -> list[str]:
    """URLs of the things in a project: instances, profiles, images, custom volumes, networks."""
    used_by: list[str] = []
    for noun, table, column in (
        ("instances", "instances", "name"),
        ("profiles", "profiles", "name"),
        ("images", "images", "fingerprint"),
    ):
        found = tx.rows(f"SELECT {column} FROM {table} WHERE project_id = ? ORDER BY {column}", project.id)
        used_by += [url(f"/1.0/{noun}", row[0], project=project.name) for row in found]
    volumes = tx.rows(
        "SELECT storage_pools.name, storage_volumes.name FROM storage_volumes"
        " JOIN storage_pools ON storage_pools.id = storage_volumes.storage_pool_id"
        " WHERE storage_volumes.project_id = ? AND storage_volumes.type = ? ORDER BY 1, 2",
        project.id,
        _CUSTOM_VOLUME,
    )
    used_by += [
        url("/1.0/storage-pools", pool, "volumes", "custom", volume, project=project.name) for pool, volume in volumes
    ]
    networks = tx.rows("SELECT name FROM networks WHERE project_id = ? ORDER BY name", project.id)
    return used_by + [url("/1.0/networks", row["name"], project=project.name) for row in networks]
