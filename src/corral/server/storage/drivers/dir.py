"""The driver `dir`: volumes are directories, copies are copies. Limits where the file system keeps project quotas."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from corral.errors import InvalidRequest
from corral.server.host.filesystems import mount, project_quota
from corral.server.host.programs import command
from corral.server.host.threads import in_thread
from corral.server.keys import KeyTable
from corral.server.storage import tree
from corral.server.storage.driver import PoolSite, Space, StoredVolume

log = logging.getLogger(__name__)

FIRST_PROJECT = 10000
"""Project ids of volumes start here, above those that an administrator is likely to have given."""


class DirDriver:
    """Volumes as directories on whatever file system the source lies on."""

    keys: ClassVar[KeyTable] = KeyTable()

    def __init__(self, site: PoolSite) -> None:
        self._site = site

    async def create(self) -> dict[str, str]:
        config = dict(self._site.config)
        source = Path(os.path.normpath(config.get("source") or self._site.path))
        config["source"] = config.get("source") or str(self._site.path)
        if not source.is_absolute() or not source.is_dir():
            raise InvalidRequest(f"Source path '{source}' doesn't exist")
        if source != self._site.path and source.is_relative_to(self._site.state_dir):
            raise InvalidRequest(f"Source path '{source}' is within the {self._site.state_dir} directory")
        if await in_thread(os.listdir, source):
            raise InvalidRequest(f"Source path '{source}' isn't empty")
        return config

    async def delete(self) -> None:
        await tree.empty_directory(self._site.path)
        await self.unmount()

    async def mount(self) -> bool:
        if self._is_own_directory():
            return False
        if await in_thread(mount.is_mount_point, self._site.path):
            return False
        if not Path(self._site.source).is_dir():
            raise InvalidRequest(f"Source path '{self._site.source}' doesn't exist")
        await in_thread(mount.bind, self._site.source, self._site.path)
        return True

    async def unmount(self) -> None:
        if not self._is_own_directory():
            await in_thread(mount.ensure_unmounted, self._site.path)

    async def update(self, config: Mapping[str, str]) -> None:
        """Nothing of a directory's config has an effect on what is there."""

    async def space(self) -> Space:
        return await tree.measure(self._site.path)

    async def create_volume(self, volume: StoredVolume, size: int | None = None) -> None:
        await in_thread(tree.make_directory, volume.path, volume.type.mode)
        await self.set_quota(volume, size)

    async def copy_volume(self, source: StoredVolume, target: StoredVolume, size: int | None = None) -> None:
        # The limit is set on the empty directory: what is copied into it inherits the project.
        await self.create_volume(target, size)
        argv = ["cp", "-a", "--reflink=auto", "--sparse=auto", "--", f"{source.path}/.", str(target.path)]
        await command.run(argv, timeout_s=tree.COPY_TIMEOUT_S)
        await in_thread(os.chmod, target.path, target.type.mode)

    async def rename_volume(self, volume: StoredVolume, path: Path) -> None:
        await tree.rename(volume.path, path)

    async def delete_volume(self, volume: StoredVolume) -> None:
        device = await in_thread(project_quota.find_device, self._site.path)
        await tree.remove_tree(volume.path)
        if device is not None:
            await in_thread(project_quota.set_limit, device, _project(volume), None)

    async def set_quota(self, volume: StoredVolume, size: int | None) -> None:
        device = await in_thread(project_quota.find_device, volume.path)
        if device is None:
            if size:
                log.warning(
                    "The backing filesystem doesn't support quotas, skipping set quota: %s (%d bytes)",
                    volume.path,
                    size,
                )
            return
        await in_thread(_limit, device, volume, size)

    async def usage(self, volume: StoredVolume) -> int | None:
        device = await in_thread(project_quota.find_device, volume.path)
        if device is None:
            return None
        return await in_thread(project_quota.get_usage, device, _project(volume))

    async def usages(self, volumes: Sequence[StoredVolume]) -> dict[int, int]:
        return await in_thread(_list_usages, self._site.path, volumes)

    async def create_snapshot(self, volume: StoredVolume, path: Path) -> None:
        await in_thread(tree.make_directory, path, volume.type.mode)
        argv = ["cp", "-a", "--reflink=auto", "--sparse=auto", "--", f"{volume.path}/.", str(path)]
        await command.run(argv, timeout_s=tree.COPY_TIMEOUT_S)
        if await in_thread(project_quota.find_device, path) is not None:
            await in_thread(project_quota.set_project, path, 0)

    def _is_own_directory(self) -> bool:
        return os.path.normpath(self._site.source or self._site.path) == str(self._site.path)


def _list_usages(pool: Path, volumes: Sequence[StoredVolume]) -> dict[int, int]:
    device = project_quota.find_device(pool)
    if device is None:
        return {}
    return {volume.id: project_quota.get_usage(device, _project(volume)) for volume in volumes}


def _project(volume: StoredVolume) -> int:
    return FIRST_PROJECT + volume.id


def _limit(device: str, volume: StoredVolume, size: int | None) -> None:
    project = _project(volume)
    if project_quota.get_project(volume.path) != project:
        project_quota.set_project(volume.path, project)
    project_quota.set_limit(device, project, size)
