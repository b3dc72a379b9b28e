"""Deletes instances."""

import contextlib
import shutil
from pathlib import Path

from corral.errors import InvalidRequest
from corral.server.context import Context
from corral.server.db.database import Tx
from corral.server.host.threads import in_thread
from corral.server.instances import busy, root_volume, running, start, store
from corral.server.instances.attachments import attach
from corral.server.instances.model import (
    Instance,
    backups_dir,
    devices_dir,
    log_dir,
    seccomp_path,
    target_path,
)
from corral.server.instances.security import apparmor
from corral.server.instances.sessions import files
from corral.server.instances.snapshots import snapshot_removal
from corral.server.rollback import finish, together
from corral.server.storage import store as storage
from corral.server.storage import volumes
from corral.server.storage.model import Volume
from corral.units import is_true


async def delete_instance(context: Context, project: str, name: str) -> None:
    """Delete a stopped instance with its volume."""
    instance = await context.db.read(store.get_instance, project, name)
    async with busy.claim(context, instance.id, "delete") as waited:
        if waited:
            # Somebody else deleted it or failed to; without a wait nobody changed it since it was read.
            found = await context.db.read(store.find_instance, instance.id)
            if found is None:
                return
            instance = found
        check_deletable(context, instance)
        await remove(context, instance)


def check_deletable(context: Context, instance: Instance) -> None:
    """Raise where the instance runs or is protected."""
    if running.find(context, instance) is not None:
        raise InvalidRequest("Instance is running")
    if is_true(instance.expanded_config.get("security.protection.delete")):
        raise InvalidRequest("Container is protected" if instance.is_container else "Instance is protected")


async def remove(context: Context, instance: Instance) -> None:
    """Remove a stopped instance that the caller has claimed. Once begun it is finished, at the latest at a restart."""
    await finish(_remove(context, instance))


async def _remove(context: Context, instance: Instance) -> None:
    await context.db.write(store.mark_pending, instance.id, "delete")
    await wipe(context, instance)
    start.publish(context, instance, "instance-deleted")


async def wipe(context: Context, instance: Instance) -> None:
    """Remove the snapshots, the volume, the devices' traces, the files and at last the row. Repeatable."""
    files.release(context, instance.id)
    volume = await root_volume.find(context, instance)
    work = [attach.remove_all(context, instance), in_thread(remove_files, context, instance)]
    if volume is not None:
        work.append(_wipe_volume(context, instance, volume))
    await together(*work)
    await context.db.write(_forget, instance, volume)


async def _wipe_volume(context: Context, instance: Instance, volume: Volume) -> None:
    await snapshot_removal.remove_all(context, instance)
    await volumes.unmount(context, volume)
    # The instance's own pending mark tells a restarted daemon to come back here.
    await volumes.delete_contents(context, volume)


def _forget(tx: Tx, instance: Instance, volume: Volume | None) -> None:
    if volume is not None:
        storage.delete_volume(tx, volume.id)
    store.delete_instance(tx, instance.id)


def remove_files(context: Context, instance: Instance) -> None:
    """Remove the link, logs and directories of an instance."""
    member = context.member
    root_volume.remove_link(member, instance)
    apparmor.remove(context, instance)
    for path in (seccomp_path(member, instance), target_path(member, instance)):
        path.unlink(missing_ok=True)
    _remove_tree(log_dir(member, instance))
    _remove_tree(backups_dir(member, instance))
    with contextlib.suppress(OSError):
        devices_dir(member, instance).rmdir()


def _remove_tree(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
