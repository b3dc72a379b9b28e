"""Snapshots of volumes in the database. Those of instances have rows here too, which the instances write."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime

from corral.errors import AlreadyExists, NotFound
from corral.server.db.database import Tx
from corral.server.db.rows import marks, read_configs, write_config
from corral.server.snapshots import naming
from corral.server.storage import store
from corral.server.storage.keys import quoted
from corral.server.storage.model import RENAME, Volume, VolumeSnapshot, VolumeType


def list_snapshots(tx: Tx, volumes: Sequence[Volume]) -> list[VolumeSnapshot]:
    """The snapshots of some volumes, oldest first, without those in the making."""
    return [snapshot for snapshot in _list(tx, volumes) if snapshot.pending != "create"]


def list_pending(tx: Tx, volumes: Sequence[Volume]) -> list[VolumeSnapshot]:
    """Snapshots of some volumes whose making or removal has not ended."""
    return [snapshot for snapshot in _list(tx, volumes) if snapshot.pending]


def _list(tx: Tx, volumes: Sequence[Volume]) -> list[VolumeSnapshot]:
    found = []
    for start in range(0, len(volumes), 500):
        by_id = {volume.id: volume for volume in volumes[start : start + 500]}
        rows = tx.rows(
            "SELECT id, storage_volume_id, name, description, expiry_date, creation_date, pending"
            f" FROM storage_volumes_snapshots WHERE storage_volume_id IN ({marks(by_id)}) ORDER BY id",
            *by_id,
        )
        configs = read_configs(
            tx, "storage_volumes_snapshots_config", "storage_volume_snapshot_id", [row["id"] for row in rows]
        )
        found += [
            VolumeSnapshot(
                id=row["id"],
                volume=by_id[row["storage_volume_id"]],
                name=row["name"],
                config=configs.get(row["id"], {}),
                description=row["description"],
                expires_at=row["expiry_date"] or None,
                created_at=row["creation_date"],
                pending=row["pending"],
            )
            for row in rows
        ]
    return found


def list_expired(tx: Tx, now: str) -> list[VolumeSnapshot]:
    """Snapshots of custom volumes whose time has passed; `now` is RFC 3339 text in UTC."""
    volumes = store.list_volumes(tx, types=[VolumeType.CUSTOM])
    found = list_snapshots(tx, volumes)
    return [snapshot for snapshot in found if snapshot.expires_at is not None and snapshot.expires_at <= now]


def list_schedules(tx: Tx) -> dict[int, str]:
    """The schedules of custom volumes that have one, by the volumes' ids."""
    found = tx.rows(
        "SELECT v.id, c.value FROM storage_volumes v JOIN storage_volumes_config c ON c.storage_volume_id = v.id"
        " WHERE v.type = ? AND v.pending = '' AND c.key = 'snapshots.schedule' AND c.value != ''",
        VolumeType.CUSTOM.number,
    )
    return {row[0]: row[1] for row in found}


def list_by_ids(tx: Tx, ids: Collection[int]) -> list[Volume]:
    """Custom volumes by their ids; those that are gone are left out."""
    return [volume for volume in store.list_volumes(tx, types=[VolumeType.CUSTOM]) if volume.id in ids]


def get_snapshot(tx: Tx, volume: Volume, name: str) -> VolumeSnapshot:
    """One snapshot. Raises NotFound."""
    for snapshot in list_snapshots(tx, [volume]):
        if snapshot.name == name:
            return snapshot
    raise NotFound("Storage pool volume not found")


def insert_snapshot(tx: Tx, volume: Volume, name: str, expires_at: str | None) -> VolumeSnapshot:
    """Add a snapshot, in the making, with its volume's description and config; without a name its pattern gives it one.

    Raises AlreadyExists.
    """
    if not name:
        present = [snapshot.name for snapshot in _list(tx, [volume])]
        name = naming.next_name(volume.config.get("snapshots.pattern", ""), datetime.now().astimezone(), present)
    _check_free(tx, volume, name)
    snapshot_id = tx.execute(
        "INSERT INTO storage_volumes_snapshots"
        " (storage_volume_id, name, description, expiry_date, creation_date, pending)"
        " VALUES (?, ?, ?, ?, ?, 'create')",
        volume.id,
        name,
        volume.description,
        expires_at,
        datetime.now(UTC).isoformat().replace("+00:00", "Z"),
    )
    write_config(tx, "storage_volumes_snapshots_config", "storage_volume_snapshot_id", snapshot_id, volume.config)
    return next(snapshot for snapshot in _list(tx, [volume]) if snapshot.id == snapshot_id)


def insert_copy(tx: Tx, volume: Volume, snapshot: VolumeSnapshot, pending: str = "") -> int:
    """Give a volume a snapshot that is like one of another volume; its id."""
    snapshot_id = tx.execute(
        "INSERT INTO storage_volumes_snapshots"
        " (storage_volume_id, name, description, expiry_date, creation_date, pending) VALUES (?, ?, ?, ?, ?, ?)",
        volume.id,
        snapshot.name,
        snapshot.description,
        snapshot.expires_at,
        snapshot.created_at,
        pending,
    )
    write_config(tx, "storage_volumes_snapshots_config", "storage_volume_snapshot_id", snapshot_id, snapshot.config)
    return snapshot_id


def _check_free(tx: Tx, volume: Volume, name: str) -> None:
    if any(snapshot.name == name for snapshot in _list(tx, [volume])):
        raise AlreadyExists(f"Snapshot {quoted(name)} already in use")


def mark_snapshot(tx: Tx, snapshot_id: int, pending: str) -> None:
    """Say which verb has not ended on a snapshot; empty when it is whole."""
    tx.execute("UPDATE storage_volumes_snapshots SET pending = ? WHERE id = ?", pending, snapshot_id)


def update_snapshot(tx: Tx, snapshot_id: int, description: str, expires_at: str | None) -> None:
    """Change a snapshot's description and expiry."""
    tx.execute(
        "UPDATE storage_volumes_snapshots SET description = ?, expiry_date = ? WHERE id = ?",
        description,
        expires_at,
        snapshot_id,
    )


def rename_snapshot(tx: Tx, snapshot: VolumeSnapshot, name: str) -> None:
    """Give a snapshot another name, marked until its contents have it too. Raises AlreadyExists."""
    _check_free(tx, snapshot.volume, name)
    tx.execute(
        "UPDATE storage_volumes_snapshots SET name = ?, pending = ? WHERE id = ?",
        name,
        RENAME + snapshot.name,
        snapshot.id,
    )


def move_all(tx: Tx, volume_id: int, new_volume_id: int) -> None:
    """Give all snapshots of a volume to another one, which has none."""
    tx.execute(
        "UPDATE storage_volumes_snapshots SET storage_volume_id = ? WHERE storage_volume_id = ?",
        new_volume_id,
        volume_id,
    )


def delete_snapshot(tx: Tx, snapshot_id: int) -> None:
    """Remove a snapshot."""
    tx.execute("DELETE FROM storage_volumes_snapshots WHERE id = ?", snapshot_id)
