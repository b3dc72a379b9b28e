"""What storage consists of: pools, volumes and where they lie below the state directory. Pure."""

import enum
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from corral.errors import InvalidRequest
from corral.server.context import Member

PENDING, CREATED, ERRORED, UNAVAILABLE = "Pending", "Created", "Errored", "Unavailable"
POOL_STATES = {0: PENDING, 1: CREATED, 2: ERRORED}

MEMBER_KEYS = frozenset(
    {"size", "source", "volatile.initial_source", "zfs.pool_name", "lvm.thinpool_name", "lvm.vg_name"}
)
"""Keys of a pool's config that each member of a cluster has for itself."""


class VolumeType(enum.Enum):
    """What a volume is for; the value is its name in the API."""

    CONTAINER = "container"
    VM = "virtual-machine"
    CUSTOM = "custom"
    IMAGE = "image"

    @property
    def number(self) -> int:
        """The type in the database."""
        return _NUMBERS[self]

    @property
    def directory(self) -> str:
        """The directory of these volumes below the pool's."""
        return _DIRECTORIES[self]

    @property
    def is_instance(self) -> bool:
        return self in (VolumeType.CONTAINER, VolumeType.VM)

    @property
    def mode(self) -> int:
        """The mode of the volume's directory: nobody but root looks into an instance."""
        return 0o100 if self.is_instance else 0o711

    @classmethod
    def of_number(cls, number: int) -> "VolumeType":
        return _OF_NUMBER[number]

    @classmethod
    def parse(cls, name: str) -> "VolumeType":
        try:
            return cls(name)
        except ValueError:
            raise InvalidRequest("Invalid storage volume type name") from None


_NUMBERS = {VolumeType.CONTAINER: 0, VolumeType.IMAGE: 1, VolumeType.CUSTOM: 2, VolumeType.VM: 3}
_OF_NUMBER = {number: kind for kind, number in _NUMBERS.items()}
_DIRECTORIES = {
    VolumeType.CONTAINER: "containers",
    VolumeType.VM: "virtual-machines",
    VolumeType.CUSTOM: "custom",
    VolumeType.IMAGE: "images",
}
POOL_DIRECTORIES = {
    "buckets": 0o711,
    "containers": 0o711,
    "containers-snapshots": 0o711,
    "custom": 0o700,
    "custom-snapshots": 0o700,
    "images": 0o700,
    "virtual-machines": 0o700,
    "virtual-machines-snapshots": 0o700,
}
"""The directories of every pool, with the modes that keep unprivileged users out."""


class ContentType(enum.Enum):
    """What is in a volume: a tree of files, or a disk."""

    FILESYSTEM = "filesystem"
    BLOCK = "block"

    @property
    def number(self) -> int:
        return 0 if self is ContentType.FILESYSTEM else 1


@dataclass(frozen=True, slots=True)
class Pool:
    """A storage pool. `status` is that of the database; whether it is mounted here, `pools.status` knows."""

    id: int
    name: str
    driver: str
    config: Mapping[str, str] = field(default_factory=dict)
    description: str = ""
    status: str = CREATED


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume of a pool. `created_at` is RFC 3339 text."""

    id: int
    pool: Pool
    project: str
    name: str
    type: VolumeType
    content_type: ContentType = ContentType.FILESYSTEM
    config: Mapping[str, str] = field(default_factory=dict)
    description: str = ""
    created_at: str = ""
    pending: str = ""

    @property
    def storage_name(self) -> str:
        """The name on the disk: unique over the projects."""
        return storage_name(self.type, self.project, self.name)


@dataclass(frozen=True, slots=True)
class VolumeSnapshot:
    """A snapshot of a volume. Times are RFC 3339 text; None as expiry is never."""

    id: int
    volume: Volume
    name: str
    config: Mapping[str, str] = field(default_factory=dict)
    description: str = ""
    expires_at: str | None = None
    created_at: str = ""
    pending: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes used and the limit; None where the pool's driver does not count or there is no limit."""

    used: int | None
    total: int | None


@dataclass(frozen=True, slots=True)
class ImageSource:
    """An image to make a volume of: `fill(directory)` unpacks `rootfs/`, `metadata.yaml` and `templates/` into it."""

    fingerprint: str
    fill: Callable[[Path], Awaitable[None]]


def storage_name(kind: VolumeType, project: str, name: str) -> str:
    """The name of a volume on the disk. Custom volumes carry their project always, instances outside the default."""
    if kind is VolumeType.IMAGE or (kind.is_instance and project == "default"):
        return name
    return f"{project}_{name}"


def pool_path(member: Member, pool: str) -> Path:
    """Where a pool is mounted."""
    return member.pools_dir / pool


def loop_file(member: Member, pool: str) -> Path:
    """The file of a pool that lies in a loop device."""
    return member.state_dir / "disks" / f"{pool}.img"


def volume_path(member: Member, pool: str, kind: VolumeType, name_on_disk: str) -> Path:
    """A volume's directory."""
    return member.pools_dir.joinpath(pool, kind.directory, name_on_disk)


def snapshot_path(volume: Path, snapshot: str) -> Path:
    """The directory of a volume's snapshot, from the volume's."""
    parent = volume.parent
    return parent.with_name(f"{parent.name}-snapshots").joinpath(volume.name, snapshot)


def custom_backups_dir(member: Member, volume: Volume) -> Path:
    """Where the backups of a custom volume are."""
    return member.state_dir / "backups" / "custom" / volume.pool.name / volume.storage_name


RENAME = "rename "
"""The beginning of a pending mark: what has a new name in the database, and perhaps still the one after this."""

PARTIAL, FORMER = ".partial-", ".former-"


def partial(path: Path) -> Path:
    """Where a volume is made before it gets its name: what still lies there at the next start is removed."""
    return path.with_name(f"{PARTIAL}{path.name}")


def former(path: Path) -> Path:
    """Where a volume waits for its end while another takes its name."""
    return path.with_name(f"{FORMER}{path.name}")
