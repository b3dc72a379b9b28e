"""Finds what lies on storage pools and is not in the database, and what it needs to come back.

What is on a pool may be hostile: nothing there is followed out of its place, and backup.yaml is read within bounds.
"""

import logging
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from corral.errors import InvalidRequest
from corral.server.backups.index import Description, parse_document
from corral.server.context import Context
from corral.server.db.database import Tx
from corral.server.host.threads import in_thread
from corral.server.instances import names
from corral.server.instances import store as instances
from corral.server.instances.model import DEFAULT_PROJECT
from corral.server.projects.model import Project
from corral.server.projects.store import list_projects
from corral.server.storage import custom, model, store
from corral.server.storage.keys import quoted
from corral.server.storage.model import Pool, VolumeType

log = logging.getLogger(__name__)

DOCUMENT_LIMIT = 8 << 20
"""Bytes of a backup.yaml."""
_DISK = "root.img"


@dataclass(frozen=True, slots=True)
class Found:
    """A volume that the database does not know. `description` is backup.yaml's, of instances alone."""

    pool: Pool
    project: str
    name: str
    kind: VolumeType
    snapshots: tuple[str, ...]
    description: Description | None = None

    @property
    def snapshot_count(self) -> int:
        """How many snapshots come back with it."""
        return len(self.snapshots)


@dataclass(frozen=True, slots=True)
class Known:
    """What the database knows: names on the disk of the pool's volumes and of all instances, projects and more."""

    volumes: frozenset[tuple[VolumeType, str]]
    instances: frozenset[tuple[str, str]]
    projects: Mapping[str, Project]
    profiles: frozenset[tuple[str, str]] = field(default=frozenset())
    networks: frozenset[tuple[str, str]] = field(default=frozenset())


def read_known(tx: Tx, pool: Pool) -> Known:
    """What the database knows of a pool (one that it does not know has no volumes) and of all else."""
    present = store.find_pool(tx, pool.name)
    volumes = store.list_volumes(tx, present) if present is not None else []
    return Known(
        frozenset((one.type, one.storage_name) for one in volumes),
        frozenset((one.project, one.name) for one in instances.list_instances(tx)),
        {one.name: one for one in list_projects(tx)},
        frozenset(_named(tx, "profiles")),
        frozenset(_named(tx, "networks")),
    )


def _named(tx: Tx, table: str) -> list[tuple[str, str]]:
    sql = f"SELECT p.name AS project, t.name AS name FROM {table} t JOIN projects p ON p.id = t.project_id"
    return [(row["project"], row["name"]) for row in tx.rows(sql)]


async def scan(context: Context, pool: Pool, known: Known) -> list[Found]:
    """What a mounted pool has besides the known. Raises InvalidRequest for what contradicts itself."""
    root = model.pool_path(context.member, pool.name)
    found = []
    for kind in (VolumeType.CONTAINER, VolumeType.CUSTOM):
        found += await in_thread(_scan_directory, pool, root / kind.directory, kind, known)
    return found


def _scan_directory(pool: Pool, directory: Path, kind: VolumeType, known: Known) -> list[Found]:
    if not directory.is_dir():
        return []
    found = []
    for entry in sorted(os.scandir(directory), key=lambda one: one.name):
        if entry.name.startswith(".") or (kind, entry.name) in known.volumes:
            continue
        if not entry.is_dir(follow_symlinks=False):
            log.warning("%s is no volume: left alone", entry.path)
            continue
        read = _read_instance if kind.is_instance else _read_custom
        volume = read(pool, Path(entry.path), known)
        if volume is not None:
            found.append(volume)
    return found


def split_name(kind: VolumeType, name_on_disk: str) -> tuple[str, str]:
    """The project and the name of a volume, from its name on the disk."""
    project, underscore, name = name_on_disk.partition("_")
    if underscore:
        return project, name
    return DEFAULT_PROJECT, name_on_disk


