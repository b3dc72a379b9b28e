"""SQL of instances. Lists of any length take the same few queries: rows, configs, devices, profiles."""

import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from corral.errors import AlreadyExists, InvalidRequest, NotFound
from corral.server.db import rows
from corral.server.db.database import Tx, Value
from corral.server.instances.expand import expand_config, expand_devices
from corral.server.instances.model import NEVER, Devices, Instance, InstanceType, Profile, Snapshot

_COLUMNS = (
    "i.id, p.name AS project, i.name, i.type, i.architecture, i.ephemeral, i.stateful, i.creation_date,"
    " i.last_use_date, i.description, i.pending"
)
_FROM = "FROM instances i JOIN projects p ON p.id = i.project_id"
_FEW = 500
"""Up to so many owners are named in a query; above, the whole table is read and picked from."""


@dataclass(frozen=True, slots=True)
class NewInstance:
    """What is known of an instance before its row exists."""

    project: str
    name: str
    type: InstanceType
    architecture: int
    created_at: str
    config: Mapping[str, str]
    devices: Mapping[str, Mapping[str, str]]
    profiles: Sequence[str] = field(default_factory=tuple)
    ephemeral: bool = False
    description: str = ""


def get_instance(tx: Tx, project: str, name: str) -> Instance:
    """An instance by name, or NotFound."""
    found = find_by_name(tx, project, name)
    if found is None:
        raise NotFound("Instance not found")
    return found


def find_instance(tx: Tx, instance_id: int) -> Instance | None:
    """An instance by id."""
    found = _instances(tx, "WHERE i.id = ?", instance_id)
    return found[0] if found else None


def find_by_name(tx: Tx, project: str, name: str) -> Instance | None:
    """An instance by name, or None."""
    found = _instances(tx, "WHERE p.name = ? AND i.name = ?", project, name)
    return found[0] if found else None


def reload(tx: Tx, instance_id: int) -> Instance:
    """The present record of an instance that was loaded before, or NotFound where it was deleted meanwhile."""
    found = find_instance(tx, instance_id)
    if found is None:
        raise NotFound("Instance not found")
    return found


def list_instances(tx: Tx, project: str | None = None, kind: InstanceType | None = None) -> list[Instance]:
    """The instances of a project (None: all) by name."""
    clauses: list[str] = []
    values: list[Value] = []
    if project is not None:
        clauses.append("p.name = ?")
        values.append(project)
    if kind is not None:
        clauses.append("i.type = ?")
        values.append(kind.number)
    where = "WHERE " + " AND ".join(clauses) if clauses else ""
    return _instances(tx, where, *values)


def list_by_ids(tx: Tx, ids: Collection[int]) -> list[Instance]:
    """The instances with these ids that exist."""
    if len(ids) > _FEW:
        return [one for one in _instances(tx, "") if one.id in ids]
    return _instances(tx, f"WHERE i.id IN ({rows.marks(ids)})", *ids) if ids else []


def list_pending(tx: Tx) -> list[Instance]:
    """The instances whose making or removal was cut short."""
    return _instances(tx, "WHERE i.pending != ''")


def list_names(tx: Tx, project: str) -> set[str]:
    """The names in use in a project."""
    sql = "SELECT i.name FROM instances i JOIN projects p ON p.id = i.project_id WHERE p.name = ?"
    return {row[0] for row in tx.rows(sql, project)}


def list_by_profile(tx: Tx, profile_project: str, profile: str) -> list[Instance]:
    """The instances that use a profile."""
    ids = [
        row[0]
        for row in tx.rows(
            "SELECT ip.instance_id FROM instances_profiles ip JOIN profiles f ON f.id = ip.profile_id"
            " JOIN projects p ON p.id = f.project_id WHERE p.name = ? AND f.name = ?",
            profile_project,
            profile,
        )
    ]
    return _instances(tx, f"WHERE i.id IN ({rows.marks(ids)})", *ids) if ids else []


