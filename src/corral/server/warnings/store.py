"""SQL of warnings."""

import uuid
from datetime import datetime, timedelta

from corral.api.urls import url
from corral.errors import InvalidRequest, NotFound
from corral.server.db.database import Tx
from corral.server.events.model import format_time
from corral.server.warnings.model import ENTITY_TABLES, NEW, RESOLVED, TYPES, Condition

KEPT = timedelta(hours=24)
"""How long a resolved warning stays."""

_SELECT = (
    "SELECT uuid, type_code, status, coalesce(projects.name, '') AS project, first_seen_date, last_seen_date,"
    " last_message, count, entity_type_code, entity_id"
    " FROM warnings LEFT JOIN projects ON projects.id = warnings.project_id"
)


def _load(tx: Tx, where: str, *values: str) -> list[Condition]:
    return [
        Condition(
            row["uuid"],
            row["type_code"],
            row["status"],
            row["project"],
            row["first_seen_date"],
            row["last_seen_date"],
            row["last_message"],
            row["count"],
            _entity_url(tx, row["entity_type_code"], row["entity_id"]),
        )
        for row in tx.rows(f"{_SELECT} WHERE {where} ORDER BY uuid", *values)
    ]


def _entity_url(tx: Tx, kind: int | None, entity: int | None) -> str:
    place = ENTITY_TABLES.get(-1 if kind is None else kind)
    if place is None or entity is None or entity < 0:
        return ""
    table, prefix, column = place
    row = tx.row(f"SELECT * FROM {table} WHERE id = ?", entity)
    if row is None:
        return ""
    project = "default"
    if "project_id" in row.keys():  # noqa: SIM118  (a row yields values, not names)
        owner = tx.row("SELECT name FROM projects WHERE id = ?", row["project_id"])
        project = owner["name"] if owner is not None else project
    return url(prefix, str(row[column]), project=project)


def list_warnings(tx: Tx, project: str = "") -> list[Condition]:
    """All warnings, or those of a project."""
    return _load(tx, "projects.name = ?", project) if project else _load(tx, "1 = 1")


def get_warning(tx: Tx, uuid: str) -> Condition:
    """A warning, or NotFound."""
    found = _load(tx, "uuid = ?", uuid)
    if not found:
        raise NotFound("Warning not found")
    return found[0]


def update_status(tx: Tx, uuid: str, status: int, now: datetime) -> None:
    """Mark a warning as seen, or as new again."""
    if not tx.change("UPDATE warnings SET status = ?, updated_date = ? WHERE uuid = ?", status, format_time(now), uuid):
        raise NotFound("Warning not found")


def delete_warning(tx: Tx, uuid: str) -> None:
    """Remove a warning."""
    if not tx.change("DELETE FROM warnings WHERE uuid = ?", uuid):
        raise NotFound("Warning not found")


Entity = tuple[int, int]
"""Number of the kind of thing, and the thing's database id; (-1, -1) is none."""

NO_ENTITY: Entity = (-1, -1)


def raise_warning(tx: Tx, code: int, message: str, project: str, entity: Entity, now: datetime) -> None:
    """Count a condition that is there: a warning of the same kind, project and thing is made or renewed."""
    if code not in TYPES:
        raise InvalidRequest(f"Unknown warning type code {code}")
    project_id = _project_id(tx, project)
    kind, thing = entity
    if entity != NO_ENTITY and not (kind in ENTITY_TABLES and _entity_url(tx, kind, thing)):
        raise InvalidRequest("Unknown entity type or entity ID")
    moment = format_time(now)
    row = _find(tx, code, project_id, entity)
    if row is not None:
        uuid_text, status = row
        tx.execute(
            "UPDATE warnings SET last_message = ?, last_seen_date = ?, updated_date = ?, count = count + 1, status = ?"
            " WHERE uuid = ?",
            message,
            moment,
            moment,
            NEW if status == RESOLVED else status,
            uuid_text,
        )
        return
    tx.execute(
        "INSERT INTO warnings (node_id, project_id, entity_type_code, entity_id, uuid, type_code, status,"
        " first_seen_date, last_seen_date, updated_date, last_message, count)"
        " VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1)",
        project_id,
        kind,
        thing,
        str(uuid.uuid4()),
        code,
        NEW,
        moment,
        moment,
        moment,
        message,
    )


def resolve_warning(tx: Tx, code: int, project: str, entity: Entity, now: datetime) -> None:
    """Mark the warning of a condition that is gone as resolved."""
    row = _find(tx, code, _project_id(tx, project), entity)
    if row is not None:
        update_status(tx, row[0], RESOLVED, now)


def delete_resolved(tx: Tx, now: datetime) -> int:
    """Remove the warnings that were resolved long ago, or are about things that are gone; returns how many."""
    gone = sum(
        tx.change(
            "DELETE FROM warnings WHERE entity_type_code = ? AND entity_id >= 0"
            f" AND entity_id NOT IN (SELECT id FROM {table})",
            kind,
        )
        for kind, (table, _, _) in ENTITY_TABLES.items()
    )
    return gone + tx.change(
        "DELETE FROM warnings WHERE status = ? AND updated_date <= ?", RESOLVED, format_time(now - KEPT)
    )


def _project_id(tx: Tx, project: str) -> int | None:
    if not project:
        return None
    row = tx.row("SELECT id FROM projects WHERE name = ?", project)
    if row is None:
        raise NotFound(f'Project "{project}" not found')
    return int(row["id"])


def _find(tx: Tx, code: int, project_id: int | None, entity: Entity) -> tuple[str, int] | None:
    row = tx.row(
        "SELECT uuid, status FROM warnings WHERE type_code = ? AND project_id IS ? AND entity_type_code = ?"
        " AND entity_id = ?",
        code,
        project_id,
        *entity,
    )
    return None if row is None else (row["uuid"], row["status"])


def count_unresolved(tx: Tx) -> int:
    """How many warnings are new or acknowledged."""
    return int(tx.rows("SELECT count(*) FROM warnings WHERE status != ?", RESOLVED)[0][0])
