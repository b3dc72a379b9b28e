"""SQL of instance snapshots; the list for many instances at once is in `store`."""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from corral.errors import AlreadyExists, NotFound
from corral.server.db import rows
from corral.server.db.database import Tx
from corral.server.instances import store
from corral.server.instances.model import Devices, Instance, Snapshot
from corral.server.projects import permissions
from corral.server.snapshots import naming
from corral.server.storage.model import RENAME


@dataclass(frozen=True, slots=True)
class NewSnapshot:
    """A snapshot that is asked for. Times are RFC 3339 text; None as expiry is never.

    The name of a `counted` one is made by the pattern: it is counted on where somebody else took it meanwhile.
    """

    name: str
    created_at: str
    expires_at: str | None = None
    stateful: bool = False
    counted: bool = False


def list_names(tx: Tx, instance_id: int) -> set[str]:
    """The names of an instance's snapshots, also of those in the making."""
    return {row[0] for row in tx.rows("SELECT name FROM instances_snapshots WHERE instance_id = ?", instance_id)}


def insert_snapshot(tx: Tx, instance: Instance, new: NewSnapshot) -> tuple[int, str]:
    """Insert a snapshot that is still being made, with the instance's present configuration. (Its id and name.)"""
    permissions.check_snapshots(tx, instance.project)
    if new.counted:
        present = list_names(tx, instance.id)
        if new.name in present:
            pattern = instance.expanded_config.get("snapshots.pattern", "")
            new = replace(new, name=naming.next_name(pattern, datetime.now().astimezone(), present))
    try:
        snapshot_id = tx.execute(
            "INSERT INTO instances_snapshots (instance_id, name, creation_date, stateful, description, expiry_date,"
            " pending) VALUES (?, ?, ?, ?, ?, ?, 'create')",
            instance.id,
            new.name,
            new.created_at,
            int(new.stateful),
            instance.description,
            new.expires_at,
        )
    except sqlite3.IntegrityError as error:
        raise AlreadyExists(f'Snapshot "{instance.name}/{new.name}" already exists') from error
    rows.write_config(tx, "instances_snapshots_config", "instance_snapshot_id", snapshot_id, instance.config)
    rows.write_devices(tx, "instances_snapshot", snapshot_id, instance.devices)
    return snapshot_id, new.name


def insert_copy(tx: Tx, instance_id: int, snapshot: Snapshot) -> int:
    """Give an instance a snapshot that is like one of another instance, still in the making; its id."""
    snapshot_id = tx.execute(
        "INSERT INTO instances_snapshots (instance_id, name, creation_date, stateful, description, expiry_date,"
        " pending) VALUES (?, ?, ?, 0, ?, ?, 'create')",
        instance_id,
        snapshot.name,
        snapshot.created_at,
        snapshot.description,
        None if snapshot.expires_at.startswith("0001-") else snapshot.expires_at,
    )
    rows.write_config(tx, "instances_snapshots_config", "instance_snapshot_id", snapshot_id, snapshot.config)
    rows.write_devices(tx, "instances_snapshot", snapshot_id, snapshot.devices)
    return snapshot_id


def write_devices(tx: Tx, snapshot_id: int, devices: Devices) -> None:
    """Replace the devices of a snapshot."""
    rows.write_devices(tx, "instances_snapshot", snapshot_id, devices)


def finish_snapshot(tx: Tx, snapshot_id: int, volume_id: int) -> None:
    """Mark a snapshot as whole and give the volume its snapshot's row, with the config that the volume has now."""
    tx.execute("UPDATE instances_snapshots SET pending = '' WHERE id = ?", snapshot_id)
    tx.execute(
        "INSERT INTO storage_volumes_snapshots (storage_volume_id, name, description, expiry_date, creation_date)"
        " SELECT ?, name, description, expiry_date, creation_date FROM instances_snapshots WHERE id = ?",
        volume_id,
        snapshot_id,
    )
    tx.execute(
        "INSERT INTO storage_volumes_snapshots_config (storage_volume_snapshot_id, key, value)"
        " SELECT s.id, c.key, c.value FROM storage_volumes_config c"
        " JOIN storage_volumes_snapshots s ON s.storage_volume_id = c.storage_volume_id"
        " JOIN instances_snapshots i ON i.name = s.name WHERE s.storage_volume_id = ? AND i.id = ?",
        volume_id,
        snapshot_id,
    )


def mark_snapshot(tx: Tx, snapshot_id: int, verb: str) -> None:
    """Note a verb that must be finished should the daemon die in it."""
    tx.execute("UPDATE instances_snapshots SET pending = ? WHERE id = ?", verb, snapshot_id)


def delete_snapshot(tx: Tx, snapshot_id: int, volume_id: int, name: str) -> None:
    """Remove the rows of a snapshot."""
    tx.execute("DELETE FROM instances_snapshots WHERE id = ?", snapshot_id)
    tx.execute("DELETE FROM storage_volumes_snapshots WHERE storage_volume_id = ? AND name = ?", volume_id, name)


