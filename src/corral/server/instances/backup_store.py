"""SQL of instance backups."""

import sqlite3
from dataclasses import dataclass

from corral.errors import AlreadyExists, NotFound
from corral.server.db.database import Tx

NEVER = "0001-01-01T00:00:00Z"
_COLUMNS = "id, instance_id, name, creation_date, expiry_date, container_only, optimized_storage"


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup of an instance. Times are RFC 3339 text; `expires_at` is empty for never."""

    id: int
    instance_id: int
    name: str
    created_at: str
    expires_at: str = ""
    instance_only: bool = False
    optimized: bool = False


def _backup(row: sqlite3.Row) -> Backup:
    return Backup(
        row["id"],
        row["instance_id"],
        row["name"],
        row["creation_date"],
        row["expiry_date"] or "",
        bool(row["container_only"]),
        bool(row["optimized_storage"]),
    )


def list_backups(tx: Tx, instance_id: int) -> list[Backup]:
    """The backups of an instance, oldest first."""
    sql = f"SELECT {_COLUMNS} FROM instances_backups WHERE instance_id = ? AND pending = '' ORDER BY id"
    return [_backup(row) for row in tx.rows(sql, instance_id)]


def get_backup(tx: Tx, instance_id: int, name: str) -> Backup:
    """A backup by name, or NotFound."""
    sql = f"SELECT {_COLUMNS} FROM instances_backups WHERE instance_id = ? AND name = ? AND pending = ''"
    row = tx.row(sql, instance_id, name)
    if row is None:
        raise NotFound("Instance backup not found")
    return _backup(row)


def insert_backup(tx: Tx, backup: Backup) -> int:
    """Insert a backup that is still being made; AlreadyExists where the name is taken."""
    try:
        return tx.execute(
            "INSERT INTO instances_backups (instance_id, name, creation_date, expiry_date, container_only, pending)"
            " VALUES (?, ?, ?, ?, ?, 'create')",
            backup.instance_id,
            backup.name,
            backup.created_at,
            backup.expires_at or None,
            int(backup.instance_only),
        )
    except sqlite3.IntegrityError as error:
        raise AlreadyExists(f'Backup "{backup.name}" already exists') from error


def finish_backup(tx: Tx, backup_id: int) -> None:
    """Mark a backup as whole."""
    tx.execute("UPDATE instances_backups SET pending = '' WHERE id = ?", backup_id)


def rename_backup(tx: Tx, backup: Backup, name: str) -> None:
    """Give a backup another name; AlreadyExists where it is taken."""
    try:
        tx.execute("UPDATE instances_backups SET name = ? WHERE id = ?", name, backup.id)
    except sqlite3.IntegrityError as error:
        raise AlreadyExists(f'Backup "{name}" already exists') from error


def delete_backup(tx: Tx, backup_id: int) -> None:
    """Remove a backup's row."""
    tx.execute("DELETE FROM instances_backups WHERE id = ?", backup_id)


def list_expired(tx: Tx, now: str) -> list[Backup]:
    """The backups of all instances whose time is over; `now` is RFC 3339 in UTC."""
    sql = f"SELECT {_COLUMNS} FROM instances_backups WHERE pending = '' AND expiry_date IS NOT NULL"
    return [backup for row in tx.rows(sql) if (backup := _backup(row)).expires_at <= now]


def delete_pending(tx: Tx) -> None:
    """Remove the rows of backups that were not finished."""
    tx.execute("DELETE FROM instances_backups WHERE pending != ''")


def names_by_instance(tx: Tx) -> dict[int, set[str]]:
    """The names of all backups by the id of their instance."""
    found: dict[int, set[str]] = {}
    for instance_id, name in tx.rows("SELECT instance_id, name FROM instances_backups"):
        found.setdefault(instance_id, set()).add(name)
    return found