def list_effective(tx: Tx, *keys: str) -> dict[int, dict[str, str]]:
    """The effective values of some keys, by the ids of the instances that have one of them."""
    found: dict[int, dict[str, str]] = {}
    for instance_id, key, value in (
        *tx.rows(
            "SELECT ip.instance_id, c.key, c.value FROM instances_profiles ip JOIN profiles_config c"
            f" ON c.profile_id = ip.profile_id AND c.key IN ({rows.marks(keys)}) ORDER BY ip.apply_order",
            *keys,
        ),
        *tx.rows(f"SELECT instance_id, key, value FROM instances_config WHERE key IN ({rows.marks(keys)})", *keys),
    ):
        found.setdefault(instance_id, {})[key] = value
    return found


def list_snapshots(tx: Tx, ids: Iterable[int] | None = None) -> dict[int, list[Snapshot]]:
    """The snapshots of many instances: {instance id: snapshots, oldest first}."""
    where, values = _picked("instance_id", ids)
    where = f"{where} AND pending != 'create'" if where else "WHERE pending != 'create'"
    found = tx.rows(
        "SELECT id, instance_id, name, creation_date, stateful, description, expiry_date FROM instances_snapshots"
        f" {where} ORDER BY id",
        *values,
    )
    if not found:
        return {}
    snapshot_ids = [row["id"] for row in found]
    profiles = _inherited(tx, {row["instance_id"] for row in found})
    configs = rows.read_configs(tx, "instances_snapshots_config", "instance_snapshot_id", snapshot_ids)
    devices = rows.read_devices(tx, "instances_snapshot", snapshot_ids)
    result: dict[int, list[Snapshot]] = {}
    for row in found:
        snapshot = Snapshot(
            id=row["id"],
            instance_id=row["instance_id"],
            name=row["name"],
            created_at=row["creation_date"],
            expires_at=row["expiry_date"] or "0001-01-01T00:00:00Z",
            stateful=bool(row["stateful"]),
            description=row["description"],
            config=configs.get(row["id"], {}),
            devices=devices.get(row["id"], {}),
            expanded_config=expand_config(profiles[row["instance_id"]], configs.get(row["id"], {})),
            expanded_devices=expand_devices(profiles[row["instance_id"]], devices.get(row["id"], {})),
        )
        result.setdefault(snapshot.instance_id, []).append(snapshot)
    return result


def _inherited(tx: Tx, ids: Collection[int]) -> dict[int, list[Profile]]:
    """The profiles of some instances, which their snapshots share."""
    picked = None if len(ids) > _FEW else list(ids)
    profile_ids = _profiles_of(tx, picked)
    found = _profiles(tx, None if picked is None else {one for each in profile_ids.values() for one in each})
    return {owner: [found[one] for one in profile_ids.get(owner, ())] for owner in ids}


def profile_project(tx: Tx, project: str) -> str:
    """The project whose profiles the instances of a project use."""
    row = tx.row(
        "SELECT c.value FROM projects p JOIN projects_config c ON c.project_id = p.id"
        " WHERE p.name = ? AND c.key = 'features.profiles'",
        project,
    )
    own = row is not None and (row[0] or "").lower() in ("true", "1", "yes", "on")
    return project if own or project == "default" else "default"


def get_profiles(tx: Tx, project: str, names: Sequence[str]) -> list[Profile]:
    """Profiles by name in the given order; InvalidRequest for one that does not exist or comes twice."""
    source = profile_project(tx, project)
    ids = {
        row["name"]: row["id"]
        for row in tx.rows(
            "SELECT f.id, f.name FROM profiles f JOIN projects p ON p.id = f.project_id WHERE p.name = ?", source
        )
    }
    for index, name in enumerate(names):
        if name not in ids:
            raise InvalidRequest(f'Requested profile "{name}" doesn\'t exist')
        if name in names[:index]:
            raise InvalidRequest("Duplicate profile found in request")
    wanted = [ids[name] for name in names]
    found = _profiles(tx, wanted)
    return [found[profile_id] for profile_id in wanted]


