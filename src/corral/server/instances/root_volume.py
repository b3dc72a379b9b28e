"""The volume of an instance: found, mounted, linked below containers/, and its directory given to its owner."""

import contextlib
import os
from pathlib import Path

from corral.server.context import Context, Member
from corral.server.db.database import Tx
from corral.server.devices import registry
from corral.server.host.isolation.idmap import IdMap
from corral.server.host.threads import in_thread
from corral.server.instances.model import Instance, InstanceType, link_path, snapshots_link_path
from corral.server.storage import store as storage
from corral.server.storage import volumes
from corral.server.storage.model import Volume, VolumeType, snapshot_path


def volume_type(kind: InstanceType) -> VolumeType:
    """The kind of volume that an instance of a kind has."""
    return VolumeType.CONTAINER if kind is InstanceType.CONTAINER else VolumeType.VM


async def get(context: Context, instance: Instance) -> Volume:
    """The instance's volume in the pool of its root disk, or NotFound."""
    return await context.db.read(get_row, instance)


def get_row(tx: Tx, instance: Instance) -> Volume:
    """The same, within a transaction."""
    _, root = registry.find_root_disk(instance.expanded_devices)
    pool = storage.get_pool(tx, root.get("pool", ""))
    return storage.get_volume(tx, pool, instance.project, instance.name, volume_type(instance.type))


async def find(context: Context, instance: Instance) -> Volume | None:
    """The instance's volume in whatever pool it is."""
    return await context.db.read(find_row, instance)


def find_row(tx: Tx, instance: Instance) -> Volume | None:
    """The same, within a transaction."""
    return storage.find_instance_volume(tx, instance.project, instance.name, volume_type(instance.type))


async def mount(context: Context, instance: Instance) -> Path:
    """The instance's mounted directory: holds rootfs/, metadata.yaml, templates/."""
    return await volumes.mount(context, await get(context, instance))


def make_link(member: Member, instance: Instance, target: Path) -> None:
    """Point containers/NAME at the volume, and snapshots/NAME at its snapshots. Repeatable."""
    _point(link_path(member, instance), target)
    link_snapshots(member, instance, target)


def link_snapshots(member: Member, instance: Instance, volume: Path) -> None:
    """Point snapshots/NAME at the directory of a volume's snapshots while it has any. Repeatable."""
    directory = snapshot_path(volume, "x").parent
    link = snapshots_link_path(member, instance)
    if directory.is_dir():
        _point(link, directory)
    else:
        link.unlink(missing_ok=True)


def _point(link: Path, target: Path) -> None:
    wanted = os.path.relpath(target, link.parent)
    with contextlib.suppress(OSError):
        if os.readlink(link) == wanted:
            return
    link.unlink(missing_ok=True)
    link.symlink_to(wanted)


def remove_link(member: Member, instance: Instance) -> None:
    """Remove containers/NAME and snapshots/NAME. Repeatable."""
    link_path(member, instance).unlink(missing_ok=True)
    snapshots_link_path(member, instance).unlink(missing_ok=True)


def set_owner(directory: Path, idmap: IdMap | None) -> None:
    """Let nobody but the container's root pass through the volume's directory."""
    uid = idmap.outside_uid(0) if idmap is not None else 0
    os.chown(directory, uid or 0, 0)
    directory.chmod(0o100)


async def clear_owner(directory: Path) -> None:
    """Take the directory from the container's root again, so that a later owner of those ids cannot pass."""
    await in_thread(set_owner, directory, None)
