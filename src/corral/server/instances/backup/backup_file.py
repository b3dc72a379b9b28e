"""backup.yaml in an instance's volume: its whole description, from which it can be recovered without the database."""

import contextlib
import errno
import logging
import os
from pathlib import Path
from typing import Any

import msgspec

from corral.errors import CorralError, NotFound
from corral.server.backups import archive
from corral.server.context import Context
from corral.server.db.database import Tx
from corral.server.host.threads import in_thread
from corral.server.instances import identities, render, root_volume, store
from corral.server.instances.model import Instance
from corral.server.instances.snapshots import snapshot_store
from corral.server.storage import volumes
from corral.server.storage.model import Volume

log = logging.getLogger(__name__)


class Outdated(set[int]):
    """The ids of instances whose file may lag behind: the volume was full when it was to be written, or a daemon died
    after it changed the record. One part of the daemon."""


def _sign(context: Context) -> Path:
    """A file that is there while the daemon runs, and stays where it dies or leaves files that lag behind."""
    return context.member.state_dir / ".running"


async def add_part(context: Context) -> None:
    """Make the part that knows whose file lags behind; after a daemon that died, it may be any."""
    outdated = context.parts.add(Outdated())
    if await in_thread(_sign(context).exists):
        outdated.update(one.id for one in await context.db.read(store.list_instances))
    await in_thread(_sign(context).touch, 0o600)


async def close_part(context: Context) -> None:
    """The daemon ends in order."""
    if not context.parts[Outdated]:
        await in_thread(_sign(context).unlink, missing_ok=True)


async def write(context: Context, instance: Instance, volume: Volume | None = None) -> None:
    """Write the file anew. Where the volume is gone there is nothing to do.

    A full volume is no error: the old file stays until there is room (`write_outdated`), and what the user does to get
    out of it (deleting snapshots, a larger size) goes on.
    """

    def read(tx: Tx) -> tuple[Volume, dict[str, Any]] | None:
        found = volume or root_volume.find_row(tx, instance)
        return (found, describe(tx, context, instance, found)) if found is not None else None

    async with context.locks.hold("backup.yaml", instance.id):
        described = await context.db.read(read)
        if described is not None:
            await _store(context, instance, *described)


async def _store(context: Context, instance: Instance, found: Volume, document: dict[str, Any]) -> None:
    try:
        await in_thread(_write, volumes.path(context.member, found) / "backup.yaml", document)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        log.warning("The volume of %s is full: its backup.yaml waits for room", instance.storage_name)
        context.parts[Outdated].add(instance.id)
    else:
        context.parts[Outdated].discard(instance.id)


async def write_again(context: Context, instance_id: int) -> None:
    """Write the file as the instance is now; nothing where it is gone or its volume is away."""
    instance = await context.db.read(store.find_instance, instance_id)
    if instance is not None and not instance.pending:
        with contextlib.suppress(OSError, CorralError):
            await write(context, instance)


async def write_of(context: Context, volume: Volume) -> None:
    """Write the file of the instance that a volume belongs to, after the volume changed."""
    with contextlib.suppress(NotFound):
        await write(context, await context.db.read(store.get_instance, volume.project, volume.name))


async def write_outdated(context: Context) -> None:
    """Write the files again that lag behind, or may do so; those in pools that are away wait for these."""
    for instance_id in list(context.parts[Outdated]):
        instance = await context.db.read(store.find_instance, instance_id)
        if instance is None:
            context.parts[Outdated].discard(instance_id)
        elif not instance.pending:
            with contextlib.suppress(OSError, CorralError):
                await write(context, instance)


async def compose(context: Context, instance: Instance, volume: Volume) -> dict[str, Any]:
    """The description of an instance, its snapshots, its volume and the pool, in LXD's shape."""
    return await context.db.read(describe, context, instance, volume)


def describe(tx: Tx, context: Context, instance: Instance, volume: Volume) -> dict[str, Any]:
    """The same, within a transaction."""
    snapshots = store.list_snapshots(tx, [instance.id]).get(instance.id, [])
    configs = snapshot_store.list_volume_configs(tx, volume.id)
    return {
        "container": _shown(render.instance(context, instance)),
        "snapshots": [_shown(render.snapshot(instance, one)) for one in snapshots],
        "profiles": [
            {"config": dict(one.config), "devices": dict(one.devices), "name": one.name, "used_by": []}
            for one in store.get_profiles(tx, instance.project, instance.profiles)
        ],
        "pool": {
            "name": volume.pool.name,
            "driver": volume.pool.driver,
            "description": volume.pool.description,
            "status": volume.pool.status,
            "config": dict(volume.pool.config),
        },
        "volume": {
            "name": volume.name,
            "type": volume.type.value,
            "content_type": volume.content_type.value,
            "project": volume.project,
            "description": volume.description,
            "location": context.member.location,
            "config": dict(volume.config),
        },
        "volume_snapshots": [
            {
                "name": one.name,
                "description": one.description,
                "config": configs.get(one.name, {}),
                "content_type": volume.content_type.value,
                "created_at": one.created_at,
                "expires_at": one.expires_at,
            }
            for one in snapshots
        ],
    }


def _shown(record: msgspec.Struct) -> dict[str, Any]:
    """A record without the key that LXD 5.0 refuses; an import gives a new one anyway."""
    shown: dict[str, Any] = msgspec.to_builtins(record)
    for part in ("config", "expanded_config"):
        shown[part] = {key: value for key, value in (shown.get(part) or {}).items() if key != identities.GENERATION}
    return shown


def _open_present(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def _write(path: Path, document: dict[str, Any]) -> None:
    text = archive.render_yaml(document)
    with contextlib.suppress(OSError, ValueError), open(path, opener=_open_present) as present:
        if present.read(len(text) + 1) == text:
            return
    temporary = path.with_name(".backup.yaml.new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o400)
    with open(fd, "w") as file:
        file.write(text)
    temporary.rename(path)