def _snapshots(volume: Path) -> tuple[str, ...]:
    directory = model.snapshot_path(volume, "x").parent
    try:
        entries = [one for one in os.scandir(directory) if one.is_dir(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return ()
    # Those of one second are in the order of their names.
    return tuple(one.name for one in sorted(entries, key=lambda one: (int(one.stat().st_ctime), one.name)))


def _read_custom(pool: Pool, path: Path, known: Known) -> Found | None:
    project, name = split_name(VolumeType.CUSTOM, path.name)
    if (path / _DISK).exists():
        log.warning("%s is a custom volume of the content type block, which this server cannot use", path)
        return None
    custom.validate_name(name)
    return Found(pool, project, name, VolumeType.CUSTOM, _snapshots(path))


def _read_instance(pool: Pool, path: Path, known: Known) -> Found:
    project, name = split_name(VolumeType.CONTAINER, path.name)
    names.check_name(name)
    who = f"Instance {quoted(name)} in project {quoted(project)}"
    if (project, name) in known.instances:
        raise InvalidRequest(f"{who} already has instance DB record")
    document = path / "backup.yaml"
    try:
        description = parse_document(read_text(path, document.name), Description, "backup.yaml")
    except (OSError, InvalidRequest) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidRequest(f"Failed parsing backup file {quoted(str(document))}: {reason}") from error
    _check(description, pool, who, name)
    return Found(pool, project, name, VolumeType.CONTAINER, _snapshots(path), description)


def read_text(directory: Path, name: str) -> str:
    """A file of bounded size that lies directly in a directory. Raises OSError, InvalidRequest."""
    parent = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
    finally:
        os.close(parent)
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise InvalidRequest("it is no regular file")
        content = file.read(DOCUMENT_LIMIT + 1)
    if len(content) > DOCUMENT_LIMIT:
        raise InvalidRequest(f"it is larger than {DOCUMENT_LIMIT} bytes")
    return content.decode(errors="replace")


def _check(description: Description, pool: Pool, who: str, name: str) -> None:
    """Raise InvalidRequest where a backup.yaml is not that of the volume that it lies in."""
    written, described, volume = description.pool, description.described, description.volume
    if written is not None and written.name != pool.name:
        raise InvalidRequest(
            f"{who} has pool name mismatch in its backup file"
            f" ({quoted(written.name)} doesn't match's pool's {quoted(pool.name)})"
        )
    if written is not None and written.driver != pool.driver:
        raise InvalidRequest(
            f"{who} has pool driver mismatch in its backup file"
            f" ({quoted(written.driver)} doesn't match's pool's {quoted(pool.driver)})"
        )
    if described is None:
        raise InvalidRequest(f"{who} has no instance information in its backup file")
    if described.name != name:
        raise InvalidRequest(f"{who} has a different instance name in its backup file ({quoted(described.name)})")
    if described.type not in ("", "container"):
        raise InvalidRequest(f"{who} has a different instance type in its backup file ({quoted(described.type)})")
    if volume is None:
        raise InvalidRequest(f"{who} has no volume information in its backup file")
    if volume.name != name:
        raise InvalidRequest(f"{who} has a different volume name in its backup file ({quoted(volume.name)})")
    if volume.type not in ("", "container"):
        raise InvalidRequest(f"{who} has a different volume type in its backup file ({quoted(volume.type)})")


def missing(found: Sequence[Found], known: Known) -> list[str]:
    """What must be there before these can be recovered, in the words of LXD. Pure."""
    problems: list[str] = []
    for one in found:
        project = known.projects.get(one.project)
        if project is None:
            problems.append(f"Project {quoted(one.project)}")
        elif one.description is not None and one.description.described is not None:
            described = one.description.described
            owner = project.owner_of("features.profiles")
            problems += [
                f"Profile {quoted(name)} in project {quoted(one.project)}"
                for name in described.profiles or []
                if (owner, name) not in known.profiles
            ]
            owner = project.owner_of("features.networks")
            problems += [
                f"Network {quoted(device['network'])} in project {quoted(one.project)}"
                for device in {**(described.expanded_devices or {}), **(described.devices or {})}.values()
                if device.get("type") == "nic" and device.get("network")
                if (owner, device["network"]) not in known.networks
            ]
    return list(dict.fromkeys(problems))
