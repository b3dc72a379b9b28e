"""backup.yaml in an instance's volume: its whole description, from which it can be recovered without the database."""

import os
from pathlib import Path
from typing import Any

import msgspec
import yaml

from corral.server.context import Context
from corral.server.host.threads import in_thread
from corral.server.instances import render, root_volume, store
from corral.server.instances.model import Instance
from corral.server.storage import volumes
from corral.server.storage.model import Volume

_Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


async def write(context: Context, instance: Instance, volume: Volume | None = None) -> None:
    """Write the file anew. Where the volume is gone there is nothing to do."""
    found = volume or await root_volume.find(context, instance)
    if found is None:
        return
    snapshots = await context.db.read(store.list_snapshots, [instance.id])
    wire = render.instance(context, instance)
    document = {
        "container": msgspec.to_builtins(wire),
        "snapshots": [msgspec.to_builtins(render.snapshot(instance, one)) for one in snapshots.get(instance.id, [])],
        "pool": {
            "name": found.pool.name,
            "driver": found.pool.driver,
            "description": found.pool.description,
            "status": found.pool.status,
            "config": dict(found.pool.config),
        },
        "volume": {
            "name": found.name,
            "type": found.type.value,
            "content_type": found.content_type.value,
            "project": found.project,
            "description": found.description,
            "location": context.member.location,
            "config": dict(found.config),
        },
    }
    await in_thread(_write, volumes.path(context.member, found) / "backup.yaml", document)


def _write(path: Path, document: dict[str, Any]) -> None:
    temporary = path.with_name(".backup.yaml.new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o400)
    with open(fd, "w") as file:
        yaml.dump(document, file, Dumper=_Dumper, default_flow_style=False, sort_keys=False)
    temporary.rename(path)