def insert_instance(tx: Tx, new: NewInstance, pending: str = "create") -> int:
    """Insert an instance that is still being made; AlreadyExists where the name is taken."""
    project_id = tx.rows("SELECT id FROM projects WHERE name = ?", new.project)[0][0]
    try:
        instance_id = tx.execute(
            "INSERT INTO instances (node_id, name, architecture, type, ephemeral, creation_date, last_use_date,"
            " description, project_id, pending) VALUES ((SELECT min(id) FROM nodes), ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            new.name,
            new.architecture,
            new.type.number,
            int(new.ephemeral),
            new.created_at,
            NEVER,
            new.description,
            project_id,
            pending,
        )
    except sqlite3.IntegrityError as error:
        raise AlreadyExists(f'Instance "{new.name}" already exists') from error
    rows.write_config(tx, "instances_config", "instance_id", instance_id, new.config)
    rows.write_devices(tx, "instance", instance_id, new.devices)
    write_profiles(tx, instance_id, new.project, new.profiles)
    return instance_id


def write_profiles(tx: Tx, instance_id: int, project: str, profiles: Sequence[str]) -> None:
    """Replace the list of an instance's profiles."""
    tx.execute("DELETE FROM instances_profiles WHERE instance_id = ?", instance_id)
    source = profile_project(tx, project)
    for order, name in enumerate(profiles, 1):
        tx.execute(
            "INSERT INTO instances_profiles (instance_id, profile_id, apply_order) SELECT ?, f.id, ? FROM profiles f"
            " JOIN projects p ON p.id = f.project_id WHERE p.name = ? AND f.name = ?",
            instance_id,
            order,
            source,
            name,
        )


def finish_instance(tx: Tx, instance_id: int) -> Instance:
    """Mark an instance as whole."""
    tx.execute("UPDATE instances SET pending = '' WHERE id = ?", instance_id)
    return reload(tx, instance_id)


def mark_pending(tx: Tx, instance_id: int, verb: str) -> None:
    """Note a verb that must be finished or undone should the daemon die in it."""
    tx.execute("UPDATE instances SET pending = ? WHERE id = ?", verb, instance_id)


@dataclass(frozen=True, slots=True)
class Change:
    """New values of an instance's record."""

    architecture: int
    description: str
    ephemeral: bool
    config: Mapping[str, str]
    devices: Mapping[str, Mapping[str, str]]
    profiles: Sequence[str]


def update_instance(tx: Tx, instance: Instance, change: Change) -> Instance:
    """Replace what can be edited."""
    tx.execute(
        "UPDATE instances SET architecture = ?, description = ?, ephemeral = ? WHERE id = ?",
        change.architecture,
        change.description,
        int(change.ephemeral),
        instance.id,
    )
    rows.write_config(tx, "instances_config", "instance_id", instance.id, change.config)
    if change.devices != instance.devices:
        rows.write_devices(tx, "instance", instance.id, change.devices)
    if tuple(change.profiles) != instance.profiles:
        write_profiles(tx, instance.id, instance.project, change.profiles)
    return reload(tx, instance.id)


def set_config(tx: Tx, instance_id: int, values: Mapping[str, str | None], *, used_at: str | None = None) -> None:
    """Set single keys (None removes) without touching the others; with `used_at` also the time of the last start."""
    tx.many(
        "INSERT INTO instances_config (instance_id, key, value) VALUES (?, ?, ?)"
        " ON CONFLICT (instance_id, key) DO UPDATE SET value = excluded.value",
        [(instance_id, key, value) for key, value in values.items() if value],
    )
    tx.many(
        "DELETE FROM instances_config WHERE instance_id = ? AND key = ?",
        [(instance_id, key) for key, value in values.items() if not value],
    )
    if used_at is not None:
        tx.execute("UPDATE instances SET last_use_date = ? WHERE id = ?", used_at, instance_id)


def rename_instance(tx: Tx, instance: Instance, name: str) -> Instance:
    """Give an instance another name; AlreadyExists where it is taken."""
    try:
        tx.execute("UPDATE instances SET name = ? WHERE id = ?", name, instance.id)
    except sqlite3.IntegrityError as error:
        raise AlreadyExists(f'Name "{name}" already in use') from error
    return reload(tx, instance.id)


