"""Who uses a thing (`used_by`): URLs of the API, by SQL over the tables of all nouns."""

from collections.abc import Collection, Mapping

from corral.api.urls import url
from corral.server.db.database import Tx

_CONTAINER, _IMAGE, _CUSTOM, _VM = 0, 1, 2, 3
_VOLUME_TYPES = {_CONTAINER: "container", _IMAGE: "image", _CUSTOM: "custom", _VM: "virtual-machine"}


def list_pool_users(tx: Tx, pool_id: int, pool: str) -> list[str]:
    """What keeps data in a storage pool or names it: instances, images, custom volumes, profiles."""
    users = [*_volumes_of_pool(tx, pool_id, pool), *list_profiles_with(tx, {"pool": pool})]
    return sorted(users)


def has_pool_users(tx: Tx, pool_id: int, pool: str) -> bool:
    """Whether anything but cached images uses a storage pool."""
    found = tx.row("SELECT 1 FROM storage_volumes WHERE storage_pool_id = ? AND type != ?", pool_id, _IMAGE)
    return found is not None or bool(list_profiles_with(tx, {"pool": pool}))


def _volumes_of_pool(tx: Tx, pool_id: int, pool: str) -> list[str]:
    users = []
    for row in tx.rows(
        "SELECT v.name, v.type, p.name AS project, NULL AS snapshot FROM storage_volumes v"
        " JOIN projects p ON p.id = v.project_id WHERE v.storage_pool_id = ? AND v.pending != 'create'"
        " UNION ALL SELECT v.name, v.type, p.name, s.name FROM storage_volumes_snapshots s"
        " JOIN storage_volumes v ON v.id = s.storage_volume_id JOIN projects p ON p.id = v.project_id"
        " WHERE v.storage_pool_id = ? AND s.pending != 'create'",
        pool_id,
        pool_id,
    ):
        kind, name, project = row["type"], row["name"], row["project"]
        snapshot = () if row["snapshot"] is None else ("snapshots", row["snapshot"])
        if kind in (_CONTAINER, _VM):
            users.append(url("/1.0/instances", name, *snapshot, project=project))
        elif kind == _IMAGE:
            users += _image_users(tx, name) or [url("/1.0/storage-pools", pool, "volumes", "image", name)]
        else:
            place = ("/1.0/storage-pools", pool, "volumes", _VOLUME_TYPES[kind], name, *snapshot)
            users.append(url(*place, project=project))
    return users


def _image_users(tx: Tx, fingerprint: str) -> list[str]:
    rows = tx.rows(
        "SELECT p.name FROM images i JOIN projects p ON p.id = i.project_id WHERE i.fingerprint = ?", fingerprint
    )
    return [url("/1.0/images", fingerprint, project=row["name"]) for row in rows]


def list_custom_volume_users(tx: Tx, pool: str, project: str, volume: str) -> list[str]:
    """Instances whose own devices attach a custom volume, and profiles that do."""
    owners = _projects_that_share(tx, project, "features.storage.volumes")
    wanted = {"pool": pool, "source": volume}
    return [*list_instances_with(tx, wanted, owners), *list_profiles_with(tx, wanted, owners)]


def repoint_custom_volume(tx: Tx, project: str, place: tuple[str, str], new_place: tuple[str, str]) -> None:
    """Have the devices of instances and profiles that attach a custom volume (pool, name) attach it at a new place."""
    owners = _projects_that_share(tx, project, "features.storage.volumes")
    for noun in ("instance", "profile"):
        ids = [
            row["id"]
            for row in tx.rows(
                f"SELECT d.id, p.name FROM {noun}s_devices d JOIN {noun}s o ON o.id = d.{noun}_id"
                " JOIN projects p ON p.id = o.project_id"
                f" JOIN {noun}s_devices_config a ON a.{noun}_device_id = d.id AND a.key = 'pool' AND a.value = ?"
                f" JOIN {noun}s_devices_config b ON b.{noun}_device_id = d.id AND b.key = 'source' AND b.value = ?",
                *place,
            )
            if row["name"] in owners
        ]
        sql = f"UPDATE {noun}s_devices_config SET value = ? WHERE {noun}_device_id = ? AND key = ?"
        for key, value in zip(("pool", "source"), new_place, strict=True):
            tx.many(sql, [(value, device_id, key) for device_id in ids])


def _projects_that_share(tx: Tx, project: str, feature: str) -> set[str]:
    """The project, and, for the default one, all that have no things of their own of this kind."""
    if project != "default":
        return {project}
    rows = tx.rows(
        "SELECT p.name FROM projects p LEFT JOIN projects_config c ON c.project_id = p.id AND c.key = ?"
        " WHERE p.name = 'default' OR lower(coalesce(c.value, '')) NOT IN ('true', '1', 'yes', 'on')",
        feature,
    )
    return {row["name"] for row in rows}


def list_instances_with(tx: Tx, wanted: Mapping[str, str], projects: Collection[str] | None = None) -> list[str]:
    """URLs of the instances, of some projects or all, that have among their own devices one with these values."""
    rows = _owners_with(tx, "instance", wanted)
    return [url("/1.0/instances", name, project=owner) for name, owner in rows if projects is None or owner in projects]


def list_profiles_with(tx: Tx, wanted: Mapping[str, str], projects: Collection[str] | None = None) -> list[str]:
    """URLs of the profiles, of some projects or all, that have a device with these values."""
    rows = _owners_with(tx, "profile", wanted)
    return [url("/1.0/profiles", name, project=owner) for name, owner in rows if projects is None or owner in projects]


def _owners_with(tx: Tx, noun: str, wanted: Mapping[str, str]) -> list[tuple[str, str]]:
    joins, values = "", []
    for number, (key, value) in enumerate(wanted.items()):
        joins += (
            f" JOIN {noun}s_devices_config c{number} ON c{number}.{noun}_device_id = d.id"
            f" AND c{number}.key = ? AND c{number}.value = ?"
        )
        values += [key, value]
    rows = tx.rows(
        f"SELECT DISTINCT o.name, p.name AS project FROM {noun}s o JOIN projects p ON p.id = o.project_id"
        f" JOIN {noun}s_devices d ON d.{noun}_id = o.id{joins} ORDER BY o.name, p.name",
        *values,
    )
    return [(row["name"], row["project"]) for row in rows]
