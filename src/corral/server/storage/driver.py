"""What a storage driver does. A driver gets plain values, knows no database and no project, and keeps no state.

Every driver is made for one pool: `DRIVERS[name](site)`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

from corral.server.keys import KeyTable
from corral.server.storage.model import VolumeType


@dataclass(frozen=True, slots=True)
class PoolSite:
    """A pool as its driver sees it: `path` is where it is mounted, `loop_file` where its file is if it has one."""

    name: str
    config: Mapping[str, str]
    path: Path
    loop_file: Path
    state_dir: Path

    @property
    def source(self) -> str:
        return self.config.get("source", "")


@dataclass(frozen=True, slots=True)
class StoredVolume:
    """A volume as its driver sees it. `id` is the row's, unique in the server; `path` its directory."""

    id: int
    type: VolumeType
    path: Path


@dataclass(frozen=True, slots=True)
class Space:
    """Bytes and inodes of a pool; no inodes where the file system makes them as needed.

    `available` is what can still be written, which is less than what is not used.
    """

    total: int
    used: int
    available: int
    inodes_total: int = 0
    inodes_used: int = 0


class StorageDriver(Protocol):
    """One way to keep volumes.

    `keys` are the pool's keys besides the common ones. Sizes are bytes, None is no limit.
    """

    keys: ClassVar[KeyTable]

    def __init__(self, site: PoolSite) -> None: ...

    async def create(self) -> dict[str, str]:
        """Make the pool's storage and return its whole config, completed. Leaves nothing when it fails."""

    async def delete(self) -> None:
        """Remove all that is in the pool, unmount it, and remove what `create` made. Repeatable."""

    async def mount(self) -> bool:
        """Mount the pool and say whether it was not mounted yet."""

    async def unmount(self) -> None:
        """Unmount the pool and let go of its devices. Repeatable."""

    async def update(self, config: Mapping[str, str]) -> None:
        """Apply a changed config. Raises where a change cannot be made."""

    async def space(self) -> Space:
        """Size and use of the pool."""

    async def create_volume(self, volume: StoredVolume, size: int | None = None) -> None:
        """Make an empty volume."""

    async def copy_volume(self, source: StoredVolume, target: StoredVolume, size: int | None = None) -> None:
        """Make a writable volume with the contents of another, of a snapshot or of an image."""

    async def rename_volume(self, volume: StoredVolume, path: Path) -> None:
        """Move a volume to another name in the same pool; its snapshots are moved apart from it."""

    async def delete_volume(self, volume: StoredVolume) -> None:
        """Remove a volume or a snapshot and what a guest nested in it. Repeatable."""

    async def set_quota(self, volume: StoredVolume, size: int | None) -> None:
        """Limit a volume, or remove its limit."""

    async def usage(self, volume: StoredVolume) -> int | None:
        """Bytes that a volume refers to, or None where nothing counts them."""

    async def create_snapshot(self, volume: StoredVolume, path: Path) -> None:
        """Keep the present contents of a volume under another path, read-only where the driver can."""


@runtime_checkable
class SealsVolumes(Protocol):
    """Can make a volume read-only."""

    async def seal_volume(self, volume: StoredVolume) -> None: ...


@runtime_checkable
class CountsTogether(Protocol):
    """Can tell the use of many volumes faster than one by one."""

    async def usages(self, volumes: Sequence[StoredVolume]) -> dict[int, int]:
        """Bytes by the volumes' ids; what nothing counts is left out."""


@runtime_checkable
class CountsSnapshots(Protocol):
    """Can tell what each snapshot takes for itself."""

    async def snapshot_usages(self, directory: Path) -> dict[str, int]:
        """Bytes that go with each snapshot in a directory, by name; what nothing counts is left out."""


@runtime_checkable
class ReclaimsSpace(Protocol):
    """Frees what was deleted in the background; can be asked to do it now."""

    async def reclaim(self) -> bool:
        """Wait a little for deleted data to become free; says whether more can be written than before."""


@dataclass(frozen=True, slots=True)
class SentPart:
    """One of the trees that a volume and its snapshots consist of, frozen to be sent.

    `snapshot` is empty for the volume itself; `path` is `/`, or `/a/b` for what is nested there. `uuid` tells receivers
    of a migration what it is. `command` writes it to standard output, the same bytes each time.
    """

    snapshot: str
    path: str
    read_only: bool
    uuid: str
    command: Sequence[str]


@dataclass(frozen=True, slots=True)
class ReceivedPart:
    """One of those trees that was received into a directory, where it is the only entry."""

    snapshot: str
    path: str
    read_only: bool
    directory: Path


@runtime_checkable
class SendsVolumes(Protocol):
    """Can write volumes in a form of its own, and make volumes of that again.

    Both work in a scratch volume, which the caller makes and deletes.
    """

    async def freeze(self, volume: StoredVolume, snapshots: Sequence[str], scratch: StoredVolume) -> list[SentPart]:
        """Freeze what a volume and its snapshots hold now; parts are to be sent in the order of the list."""

    def receiver(self, directory: Path) -> Sequence[str]:
        """The command that makes a part of what it reads from standard input, as the only entry of a directory.

        It trusts what it reads: what comes from elsewhere is received by the confined helper.
        """

    async def settle(self, parts: Sequence[ReceivedPart], volume: StoredVolume) -> None:
        """Put what was received in its places: the volume and its snapshots, none of which may exist."""


@runtime_checkable
class ClonesVolumes(Protocol):
    """Copies within the pool at once, of one moment, sharing the blocks: also of what somebody writes meanwhile."""

    async def clone_volume(self, source: StoredVolume, target: StoredVolume) -> None:
        """Make a writable volume that shares all of its blocks with another volume or snapshot."""