def rename_snapshot(tx: Tx, snapshot: Snapshot, volume_id: int, name: str) -> None:
    """Give a snapshot and its volume's snapshot another name, marked until the contents have it too."""
    present = tx.rows("SELECT name FROM instances_snapshots WHERE id = ?", snapshot.id)[0][0]
    try:
        tx.execute("UPDATE instances_snapshots SET name = ? WHERE id = ?", name, snapshot.id)
    except sqlite3.IntegrityError as error:
        raise AlreadyExists(f'Name "{name}" already in use') from error
    tx.execute(
        "UPDATE storage_volumes_snapshots SET name = ?, pending = ? WHERE storage_volume_id = ? AND name = ?",
        name,
        RENAME + present,
        volume_id,
        present,
    )


def finish_rename(tx: Tx, volume_id: int, name: str) -> None:
    """Note that the contents of a snapshot have its new name."""
    tx.execute(
        "UPDATE storage_volumes_snapshots SET pending = '' WHERE storage_volume_id = ? AND name = ?", volume_id, name
    )


def set_expiry(tx: Tx, snapshot_id: int, expires_at: str | None) -> None:
    """Change when a snapshot expires."""
    tx.execute("UPDATE instances_snapshots SET expiry_date = ? WHERE id = ?", expires_at, snapshot_id)


def get_snapshot(tx: Tx, instance_id: int, name: str) -> Snapshot:
    """A snapshot by name, or NotFound."""
    for snapshot in store.list_snapshots(tx, [instance_id]).get(instance_id, []):
        if snapshot.name == name:
            return snapshot
    raise NotFound("Instance snapshot not found")


def list_expired(tx: Tx, now: str) -> list[tuple[int, int, str]]:
    """The snapshots whose time has passed, as ids of instance and snapshot and the name; `now` is RFC 3339 text."""
    found = tx.rows(
        "SELECT instance_id, id, name FROM instances_snapshots WHERE expiry_date IS NOT NULL AND expiry_date <= ?"
        " AND expiry_date > '0001-01-02' AND pending = '' ORDER BY id",
        now,
    )
    return [(row["instance_id"], row["id"], row["name"]) for row in found]


def insert_missing_volume_snapshots(tx: Tx) -> int:
    """Give the volumes of instances the rows of snapshots that they lack; returns how many were missing."""
    missing = tx.rows(
        "SELECT s.id, v.id AS volume FROM instances_snapshots s JOIN instances i ON i.id = s.instance_id"
        " JOIN storage_volumes v ON v.name = i.name AND v.project_id = i.project_id"
        " AND v.type = CASE i.type WHEN 0 THEN 0 ELSE 3 END"
        " LEFT JOIN storage_volumes_snapshots t ON t.storage_volume_id = v.id AND t.name = s.name"
        " WHERE t.id IS NULL AND s.pending = ''"
    )
    for row in missing:
        finish_snapshot(tx, row["id"], row["volume"])
        tx.execute(
            "UPDATE storage_volumes_snapshots SET description = 'Auto repaired' WHERE storage_volume_id = ? AND name ="
            " (SELECT name FROM instances_snapshots WHERE id = ?)",
            row["volume"],
            row["id"],
        )
    return len(missing)


def lacks_volume_snapshots(tx: Tx, instance_id: int, volume_id: int) -> bool:
    """Whether a snapshot of an instance has no row at the instance's volume."""
    found = tx.row(
        "SELECT 1 FROM instances_snapshots s LEFT JOIN storage_volumes_snapshots t"
        " ON t.storage_volume_id = ? AND t.name = s.name"
        " WHERE s.instance_id = ? AND s.pending = '' AND t.id IS NULL LIMIT 1",
        volume_id,
        instance_id,
    )
    return found is not None


def list_pending(tx: Tx) -> list[tuple[int, Snapshot]]:
    """The snapshots whose making or removal was cut short, with their instances' ids."""
    found = tx.rows("SELECT id, instance_id, name, creation_date FROM instances_snapshots WHERE pending != ''")
    empty: Mapping[str, str] = {}
    return [
        (
            row["instance_id"],
            Snapshot(row["id"], row["instance_id"], row["name"], row["creation_date"], "", False, "", dict(empty), {}),
        )
        for row in found
    ]


def list_volume_configs(tx: Tx, volume_id: int) -> dict[str, dict[str, str]]:
    """The configs of a volume's snapshots by their names."""
    names = {
        row[0]: row[1]
        for row in tx.rows("SELECT id, name FROM storage_volumes_snapshots WHERE storage_volume_id = ?", volume_id)
    }
    configs = rows.read_configs(tx, "storage_volumes_snapshots_config", "storage_volume_snapshot_id", names)
    return {names[snapshot_id]: config for snapshot_id, config in configs.items()}


def take_over_volume_config(tx: Tx, volume_id: int, name: str) -> None:
    """Give a volume the config that it had at a snapshot."""
    row = tx.row("SELECT id FROM storage_volumes_snapshots WHERE storage_volume_id = ? AND name = ?", volume_id, name)
    if row is not None:
        config = rows.read_configs(tx, "storage_volumes_snapshots_config", "storage_volume_snapshot_id", [row[0]])
        rows.write_config(tx, "storage_volumes_config", "storage_volume_id", volume_id, config.get(row[0], {}))


def write_volume_config(tx: Tx, volume_id: int, name: str, config: Mapping[str, str]) -> None:
    """Replace the config of one snapshot of a volume."""
    row = tx.row("SELECT id FROM storage_volumes_snapshots WHERE storage_volume_id = ? AND name = ?", volume_id, name)
    if row is not None:
        rows.write_config(tx, "storage_volumes_snapshots_config", "storage_volume_snapshot_id", row[0], config)
