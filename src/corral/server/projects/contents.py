"""What is in a project, as its limits and restrictions see it: profiles, expanded instances, sizes of volumes."""

from collections.abc import Mapping
from dataclasses import dataclass

from corral.server.db import rows
from corral.server.db.database import Tx
from corral.server.projects.model import Project

CONTAINER, VIRTUAL_MACHINE, PROFILE = "container", "virtual-machine", "profile"
_CUSTOM_VOLUME = 2

Devices = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Entity:
    """An instance with its profiles applied, or a profile; `kind` is the API's word."""

    kind: str
    name: str
    config: Mapping[str, str]
    devices: Devices


@dataclass(frozen=True, slots=True)
class Contents:
    """A project and what is in it. `volumes` holds the size of each custom volume as text, None for no limit."""

    project: Project
    instances: tuple[Entity, ...]
    profiles: tuple[Entity, ...]
    volumes: Mapping[str, str | None]

    def count(self, kind: str) -> int:
        """How many instances of a kind there are."""
        return sum(instance.kind == kind for instance in self.instances)


def load(tx: Tx, project: Project) -> Contents:
    """All that is in a project, also what is still being made."""
    owner = tx.rows("SELECT id FROM projects WHERE name = ?", project.owner_of("features.profiles"))[0]["id"]
    profiles = _profiles(tx, owner)
    return Contents(
        project, _instances(tx, project.id, profiles), tuple(profiles.values()), _volume_sizes(tx, project.id)
    )


def _profiles(tx: Tx, project: int) -> dict[int, Entity]:
    found = tx.rows("SELECT id, name FROM profiles WHERE project_id = ? ORDER BY name", project)
    ids = [row["id"] for row in found]
    configs = rows.read_configs(tx, "profiles_config", "profile_id", ids)
    devices = rows.read_devices(tx, "profile", ids)
    return {
        row["id"]: Entity(PROFILE, row["name"], configs.get(row["id"], {}), devices.get(row["id"], {})) for row in found
    }


def _instances(tx: Tx, project: int, profiles: Mapping[int, Entity]) -> tuple[Entity, ...]:
    found = tx.rows("SELECT id, name, type FROM instances WHERE project_id = ? ORDER BY name", project)
    ids = [row["id"] for row in found]
    own_config = rows.read_configs(tx, "instances_config", "instance_id", ids)
    own_devices = rows.read_devices(tx, "instance", ids)
    applied: dict[int, list[Entity]] = {}
    for instance, profile in tx.rows(
        "SELECT a.instance_id, a.profile_id FROM instances_profiles a JOIN instances i ON i.id = a.instance_id"
        " WHERE i.project_id = ? ORDER BY a.instance_id, a.apply_order",
        project,
    ):
        if profile in profiles:
            applied.setdefault(instance, []).append(profiles[profile])
    entities = []
    for row in found:
        config: dict[str, str] = {}
        devices: dict[str, Mapping[str, str]] = {}
        for entity in applied.get(row["id"], ()):
            config.update(entity.config)
            devices.update(entity.devices)
        config.update(own_config.get(row["id"], {}))
        devices.update(own_devices.get(row["id"], {}))
        entities.append(Entity(VIRTUAL_MACHINE if row["type"] else CONTAINER, row["name"], config, devices))
    return tuple(entities)


def _volume_sizes(tx: Tx, project: int) -> dict[str, str | None]:
    found = tx.rows(
        "SELECT p.name || '/' || v.name AS name, c.value FROM storage_volumes v"
        " JOIN storage_pools p ON p.id = v.storage_pool_id"
        " LEFT JOIN storage_volumes_config c ON c.storage_volume_id = v.id AND c.key = 'size'"
        " WHERE v.project_id = ? AND v.type = ? ORDER BY v.name",
        project,
        _CUSTOM_VOLUME,
    )
    return {row["name"]: row["value"] for row in found}
