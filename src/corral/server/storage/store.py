"""Pools and volumes in the database."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from corral.api.urls import url
from corral.errors import AlreadyExists, NotFound
from corral.server.db import references
from corral.server.db.database import Tx
from corral.server.db.rows import marks, read_configs, write_config
from corral.server.storage.model import CREATED, MEMBER_KEYS, POOL_STATES, RENAME, ContentType, Pool, Volume, VolumeType

NODE = 1
"""The row of this member in `nodes` while the server is not clustered."""

_STATE_NUMBERS = {name: number for number, name in POOL_STATES.items()}


def list_pools(tx: Tx) -> list[Pool]:
    """All pools by name."""
    return _pools(tx, "")


def find_pool(tx: Tx, name: str) -> Pool | None:
    """The pool of this name, or None."""
    found = _pools(tx, "WHERE name = ?", name)
    return found[0] if found else None


def get_pool(tx: Tx, name: str) -> Pool:
    """The pool of this name. Raises NotFound."""
    pool = find_pool(tx, name)
    if pool is None:
        raise NotFound("Storage pool not found")
    return pool


def _pools(tx: Tx, where: str, *values: str | int) -> list[Pool]:
    rows = tx.rows(f"SELECT id, name, driver, description, state FROM storage_pools {where} ORDER BY name", *values)
    configs = read_configs(tx, "storage_pools_config", "storage_pool_id", [row["id"] for row in rows])
    return [
        Pool(
            id=row["id"],
            name=row["name"],
            driver=row["driver"],
            config=configs.get(row["id"], {}),
            description=row["description"],
            status=POOL_STATES[row["state"]],
        )
        for row in rows
    ]


def insert_pool(tx: Tx, name: str, driver: str, description: str, config: Mapping[str, str]) -> Pool:
    """Add a pending pool. Raises AlreadyExists."""
    if find_pool(tx, name) is not None:
        raise AlreadyExists("The storage pool already exists")
    pool_id = tx.execute(
        "INSERT INTO storage_pools (name, driver, description, state) VALUES (?, ?, ?, 0)", name, driver, description
    )
    tx.execute("INSERT INTO storage_pools_nodes (storage_pool_id, node_id, state) VALUES (?, ?, 0)", pool_id, NODE)
    _write_pool_config(tx, pool_id, config)
    return get_pool(tx, name)


def update_pool(tx: Tx, pool_id: int, description: str, config: Mapping[str, str]) -> None:
    """Replace a pool's description and config."""
    tx.execute("UPDATE storage_pools SET description = ? WHERE id = ?", description, pool_id)
    _write_pool_config(tx, pool_id, config)


def finish_pool(tx: Tx, pool_id: int, config: Mapping[str, str]) -> None:
    """Mark a pool as created, with the config that its driver completed."""
    tx.execute("UPDATE storage_pools SET state = 1 WHERE id = ?", pool_id)
    tx.execute("UPDATE storage_pools_nodes SET state = 1 WHERE storage_pool_id = ?", pool_id)
    _write_pool_config(tx, pool_id, config)


def mark_pool(tx: Tx, pool_id: int, status: str) -> None:
    """Set a pool's status; its state on this member stays, so that `was_created` remembers."""
    tx.execute("UPDATE storage_pools SET state = ? WHERE id = ?", _STATE_NUMBERS[status], pool_id)


def was_created(tx: Tx, pool_id: int) -> bool:
    """Whether a pool was once finished: a pending one is then being removed, else being made."""
    row = tx.row("SELECT state FROM storage_pools_nodes WHERE storage_pool_id = ? AND node_id = ?", pool_id, NODE)
    return row is not None and row["state"] == 1


def delete_pool(tx: Tx, pool_id: int) -> None:
    """Remove a pool; its volumes must be gone."""
    tx.execute("DELETE FROM storage_pools WHERE id = ?", pool_id)


def _write_pool_config(tx: Tx, pool_id: int, config: Mapping[str, str]) -> None:
    tx.execute("DELETE FROM storage_pools_config WHERE storage_pool_id = ?", pool_id)
    tx.many(
        "INSERT INTO storage_pools_config (storage_pool_id, node_id, key, value) VALUES (?, ?, ?, ?)",
        [(pool_id, NODE if key in MEMBER_KEYS else None, key, value) for key, value in config.items() if value != ""],
    )


def list_volumes(
    tx: Tx,
    pool: Pool | None = None,
    project: str | None = None,
    types: Iterable[VolumeType] = tuple(VolumeType),
) -> list[Volume]:
    """Volumes of one pool or of all, of one project or of all, that are not in the making."""
    numbers = [kind.number for kind in types]
    where, values = f"v.type IN ({marks(numbers)}) AND v.pending != 'create'", list[str | int](numbers)
    if pool is not None:
        where, values = f"{where} AND v.storage_pool_id = ?", [*values, pool.id]
    if project is not None:
        where, values = f"{where} AND p.name = ?", [*values, project]
    return _volumes(tx, where, *values)


def list_pending(tx: Tx, pool: Pool) -> list[Volume]:
    """Volumes of a pool whose making or removal has not ended."""
    return _volumes(tx, "v.pending != '' AND v.storage_pool_id = ?", pool.id)


def find_volume(tx: Tx, pool: Pool, project: str, name: str, kind: VolumeType) -> Volume | None:
    """One volume, or None."""
    found = _volumes(
        tx, "v.storage_pool_id = ? AND p.name = ? AND v.name = ? AND v.type = ?", pool.id, project, name, kind.number
    )
    return found[0] if found else None


