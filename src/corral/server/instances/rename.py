"""Renames stopped instances, in steps that a restart of the daemon finishes."""

import contextlib
import logging
from dataclasses import replace

from corral.api.urls import url
from corral.errors import AlreadyExists, InvalidRequest
from corral.server.context import Context
from corral.server.db.database import Tx
from corral.server.events.model import Lifecycle
from corral.server.host.threads import in_thread
from corral.server.instances import busy, identities, names, root_volume, running, store
from corral.server.instances.attachments import attach
from corral.server.instances.backup import backup_file
from corral.server.instances.model import Instance, backups_dir, log_dir
from corral.server.instances.security import apparmor
from corral.server.instances.sessions import files
from corral.server.rollback import finish
from corral.server.storage import store as storage
from corral.server.storage import volumes

log = logging.getLogger(__name__)

PENDING = "rename "
"""The pending mark's beginning; the new name follows."""


async def rename_instance(context: Context, project: str, name: str, new_name: str, *, templates: bool = True) -> None:
    """Give a stopped instance another name; its templates for renamed ones are applied at the next start."""
    names.check_name(new_name)
    instance = await context.db.read(store.get_instance, project, name)
    async with busy.claim(context, instance.id, "rename", ()):
        instance = await context.db.read(store.reload, instance.id)
        if running.find(context, instance) is not None:
            raise InvalidRequest("Renaming of running container not allowed")
        renamed = await finish(_rename(context, instance, new_name, templates=templates))
    source = url("/1.0/instances", renamed.name, project=project)
    context.events.publish(Lifecycle("instance-renamed", source, project, context={"old_name": name}))


async def _rename(context: Context, instance: Instance, new_name: str, *, templates: bool) -> Instance:
    files.release(context, instance.id)
    await context.db.write(_begin, instance, new_name)
    volume = await root_volume.find(context, instance)
    try:
        if volume is not None:
            await volumes.rename(context, volume, new_name)
    except BaseException:
        await context.db.write(store.mark_pending, instance.id, "")
        raise
    return await _finish(context, instance, new_name, templates=templates)


def check_free(tx: Tx, project: str, name: str) -> None:
    """Raise AlreadyExists where an instance of a project has the name."""
    if name in store.list_names(tx, project):
        raise AlreadyExists(f'Name "{name}" already in use')


def _begin(tx: Tx, instance: Instance, new_name: str) -> None:
    check_free(tx, instance.project, new_name)
    store.mark_pending(tx, instance.id, PENDING + new_name)


async def _finish(context: Context, instance: Instance, new_name: str, *, templates: bool = True) -> Instance:
    await attach.remove_all(context, instance)
    renamed = replace(instance, name=new_name)
    await in_thread(move_files, context, instance, renamed)

    def write(tx: Tx) -> Instance:
        store.rename_instance(tx, instance, new_name)
        # A new name is a new machine for cloud-init.
        values: dict[str, str | None] = {}
        if templates:
            values[identities.CLOUD_INIT] = identities.new_machine()
        if templates and instance.config.get("volatile.base_image"):
            values["volatile.apply_template"] = instance.config.get("volatile.apply_template") or "rename"
        store.set_config(tx, instance.id, values)
        return store.reload(tx, instance.id)

    renamed = await context.db.write(write)
    await relink(context, renamed)
    await backup_file.write(context, renamed)
    return await context.db.write(store.finish_instance, instance.id)


def move_files(context: Context, old: Instance, new: Instance) -> None:
    """Move the logs and backups of an instance to its new name; its links are made anew by `relink`. Repeatable."""
    root_volume.remove_link(context.member, old)
    apparmor.remove(context, old)
    for directory in (log_dir, backups_dir):
        with contextlib.suppress(FileNotFoundError):
            directory(context.member, old).rename(directory(context.member, new))


async def relink(context: Context, instance: Instance) -> None:
    """Make the link of an instance anew."""
    volume = await root_volume.find(context, instance)
    if volume is not None:
        directory = volumes.path(context.member, volume)
        await in_thread(root_volume.make_link, context.member, instance, directory)


async def resume(context: Context, instance: Instance) -> None:
    """Finish or undo a rename that the daemon's death cut short."""
    new_name = instance.pending.removeprefix(PENDING)
    kind = root_volume.volume_type(instance.type)
    moved = await context.db.read(storage.find_instance_volume, instance.project, new_name, kind)
    if moved is None:
        await context.db.write(store.mark_pending, instance.id, "")
        return
    directory = volumes.path(context.member, moved)
    former = volumes.path(context.member, replace(moved, name=instance.name))
    if not directory.exists() and former.exists():
        await in_thread(former.rename, directory)
    await _finish(context, instance, new_name)
    log.info("Finished the rename of %s to %s", instance.storage_name, new_name)
