"""Wire form of storage pools and volumes."""

from datetime import datetime

import msgspec


class StoragePoolPut(msgspec.Struct, kw_only=True):
    """What can be changed of a pool."""

    config: dict[str, str] | None = None
    description: str = ""


class StoragePoolsPost(StoragePoolPut, kw_only=True):
    """A new pool."""

    name: str = ""
    driver: str = ""


class StoragePool(msgspec.Struct, kw_only=True):
    """A pool as GET shows it."""

    config: dict[str, str]
    description: str
    name: str
    driver: str
    used_by: list[str]
    status: str
    locations: list[str]


class StoragePoolSpace(msgspec.Struct, kw_only=True):
    """Bytes, or inodes, of a pool."""

    used: int
    total: int


class StoragePoolResources(msgspec.Struct, kw_only=True):
    """How full a pool is."""

    space: StoragePoolSpace
    inodes: StoragePoolSpace


class StorageVolumePut(msgspec.Struct, kw_only=True):
    """What can be changed of a volume."""

    config: dict[str, str] | None = None
    description: str = ""
    restore: str = ""


class StorageVolumeSource(msgspec.Struct, kw_only=True):
    """What a new volume is made of: nothing where `type` is empty."""

    name: str = ""
    type: str = ""
    pool: str = ""
    certificate: str = ""
    mode: str = ""
    operation: str = ""
    secrets: dict[str, str] | None = None
    volume_only: bool = False
    refresh: bool = False
    project: str = ""


class StorageVolumesPost(StorageVolumePut, kw_only=True):
    """A new volume."""

    name: str = ""
    type: str = ""
    source: StorageVolumeSource | None = None
    content_type: str = ""


class StorageVolumePostTarget(msgspec.Struct, kw_only=True):
    """Where a volume migrates to in push mode."""

    certificate: str = ""
    operation: str = ""
    secrets: dict[str, str] | None = None


class StorageVolumePost(msgspec.Struct, kw_only=True):
    """A volume's new name, pool or project."""

    name: str = ""
    pool: str = ""
    migration: bool = False
    target: StorageVolumePostTarget | None = None
    volume_only: bool = False
    project: str = ""


class StorageVolume(msgspec.Struct, kw_only=True):
    """A volume as GET shows it."""

    config: dict[str, str]
    description: str
    name: str
    type: str
    used_by: list[str]
    location: str
    content_type: str
    project: str
    created_at: str


class StorageVolumeStateUsage(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Bytes used, absent where nothing counts them, and the limit, 0 for none."""

    total: int
    used: int = 0


class StorageVolumeState(msgspec.Struct, kw_only=True):
    """How full a volume is."""

    usage: StorageVolumeStateUsage


class StorageVolumeSnapshotPut(msgspec.Struct, kw_only=True):
    """What can be changed of a volume's snapshot."""

    description: str = ""
    expires_at: datetime | None = None


class StorageVolumeSnapshotsPost(msgspec.Struct, kw_only=True):
    """A new snapshot; its name is chosen where it is empty."""

    name: str = ""
    expires_at: datetime | None = None


class StorageVolumeSnapshotPost(msgspec.Struct, kw_only=True):
    """A snapshot's new name."""

    name: str = ""


class StorageVolumeSnapshot(msgspec.Struct, kw_only=True):
    """A volume's snapshot as GET shows it."""

    description: str
    expires_at: str | None
    name: str
    config: dict[str, str]
    content_type: str
    created_at: str


class StorageVolumeBackupsPost(msgspec.Struct, kw_only=True):
    """A backup to make. Without a name it gets the next of its series; without an expiry it stays."""

    name: str = ""
    expires_at: datetime | None = None
    volume_only: bool = False
    optimized_storage: bool = False
    compression_algorithm: str = ""


class StorageVolumeBackupPost(msgspec.Struct, kw_only=True):
    """The new name of a backup."""

    name: str = ""


class StorageVolumeBackup(msgspec.Struct, kw_only=True):
    """A backup of a custom volume."""

    name: str
    created_at: str
    expires_at: str
    volume_only: bool
    optimized_storage: bool
