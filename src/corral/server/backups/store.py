"""SQL of backups, of instances and of custom volumes alike."""

import sqlite3
from dataclasses import dataclass

from corral.errors import AlreadyExists, NotFound
from corral.server.db.database import Tx

NEVER = "0001-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True)
class Table:
    """Where the backups of one kind of owner are: the table, its columns for the owner and for "without snapshots"."""

    name: str
    owner: str
    alone: str
    missing: str


INSTANCES = Table("instances_backups", "instance_id", "container_only", "Instance backup not found")
VOLUMES = Table("storage_volumes_backups", "storage_volume_id", "volume_only", "Storage volume backup not found")


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup. Times are RFC 3339 text; `expires_at` is empty for never, `alone` says that it has no snapshots."""

    id: int
    owner_id: int
    name: str
    created_at: str
    expires_at: str = ""
    alone: bool = False
    optimized: bool = False


def _list(tx: Tx, table: Table, where: str, *values: str | int) -> list[Backup]:
    sql = (
        f"SELECT id, {table.owner}, name, creation_date, expiry_date, {table.alone}, optimized_storage"
        f" FROM {table.name} WHERE pending = '' AND {where} ORDER BY id"
    )
    return [
        Backup(row[0], row[1], row[2], row[3], row[4] or "", bool(row[5]), bool(row[6]))
        for row in tx.rows(sql, *values)
    ]


def list_backups(tx: Tx, table: Table, owner_id: int) -> list[Backup]:
    """The backups of an owner, oldest first."""
    return _list(tx, table, f"{table.owner} = ?", owner_id)


def list_all(tx: Tx, table: Table) -> dict[int, list[Backup]]:
    """The backups of all owners of a kind: {owner: backups, oldest first}."""
    result: dict[int, list[Backup]] = {}
    for backup in _list(tx, table, "1"):
        result.setdefault(backup.owner_id, []).append(backup)
    return result


def get_backup(tx: Tx, table: Table, owner_id: int, name: str) -> Backup:
    """A backup by name, or NotFound."""
    found = _list(tx, table, f"{table.owner} = ? AND name = ?", owner_id, name)
    if not found:
        raise NotFound(table.missing)
    return found[0]


def insert_backup(tx: Tx, table: Table, backup: Backup) -> int:
    """Insert a backup that is still being made; AlreadyExists where the name is taken."""
    try:
        return tx.execute(
            f"INSERT INTO {table.name} ({table.owner}, name, creation_date, expiry_date, {table.alone},"
            " optimized_storage, pending) VALUES (?, ?, ?, ?, ?, ?, 'create')",
            backup.owner_id,
            backup.name,
            backup.created_at,
            backup.expires_at or None,
            int(backup.alone),
            int(backup.optimized),
        )
    except sqlite3.IntegrityError as error:
        raise AlreadyExists(f'Backup "{backup.name}" already exists') from error


def finish_backup(tx: Tx, table: Table, backup_id: int) -> None:
    """Mark a backup as whole."""
    tx.execute(f"UPDATE {table.name} SET pending = '' WHERE id = ?", backup_id)


def rename_backup(tx: Tx, table: Table, backup: Backup, name: str) -> None:
    """Give a backup another name; AlreadyExists where it is taken."""
    try:
        tx.execute(f"UPDATE {table.name} SET name = ? WHERE id = ?", name, backup.id)
    except sqlite3.IntegrityError as error:
        raise AlreadyExists(f'Backup "{name}" already exists') from error


def delete_backup(tx: Tx, table: Table, backup_id: int) -> None:
    """Remove a backup's row."""
    tx.execute(f"DELETE FROM {table.name} WHERE id = ?", backup_id)


def list_expired(tx: Tx, table: Table, now: str) -> list[Backup]:
    """The backups of all owners whose time is over; `now` is RFC 3339 in UTC."""
    return [one for one in _list(tx, table, "expiry_date IS NOT NULL") if one.expires_at <= now]


def list_pending(tx: Tx, table: Table) -> list[Backup]:
    """The backups that were not finished."""
    sql = f"SELECT id, {table.owner}, name, creation_date FROM {table.name} WHERE pending != ''"
    return [Backup(row[0], row[1], row[2], row[3]) for row in tx.rows(sql)]


def names_by_owner(tx: Tx, table: Table) -> dict[int, set[str]]:
    """The names of all backups by the id of their owner."""
    found: dict[int, set[str]] = {}
    for owner_id, name in tx.rows(f"SELECT {table.owner}, name FROM {table.name}"):
        found.setdefault(owner_id, set()).add(name)
    return found
