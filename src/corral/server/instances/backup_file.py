"""backup.yaml in an instance's volume: its whole description, from which it can be recovered without the database."""

import os
from pathlib import Path
from typing import Any

import msgspec

from corral.server.backups import archive
from corral.server.context import Context
from corral.server.host.threads import in_thread
from corral.server.instances import render, root_volume, snapshot_store, store
from corral.server.instances.model import Instance
from corral.server.storage import volumes
from corral.server.storage.model import Volume


async def write(context: Context, instance: Instance, volume: Volume | None = None) -> None:
    """Write the file anew. Where the volume is gone there is nothing to do."""
    found = volume or await root_volume.find(context, instance)
    if found is None:
        return
    document = await compose(context, instance, found)
    await in_thread(_write, volumes.path(context.member, found) / "backup.yaml", document)


async def compose(context: Context, instance: Instance, volume: Volume) -> dict[str, Any]:
    """The description of an instance, its snapshots, its volume and the pool, in LXD's shape."""
    listed = await context.db.read(store.list_snapshots, [instance.id])
    snapshots = listed.get(instance.id, [])
    configs = await context.db.read(snapshot_store.list_volume_configs, volume.id)
    return {
        "container": msgspec.to_builtins(render.instance(context, instance)),
        "snapshots": [msgspec.to_builtins(render.snapshot(instance, one)) for one in snapshots],
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


def _write(path: Path, document: dict[str, Any]) -> None:
    temporary = path.with_name(".backup.yaml.new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o400)
    with open(fd, "w") as file:
        file.write(archive.render_yaml(document))
    temporary.rename(path)
