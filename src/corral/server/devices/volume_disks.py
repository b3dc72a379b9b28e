"""Custom volumes as disks: found, mounted, and owned so that the container's users can use them.

A volume with `security.unmapped` is shown as it lies, one with `security.shifted` through the container's id map. Any
other one is owned on the disk by the map of the containers that use it, which is remembered in `volatile.idmap.last`.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from corral import units
from corral.errors import InvalidRequest, NotFound
from corral.server.context import Context
from corral.server.devices.model import DeviceContext
from corral.server.host.filesystems import mount
from corral.server.host.isolation.idmap import IdMap
from corral.server.host.threads import in_thread
from corral.server.projects import store as projects
from corral.server.storage import owners, store, volumes
from corral.server.storage.model import ContentType, Pool, Volume, VolumeType

_LAST = "volatile.idmap.last"
_NEXT = "volatile.idmap.next"


@dataclass(frozen=True, slots=True)
class Source:
    """What a disk shows: a path of the host, whether it takes the id map, and the file system of a block device.

    `beneath` is the directory that no link of the path may leave, None where any may be followed.
    """

    path: Path
    is_shifted: bool = False
    fstype: str = ""
    beneath: Path | None = None


async def find(device: DeviceContext, pool: Pool) -> Volume:
    """The custom volume that a disk names. Raises InvalidRequest where a container cannot have it."""
    project = await volume_project(device.context, device.project)
    name = device.config.get("source", "")
    volume = await device.context.db.read(store.find_volume, pool, project, name, VolumeType.CUSTOM)
    if volume is None:
        raise InvalidRequest(f'Failed loading custom volume: Storage volume "{name}" not found in pool "{pool.name}"')
    if volume.content_type is not ContentType.FILESYSTEM:
        raise InvalidRequest("Custom block volumes cannot be used on containers")
    if not device.config.get("path"):
        raise InvalidRequest("Custom filesystem volumes require a path to be defined")
    return volume


async def volume_project(context: Context, project: str) -> str:
    """The project whose custom volumes a project uses."""
    if project == "default":
        return project
    config = (await context.db.read(projects.get_project, project)).config
    return project if units.is_true(config.get("features.storage.volumes")) else "default"


async def mount_volume(device: DeviceContext) -> Source:
    """Mount the volume of a disk and make its owners fit."""
    context = device.context
    pool = await context.db.read(store.get_pool, device.config["pool"])
    try:
        volume = await find(device, pool)
    except NotFound as error:
        raise InvalidRequest(f'Failed to start device "{device.device}": {error}') from error
    path = await volumes.mount(context, volume)
    async with context.locks.hold("volume owners", volume.id):
        shifted = await _fit_owners(device, volume, path)
    return Source(path, shifted)


async def _fit_owners(device: DeviceContext, volume: Volume, path: Path) -> bool:
    """Change the owners on the disk where that is needed; tells whether the mount takes the id map."""
    if units.is_true(volume.config.get("security.unmapped")):
        return False
    await owners.put_back(device.context, volume)
    present = _parse(volume.config.get(_LAST))
    if units.is_true(volume.config.get("security.shifted")):
        wanted, shifted = None, not device.privileged
        if shifted and not await in_thread(mount.supports_idmapped_mounts, path):
            raise InvalidRequest(
                f'Failed to start device "{device.device}": the volume is shifted, and the kernel offers no idmapped '
                f'mounts for its file system (pool "{volume.pool.name}")'
            )
    else:
        wanted, shifted = device.idmap, False
    if wanted != present:
        await _check_others(device, volume)
        await owners.shift(device.context, volume, path, present or IdMap(), wanted or IdMap())
    text = json.dumps(wanted.to_json() if wanted is not None else [])
    if volume.config.get(_LAST) != text or volume.config.get(_NEXT) != text:
        config = {**volume.config, _LAST: text, _NEXT: text}
        await device.context.db.write(store.update_volume, volume.id, volume.description, config)
    await owners.settle(device.context, volume)
    return shifted


def _parse(text: str | None) -> IdMap | None:
    entries = json.loads(text) if text else []
    return IdMap.from_json(entries) if entries else None


async def _check_others(device: DeviceContext, volume: Volume) -> None:
    """Raise InvalidRequest where another running container uses the volume by another map."""
    if device.shares_volume is not None and await device.shares_volume(volume.pool.name, volume.name):
        raise InvalidRequest(
            f'Failed to start device "{device.device}": Idmaps of container "{device.instance}" and storage volume '
            f'"{volume.name}" are not identical: the volume is used by another running container (set '
            "security.shifted=true on the volume to share it)"
        )