def get_volume(tx: Tx, pool: Pool, project: str, name: str, kind: VolumeType) -> Volume:
    """One volume. Raises NotFound, also while it is in the making."""
    volume = find_volume(tx, pool, project, name, kind)
    if volume is None or volume.pending == "create":
        raise NotFound("Storage pool volume not found")
    return volume


def find_instance_volume(tx: Tx, project: str, name: str, kind: VolumeType) -> Volume | None:
    """The root volume of an instance, in whatever pool it is; one in the making or going only where there is no other.

    An instance that moves to another pool has two.
    """
    found = _volumes(tx, "p.name = ? AND v.name = ? AND v.type = ?", project, name, kind.number)
    return min(found, key=lambda volume: volume.pending != "", default=None)


def _volumes(tx: Tx, where: str, *values: str | int) -> list[Volume]:
    rows = tx.rows(
        "SELECT v.id, v.name, v.type, v.description, v.content_type, v.creation_date, v.pending,"
        " s.name AS pool, p.name AS project FROM storage_volumes v"
        " JOIN storage_pools s ON s.id = v.storage_pool_id JOIN projects p ON p.id = v.project_id"
        f" WHERE {where} ORDER BY v.name, p.name",
        *values,
    )
    pools = {pool.name: pool for pool in list_pools(tx)} if rows else {}
    configs = read_configs(tx, "storage_volumes_config", "storage_volume_id", [row["id"] for row in rows])
    return [
        Volume(
            id=row["id"],
            pool=pools[row["pool"]],
            project=row["project"],
            name=row["name"],
            type=VolumeType.of_number(row["type"]),
            content_type=ContentType.BLOCK if row["content_type"] else ContentType.FILESYSTEM,
            config=configs.get(row["id"], {}),
            description=row["description"],
            created_at=row["creation_date"],
            pending=row["pending"],
        )
        for row in rows
    ]


def insert_volume(tx: Tx, volume: Volume) -> Volume:
    """Add a volume (its `id` and `created_at` are ignored) in the state `pending`. Raises AlreadyExists, NotFound."""
    project = tx.row("SELECT id FROM projects WHERE name = ?", volume.project)
    if project is None:
        raise NotFound("Project not found")
    if get_pool(tx, volume.pool.name).status != CREATED:
        # Somebody removes it just now.
        raise NotFound("Storage pool not found")
    if find_volume(tx, volume.pool, volume.project, volume.name, volume.type) is not None:
        raise AlreadyExists("Volume by that name already exists")
    volume_id = tx.execute(
        "INSERT INTO storage_volumes (name, storage_pool_id, node_id, type, description, project_id, content_type,"
        " creation_date, pending) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        volume.name,
        volume.pool.id,
        NODE,
        volume.type.number,
        volume.description,
        project["id"],
        volume.content_type.number,
        datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        volume.pending,
    )
    write_config(tx, "storage_volumes_config", "storage_volume_id", volume_id, volume.config)
    return _volumes(tx, "v.id = ?", volume_id)[0]


def mark_volume(tx: Tx, volume_id: int, pending: str) -> None:
    """Say which verb has not ended on a volume; empty when it is whole."""
    tx.execute("UPDATE storage_volumes SET pending = ? WHERE id = ?", pending, volume_id)


def update_volume(tx: Tx, volume_id: int, description: str, config: Mapping[str, str]) -> None:
    """Replace a volume's description and config."""
    tx.execute("UPDATE storage_volumes SET description = ? WHERE id = ?", description, volume_id)
    write_config(tx, "storage_volumes_config", "storage_volume_id", volume_id, config)


def rename_volume(tx: Tx, volume: Volume, name: str) -> None:
    """Give a volume another name, marked until its directory has it too; devices follow. Raises AlreadyExists."""
    if find_volume(tx, volume.pool, volume.project, name, volume.type) is not None:
        raise AlreadyExists("Volume by that name already exists")
    mark = RENAME + volume.name
    tx.execute("UPDATE storage_volumes SET name = ?, pending = ? WHERE id = ?", name, mark, volume.id)
    if volume.type is VolumeType.CUSTOM:
        place = volume.pool.name
        references.repoint_custom_volume(tx, volume.project, (place, volume.name), (place, name))


def delete_volume(tx: Tx, volume_id: int) -> None:
    """Remove a volume and the rows of its snapshots."""
    tx.execute("DELETE FROM storage_volumes WHERE id = ?", volume_id)


def delete_volumes(tx: Tx, pool_id: int) -> None:
    """Remove all volumes of a pool."""
    tx.execute("DELETE FROM storage_volumes WHERE storage_pool_id = ?", pool_id)


def list_users(tx: Tx, volume: Volume, project: str) -> list[str]:
    """URLs of what uses a volume, as somebody in a project sees it."""
    if volume.type.is_instance:
        return [url("/1.0/instances", volume.name, project=volume.project)]
    if volume.type is VolumeType.IMAGE:
        return [url("/1.0/images", volume.name, project=project)]
    return references.list_custom_volume_users(tx, volume.pool.name, volume.project, volume.name)


def image_fingerprints(tx: Tx, project: str) -> Sequence[str]:
    """Fingerprints of the images of a project."""
    rows = tx.rows(
        "SELECT i.fingerprint FROM images i JOIN projects p ON p.id = i.project_id WHERE p.name = ?", project
    )
    return [row["fingerprint"] for row in rows]
