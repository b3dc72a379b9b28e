"""The driver `btrfs`: volumes are subvolumes, copies are snapshots, limits are quota groups."""

import asyncio
import contextlib
import os
import re
import stat
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from corral.errors import CommandFailed, InvalidRequest, Unavailable
from corral.server.host.filesystems import btrfs, loopdev, mount
from corral.server.host.programs import command
from corral.server.host.threads import in_thread
from corral.server.keys import BOOL, SIZE, STRING, Config, Key, KeyTable
from corral.server.rollback import Rollback
from corral.server.storage import btrfs_streams, tree
from corral.server.storage.driver import PoolSite, ReceivedPart, SentPart, Space, StoredVolume

SIZE_KEY = Key("size", SIZE, scope="local", doc="Size of the loop file, such as 20GiB; it can grow later.")
WIPE = Key("source.wipe", BOOL, default="false", scope="local", doc="Whether to overwrite what is on a block device.")
MOUNT_OPTIONS = Key(
    "btrfs.mount_options", STRING, default="user_subvol_rm_allowed", doc="Options to mount the pool with."
)

_GIB = 2**30
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_UUID_LINKS = Path("/dev/disk/by-uuid")
_UDEV_SOCKET = Path("/run/udev/control")
_UDEV_DEADLINE_S = 10.0
_RECLAIM_DEADLINE_S = 3.0
_RECLAIM_COMMITS = 4


