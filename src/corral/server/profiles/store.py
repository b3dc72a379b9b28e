"""SQL of profiles."""

from collections.abc import Mapping, Sequence

from corral.errors import AlreadyExists, InvalidRequest, NotFound
from corral.server.db import rows
from corral.server.db.database import Tx
from corral.server.profiles.model import Profile

_SELECT = (
    "SELECT profiles.id, projects.name AS project, profiles.name, profiles.description"
    " FROM profiles JOIN projects ON projects.id = profiles.project_id"
)


def _load(tx: Tx, where: str, *values: str) -> list[Profile]:
    found = tx.rows(f"{_SELECT} WHERE {where} ORDER BY profiles.name", *values)
    ids = [row["id"] for row in found]
    configs = rows.read_configs(tx, "profiles_config", "profile_id", ids)
    devices = rows.read_devices(tx, "profile", ids)
    used_by = _used_by(tx, ids)
    return [
        rows.to(
            Profile,
            row,
            config=configs.get(row["id"], {}),
            devices=devices.get(row["id"], {}),
            used_by=tuple(used_by.get(row["id"], [])),
        )
        for row in found
    ]


def _used_by(tx: Tx, ids: Sequence[int]) -> dict[int, list[tuple[str, str]]]:
    users: dict[int, list[tuple[str, str]]] = {}
    for profile, project, instance in tx.rows(
        "SELECT instances_profiles.profile_id, projects.name, instances.name FROM instances_profiles"
        " JOIN instances ON instances.id = instances_profiles.instance_id"
        " JOIN projects ON projects.id = instances.project_id"
        f" WHERE instances_profiles.profile_id IN ({rows.marks(ids)}) ORDER BY projects.name, instances.name",
        *ids,
    ):
        users.setdefault(profile, []).append((project, instance))
    return users


def find_profile(tx: Tx, project: str, name: str) -> Profile | None:
    """A profile of a project, or None."""
    found = _load(tx, "projects.name = ? AND profiles.name = ?", project, name)
    return found[0] if found else None


def get_profile(tx: Tx, project: str, name: str) -> Profile:
    """A profile of a project, or NotFound."""
    found = find_profile(tx, project, name)
    if found is None:
        raise NotFound("Profile not found")
    return found


def list_profiles(tx: Tx, project: str) -> list[Profile]:
    """All profiles of a project by name."""
    return _load(tx, "projects.name = ?", project)


def get_profiles(tx: Tx, project: str, names: Sequence[str]) -> list[Profile]:
    """Some profiles of a project in the given order, or NotFound for the first that is missing."""
    known = {profile.name: profile for profile in list_profiles(tx, project)} if names else {}
    for name in names:
        if name not in known:
            raise NotFound(f'Profile "{name}" not found in project "{project}"')
    return [known[name] for name in names]


Devices = Mapping[str, Mapping[str, str]]


def insert_profile(
    tx: Tx, project: str, name: str, description: str, config: Mapping[str, str], devices: Devices
) -> int:
    """Add a profile to a project and return its id; AlreadyExists where the name is taken."""
    if find_profile(tx, project, name) is not None:
        raise AlreadyExists(f'Error inserting "{name}" into database: The profile already exists')
    row = tx.row("SELECT id FROM projects WHERE name = ?", project)
    if row is None:
        raise NotFound("Project not found")
    profile = tx.execute(
        "INSERT INTO profiles (project_id, name, description) VALUES (?, ?, ?)", row["id"], name, description
    )
    rows.write_config(tx, "profiles_config", "profile_id", profile, config)
    rows.write_devices(tx, "profile", profile, devices)
    return profile


def update_profile(
    tx: Tx, project: str, name: str, description: str, config: Mapping[str, str], devices: Devices
) -> Profile:
    """Replace what a profile holds and return what it was before."""
    before = get_profile(tx, project, name)
    tx.execute("UPDATE profiles SET description = ? WHERE id = ?", description, before.id)
    rows.write_config(tx, "profiles_config", "profile_id", before.id, config)
    rows.write_devices(tx, "profile", before.id, devices)
    return before


def rename_profile(tx: Tx, project: str, name: str, new_name: str) -> None:
    """Give a profile another name; AlreadyExists where that is taken."""
    profile = get_profile(tx, project, name)
    if find_profile(tx, project, new_name) is not None:
        raise AlreadyExists(f'Name "{new_name}" already in use')
    tx.execute("UPDATE profiles SET name = ? WHERE id = ?", new_name, profile.id)


def delete_profile(tx: Tx, project: str, name: str) -> None:
    """Remove a profile; InvalidRequest while an instance has it."""
    profile = get_profile(tx, project, name)
    if profile.used_by:
        raise InvalidRequest("Profile is currently in use")
    tx.execute("DELETE FROM profiles WHERE id = ?", profile.id)