def move_instance(tx: Tx, instance: Instance, new: Instance) -> None:
    """Give an instance the project, name, config, devices and profiles of `new`; AlreadyExists where it is taken."""
    try:
        tx.execute(
            "UPDATE instances SET name = ?, project_id = (SELECT id FROM projects WHERE name = ?) WHERE id = ?",
            new.name,
            new.project,
            instance.id,
        )
    except sqlite3.IntegrityError as error:
        raise AlreadyExists(f'Instance "{new.name}" already exists') from error
    if new.config != instance.config:
        rows.write_config(tx, "instances_config", "instance_id", instance.id, new.config)
    rows.write_devices(tx, "instance", instance.id, new.devices)
    write_profiles(tx, instance.id, new.project, new.profiles)


def delete_instance(tx: Tx, instance_id: int) -> None:
    """Remove an instance's row and all that hangs on it."""
    tx.execute("DELETE FROM instances WHERE id = ?", instance_id)


def _picked(column: str, ids: Iterable[int] | None) -> tuple[str, list[int]]:
    if ids is None:
        return "", []
    values = list(ids)
    if len(values) > _FEW:
        return "", []
    return f"WHERE {column} IN ({rows.marks(values)})", values


def _instances(tx: Tx, where: str, *values: Value) -> list[Instance]:
    found = tx.rows(f"SELECT {_COLUMNS} {_FROM} {where} ORDER BY p.name, i.name", *values)
    if not found:
        return []
    ids = [row["id"] for row in found]
    many = len(ids) > _FEW
    picked = None if many else ids
    configs = rows.read_configs(tx, "instances_config", "instance_id", picked)
    devices = rows.read_devices(tx, "instance", picked)
    profile_ids = _profiles_of(tx, picked)
    profiles = _profiles(tx, None if many else {one for ids_of in profile_ids.values() for one in ids_of})
    return [
        _instance(row, configs, devices, [profiles[one] for one in profile_ids.get(row["id"], ())]) for row in found
    ]


def _instance(
    row: sqlite3.Row, configs: dict[int, dict[str, str]], devices: dict[int, Devices], profiles: list[Profile]
) -> Instance:
    config, own_devices = configs.get(row["id"], {}), devices.get(row["id"], {})
    return Instance(
        id=row["id"],
        project=row["project"],
        name=row["name"],
        type=InstanceType.of_number(row["type"]),
        architecture=row["architecture"],
        ephemeral=bool(row["ephemeral"]),
        stateful=bool(row["stateful"]),
        created_at=row["creation_date"],
        last_used_at=row["last_use_date"] or NEVER,
        description=row["description"],
        pending=row["pending"],
        config=config,
        devices=own_devices,
        profiles=tuple(profile.name for profile in profiles),
        expanded_config=expand_config(profiles, config),
        expanded_devices=expand_devices(profiles, own_devices),
    )


def _profiles_of(tx: Tx, ids: list[int] | None) -> dict[int, list[int]]:
    where, values = _picked("instance_id", ids)
    result: dict[int, list[int]] = {}
    for instance_id, profile_id in tx.rows(
        f"SELECT instance_id, profile_id FROM instances_profiles {where} ORDER BY instance_id, apply_order", *values
    ):
        result.setdefault(instance_id, []).append(profile_id)
    return result


def _profiles(tx: Tx, ids: Iterable[int] | None) -> dict[int, Profile]:
    where, values = _picked("id", ids)
    names = tx.rows(f"SELECT id, name FROM profiles {where}", *values)
    if not names:
        return {}
    found = [row["id"] for row in names]
    configs = rows.read_configs(tx, "profiles_config", "profile_id", found)
    devices = rows.read_devices(tx, "profile", found)
    return {row["id"]: Profile(row["name"], configs.get(row["id"], {}), devices.get(row["id"], {})) for row in names}