class BtrfsDriver:
    """Volumes as subvolumes of a btrfs in a loop file, on a block device, or of one that is mounted already."""

    keys: ClassVar[KeyTable] = KeyTable(SIZE_KEY, WIPE, MOUNT_OPTIONS)

    def __init__(self, site: PoolSite) -> None:
        self._site = site

    async def create(self) -> dict[str, str]:
        config = {**self._site.config, "volatile.initial_source": self._site.source}
        wipe = Config(config)[WIPE] or False
        if self._site.source in ("", str(self._site.loop_file)):
            config["source"] = str(self._site.loop_file)
            if not config.get("size"):
                config["size"] = await in_thread(_default_size, self._site.state_dir)
            await self._create_loop_file(SIZE.parse(config["size"]))
            return config
        config.pop("size", None)
        if not os.path.isabs(self._site.source):
            raise InvalidRequest('Invalid "source" property')
        if await in_thread(_is_block_device, self._site.source):
            config["source"] = await self._format_device(wipe)
        else:
            await in_thread(self._create_pool_subvolume)
        return config

    async def _create_loop_file(self, size: int) -> None:
        loop_file = self._site.loop_file
        if loop_file.exists():
            raise InvalidRequest(f"The loop file {loop_file} exists already: remove it or give the pool another name")
        async with Rollback() as undo:
            undo.add(loop_file.unlink, missing_ok=True)
            await in_thread(_make_sparse_file, loop_file, size)
            await self._format(loop_file)
            undo.commit()

    async def _format_device(self, wipe: bool) -> str:
        device = self._site.source
        if wipe:
            await command.run(["wipefs", "-a", device])
        await self._format(Path(device))
        uuid = (await command.run(["blkid", "-s", "UUID", "-o", "value", "-p", device])).stdout.strip()
        return uuid if await _link_appears(_UUID_LINKS / uuid) else device

    async def _format(self, target: Path) -> None:
        try:
            await command.run(["mkfs.btrfs", "-q", "-L", self._site.name, target], timeout_s=600)
        except CommandFailed as error:
            raise InvalidRequest(f"Failed to format {target} as btrfs: {error}") from error

    def _create_pool_subvolume(self) -> None:
        source = Path(os.path.normpath(self._site.source))
        if btrfs.is_subvolume(source):
            if btrfs.list_nested(source) or os.listdir(source):
                raise InvalidRequest("Requested btrfs subvolume exists but is not empty")
            return
        own = self._site.path
        if source.is_relative_to(self._site.state_dir) and source != own:
            raise InvalidRequest(f'Only allowed source path under "{self._site.state_dir}" is "{own}"')
        if not btrfs.is_btrfs(source if source.exists() else source.parent):
            raise InvalidRequest("Provided path does not reside on a btrfs filesystem")
        if source.exists():
            try:
                source.rmdir()
            except OSError as error:
                raise InvalidRequest(f"Source path '{source}' isn't empty") from error
        btrfs.create_subvolume(source)

    async def delete(self) -> None:
        if self._is_loop():
            await self.unmount()
            # The blocks of a large file are given back one by one.
            await in_thread(self._site.loop_file.unlink, missing_ok=True)
            return
        path = self._site.path
        # A pool that is not mounted leaves a plain directory, below which nothing is the pool's.
        if await in_thread(btrfs.is_subvolume, path):
            for name in await in_thread(btrfs.list_nested, path):
                if (path / name).exists():
                    await in_thread(btrfs.delete_subvolume_tree, path / name)
            await tree.empty_directory(path)
        await self.unmount()
        if await in_thread(btrfs.is_subvolume, path):
            await in_thread(btrfs.delete_subvolume, path)
            await in_thread(os.mkdir, path, 0o711)

    async def mount(self) -> bool:
        if await in_thread(mount.is_mount_point, self._site.path):
            return False
        source = self._site.source
        options = (Config(self._site.config)[MOUNT_OPTIONS] or "").split(",")
        if self._is_loop():
            if not self._site.loop_file.exists():
                raise Unavailable(f"The loop file {source} of storage pool {self._site.name} is missing")
            await in_thread(_mount_loop_file, self._site.loop_file, self._site.path, options)
        elif _UUID.fullmatch(source):
            await in_thread(mount.mount, _UUID_LINKS / source, self._site.path, "btrfs", options)
        elif await in_thread(_is_block_device, source):
            await in_thread(mount.mount, source, self._site.path, "btrfs", options)
        else:
            await in_thread(_bind, source, self._site.path, options)
        return True

    async def unmount(self) -> None:
        # A loop device of ours detaches itself with its last mount; one that somebody else attached does not.
        await in_thread(mount.ensure_unmounted, self._site.path)
        if self._is_loop():
            for device in await in_thread(loopdev.find_devices, self._site.loop_file):
                await in_thread(loopdev.detach, device)

    async def update(self, config: Mapping[str, str]) -> None:
        before, after = Config(self._site.config), Config(config)
        if before[SIZE_KEY] != after[SIZE_KEY]:
            await self._resize(before[SIZE_KEY] or 0, after[SIZE_KEY] or 0)
        if before[MOUNT_OPTIONS] != after[MOUNT_OPTIONS]:
            options = ["remount", *(after[MOUNT_OPTIONS] or "").split(",")]
            await in_thread(mount.mount, None, self._site.path, None, options)

    async def _resize(self, before: int, after: int) -> None:
        if not self._is_loop():
            raise InvalidRequest("Pool cannot be resized: only pools in a loop file have a size")
        if after < before:
            raise InvalidRequest(f"Pool {self._site.name} cannot be shrunk")
        await in_thread(os.truncate, self._site.loop_file, after)
        for device in await in_thread(loopdev.find_devices, self._site.loop_file):
            await in_thread(loopdev.refresh_capacity, device)
            await command.run(["btrfs", "filesystem", "resize", "max", self._site.path])

    async def space(self) -> Space:
        return await tree.measure(self._site.path)

    async def create_volume(self, volume: StoredVolume, size: int | None = None) -> None:
        await in_thread(_create_subvolume, volume)
        if size:
            await self.set_quota(volume, size)

    async def copy_volume(self, source: StoredVolume, target: StoredVolume, size: int | None = None) -> None:
        await self.clone_volume(source, target)
        if size:
            await self.set_quota(target, size)

    async def clone_volume(self, source: StoredVolume, target: StoredVolume) -> None:
        await in_thread(_snapshot, source.path, target)

    async def rename_volume(self, volume: StoredVolume, path: Path) -> None:
        await tree.rename(volume.path, path)

    async def delete_volume(self, volume: StoredVolume) -> None:
        if not os.path.lexists(volume.path):
            return
        if await in_thread(btrfs.is_subvolume, volume.path):
            await in_thread(btrfs.delete_subvolume_tree, volume.path)
        else:
            await tree.remove_tree(volume.path)

    async def set_quota(self, volume: StoredVolume, size: int | None) -> None:
        if await in_thread(btrfs.find_quota, volume.path) is None:
            if not size:
                return
            await in_thread(btrfs.enable_quota, self._site.path)
        await in_thread(btrfs.set_quota, volume.path, max_referenced=size or None)

    async def usage(self, volume: StoredVolume) -> int | None:
        quota = await in_thread(btrfs.find_quota, volume.path)
        return None if quota is None else quota.referenced

    async def usages(self, volumes: Sequence[StoredVolume]) -> dict[int, int]:
        return await in_thread(_list_usages, volumes)

    async def snapshot_usages(self, directory: Path) -> dict[str, int]:
        try:
            return await in_thread(btrfs.list_usages, directory, exclusive=True)
        except FileNotFoundError:
            return {}

    async def create_snapshot(self, volume: StoredVolume, path: Path) -> None:
        await in_thread(btrfs.snapshot_tree, volume.path, path, read_only=True)

    async def seal_volume(self, volume: StoredVolume) -> None:
        await in_thread(btrfs.set_read_only, volume.path, True)

    async def freeze(self, volume: StoredVolume, snapshots: Sequence[str], scratch: StoredVolume) -> list[SentPart]:
        return await in_thread(btrfs_streams.freeze, volume, snapshots, scratch.path)

    def receiver(self, directory: Path) -> Sequence[str]:
        return btrfs_streams.receiver(directory)

    async def settle(self, parts: Sequence[ReceivedPart], volume: StoredVolume) -> None:
        await in_thread(btrfs_streams.settle, parts, volume)

    async def reclaim(self) -> bool:
        # A commit lets the kernel's cleaner take a deleted subvolume apart; only the commit after that frees its space.
        # On a busy disk the commits themselves take long: some there are whatever the time.
        before, deadline, commits = (await self.space()).available, time.monotonic() + _RECLAIM_DEADLINE_S, 0
        while (await self.space()).available <= before:
            if commits >= _RECLAIM_COMMITS and time.monotonic() > deadline:
                return False
            await in_thread(btrfs.sync, self._site.path)
            await asyncio.sleep(0.1)
            commits += 1
        return True

    def _is_loop(self) -> bool:
        return self._site.source in ("", str(self._site.loop_file))


