"""SQL of instance snapshots; the list for many instances at once is in `store`."""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

from corral.errors import AlreadyExists, NotFound
from corral.server.db import rows
from corral.server.db.database import Tx
from corral.server.instances import store
from corral.server.instances.model import Instance, Snapshot
from corral.server.projects import permissions


@dataclass(frozen=True, slots=True)
class NewSnapshot:
    """A snapshot that is asked for. Times are RFC 3339 text; None as expiry is never."""

    name: str
    created_at: str
    expires_at: str | None = None
    stateful: bool = False


def insert_snapshot(tx: Tx, instance: Instance, new: NewSnapshot) -> int:
    """Insert a snapshot that is still being made, with the instance's present configuration."""
    permissions.check_snapshots(tx, instance.project)
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
    return snapshot_id


def insert_copy(tx: Tx, instance_id: int, volume_id: int, snapshot: Snapshot) -> None:
    """Give an instance a whole snapshot that is like one of another instance."""
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
    finish_snapshot(tx, snapshot_id, volume_id)


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
    """Give a snapshot and its volume's snapshot another name."""
    present = tx.rows("SELECT name FROM instances_snapshots WHERE id = ?", snapshot.id)[0][0]
    try:
        tx.execute("UPDATE instances_snapshots SET name = ? WHERE id = ?", name, snapshot.id)
    except sqlite3.IntegrityError as error:
        raise AlreadyExists(f'Name "{name}" already in use') from error
    tx.execute(
        "UPDATE storage_volumes_snapshots SET name = ? WHERE storage_volume_id = ? AND name = ?",
        name,
        volume_id,
        present,
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


def write_volume_config(tx: Tx, volume_id: int, name: str, config: Mapping[str, str]) -> None:
    """Replace the config of one snapshot of a volume."""
    row = tx.row("SELECT id FROM storage_volumes_snapshots WHERE storage_volume_id = ? AND name = ?", volume_id, name)
    if row is not None:
        rows.write_config(tx, "storage_volumes_snapshots_config", "storage_volume_snapshot_id", row[0], config)
