"""Instances in their wire form."""

from collections.abc import Mapping, Sequence

from msgspec.structs import asdict

from corral import architectures
from corral.api import instances as wire
from corral.server.backups.store import NEVER, Backup
from corral.server.context import Context
from corral.server.instances import running
from corral.server.instances.model import Instance, Snapshot


def instance(context: Context, one: Instance) -> wire.Instance:
    """An instance with its present status."""
    status = running.status(context, one)
    return wire.Instance(
        architecture=architectures.format_architecture(one.architecture),
        config=one.config,
        devices=one.devices,
        ephemeral=one.ephemeral,
        profiles=list(one.profiles),
        stateful=one.stateful,
        description=one.description,
        created_at=one.created_at,
        expanded_config=one.expanded_config,
        expanded_devices=one.expanded_devices,
        name=one.name,
        status=status.text,
        status_code=status.value,
        last_used_at=one.last_used_at,
        location=context.member.location,
        type=one.type.value,
        project=one.project,
    )


def full(
    context: Context,
    one: Instance,
    state: wire.InstanceState,
    snapshots: list[Snapshot],
    sizes: Mapping[str, int] | None = None,
    backups: Sequence[Backup] = (),
) -> wire.InstanceFull:
    """An instance with its state, backups and snapshots, whose sizes are by their names."""
    known = sizes or {}
    return wire.InstanceFull(
        **asdict(instance(context, one)),
        backups=[backup(each) for each in backups] or None,
        state=state,
        snapshots=[snapshot(one, each, known.get(each.name, -1)) for each in snapshots] or None,
    )


def snapshot(parent: Instance, one: Snapshot, size: int = -1) -> wire.InstanceSnapshot:
    """A snapshot; the size is what it takes for itself, -1 where that is not known."""
    return wire.InstanceSnapshot(
        name=one.name,
        created_at=one.created_at,
        expires_at=one.expires_at,
        last_used_at="0001-01-01T00:00:00Z",
        architecture=architectures.format_architecture(parent.architecture),
        config=one.config,
        devices=one.devices,
        ephemeral=False,
        expanded_config=one.expanded_config,
        expanded_devices=one.expanded_devices,
        profiles=list(parent.profiles),
        stateful=one.stateful,
        size=size,
    )


def backup(one: Backup) -> wire.InstanceBackup:
    """A backup as clients see it."""
    return wire.InstanceBackup(
        name=one.name,
        created_at=one.created_at,
        expires_at=one.expires_at or NEVER,
        instance_only=one.alone,
        container_only=one.alone,
        optimized_storage=one.optimized,
    )