def _default_size(state_dir: Path) -> str:
    """A fifth of the disk, at least 5 GiB and at most 30."""
    disk = os.statvfs(state_dir)
    return f"{min(max(disk.f_frsize * disk.f_blocks // _GIB // 5, 5), 30)}GiB"


def _make_sparse_file(path: Path, size: int) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.truncate(fd, size)
    finally:
        os.close(fd)


def _is_block_device(path: str) -> bool:
    with contextlib.suppress(OSError):
        return stat.S_ISBLK(os.stat(path).st_mode)
    return False


async def _link_appears(link: Path) -> bool:
    """Wait for udev to make a device's link; without udev nothing will."""
    if not _UDEV_SOCKET.exists():
        return link.exists()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_UDEV_DEADLINE_S):
            while not link.exists():  # noqa: ASYNC110  (udev is another program)
                await asyncio.sleep(0.05)
    return link.exists()


def _mount_loop_file(loop_file: Path, target: Path, options: list[str]) -> None:
    # A device that outlived a killed daemon is used again: a second one of the same file would damage it.
    for device in loopdev.find_devices(loop_file):
        with contextlib.suppress(OSError):
            mount.mount(device, target, "btrfs", options)
            return
    device, fd = loopdev.attach(loop_file, direct_io=True)
    try:
        mount.mount(device, target, "btrfs", options)
    finally:
        os.close(fd)


def _bind(source: str, target: Path, options: list[str]) -> None:
    if not btrfs.is_btrfs(source):
        raise InvalidRequest(f'Source path "{source}" isn\'t btrfs')
    mount.bind(source, target)
    try:
        mount.mount(None, target, None, ["remount", *options])
    except OSError:
        mount.ensure_unmounted(target)
        raise


def _create_subvolume(volume: StoredVolume) -> None:
    btrfs.create_subvolume(volume.path)
    os.chmod(volume.path, volume.type.mode)


def _snapshot(source: Path, target: StoredVolume) -> None:
    btrfs.snapshot_tree(source, target.path)
    os.chmod(target.path, target.type.mode)


def _list_usages(volumes: Sequence[StoredVolume]) -> dict[int, int]:
    counted = {directory: btrfs.list_usages(directory) for directory in {volume.path.parent for volume in volumes}}
    known = ((volume.id, counted[volume.path.parent].get(volume.path.name)) for volume in volumes)
    return {volume_id: used for volume_id, used in known if used is not None}
