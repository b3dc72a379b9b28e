"""SQL of projects."""

from corral.errors import NotFound
from corral.server.db import rows
from corral.server.db.database import Tx
from corral.server.projects.model import Project


def get_project(tx: Tx, name: str) -> Project:
    """A project by name, or NotFound."""
    row = tx.row("SELECT id, name, description FROM projects WHERE name = ?", name)
    if row is None:
        raise NotFound(f"Project {name!r} not found")
    return rows.to(
        Project, row, config=rows.read_configs(tx, "projects_config", "project_id", [row["id"]]).get(row["id"], {})
    )


def list_projects(tx: Tx) -> list[Project]:
    """All projects by name."""
    configs = rows.read_configs(tx, "projects_config", "project_id")
    found = tx.rows("SELECT id, name, description FROM projects ORDER BY name")
    return [rows.to(Project, row, config=configs.get(row["id"], {})) for row in found]
