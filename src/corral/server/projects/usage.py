"""How much a project uses of what can be limited: counted from the database, without asking the kernel."""

import contextlib

from corral.errors import InvalidRequest
from corral.server.db import rows
from corral.server.db.database import Tx
from corral.server.keys import Config, Key
from corral.server.projects import keys
from corral.server.projects.store import get_project
from corral.units import parse_id_ranges, parse_size

_VIRTUAL_MACHINE = 1

LIMITS: dict[str, Key[int]] = {
    "containers": keys.LIMIT_CONTAINERS,
    "cpu": keys.LIMIT_CPU,
    "disk": keys.LIMIT_DISK,
    "instances": keys.LIMIT_INSTANCES,
    "memory": keys.LIMIT_MEMORY,
    "networks": keys.LIMIT_NETWORKS,
    "processes": keys.LIMIT_PROCESSES,
    "virtual-machines": keys.LIMIT_VIRTUAL_MACHINES,
}
"""The resources of a project and the key that limits each."""


def read_usage(tx: Tx, name: str) -> dict[str, tuple[int, int]]:
    """For each resource the limit (-1: none) and what is used: a count, CPUs or bytes."""
    project = get_project(tx, name)
    config = Config(project.config)
    used = dict.fromkeys(LIMITS, 0)
    for kind, count in tx.rows("SELECT type, count(*) FROM instances WHERE project_id = ? GROUP BY type", project.id):
        used["virtual-machines" if kind == _VIRTUAL_MACHINE else "containers"] += count
        used["instances"] += count
    used["networks"] = tx.rows("SELECT count(*) FROM networks WHERE project_id = ?", project.id)[0][0]
    for instance in _instance_configs(tx, project.id):
        used["cpu"] += _cpus(instance.get("limits.cpu", ""))
        used["memory"] += _size(instance.get("limits.memory", ""))
        used["processes"] += _size(instance.get("limits.processes", ""))
    used["disk"] = _disk(tx, project.id)
    limits = {resource: config[key] for resource, key in LIMITS.items()}
    return {resource: (-1 if limit is None else limit, used[resource]) for resource, limit in limits.items()}


def _instance_configs(tx: Tx, project: int) -> list[dict[str, str]]:
    """The config of each instance with that of its profiles below it."""
    ids = [row["id"] for row in tx.rows("SELECT id FROM instances WHERE project_id = ?", project)]
    local = rows.read_configs(tx, "instances_config", "instance_id", ids)
    profiles = rows.read_configs(tx, "profiles_config", "profile_id")
    expanded: dict[int, dict[str, str]] = {instance: {} for instance in ids}
    for instance, profile in tx.rows(
        "SELECT instance_id, profile_id FROM instances_profiles ORDER BY instance_id, apply_order"
    ):
        if instance in expanded:
            expanded[instance].update(profiles.get(profile, {}))
    return [{**expanded[instance], **local.get(instance, {})} for instance in ids]


def _cpus(text: str) -> int:
    if text.isdecimal():
        return int(text)
    with contextlib.suppress(InvalidRequest):
        return len(parse_id_ranges(text)) if text else 0
    return 0


def _size(text: str) -> int:
    with contextlib.suppress(InvalidRequest):
        return parse_size(text)
    return 0


def _disk(tx: Tx, project: int) -> int:
    images = tx.rows("SELECT coalesce(sum(size), 0) FROM images WHERE project_id = ?", project)[0][0]
    sizes = tx.rows(
        "SELECT value FROM storage_volumes_config JOIN storage_volumes"
        " ON storage_volumes.id = storage_volumes_config.storage_volume_id"
        " WHERE storage_volumes.project_id = ? AND storage_volumes.type = 2 AND key = 'size'",
        project,
    )
    return int(images) + sum(_size(row["value"]) for row in sizes)
