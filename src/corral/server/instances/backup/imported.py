"""What imports and recoveries share: snapshots from descriptions that may be hostile, root disks in another pool."""

from collections.abc import Mapping, Sequence

from corral.errors import InvalidRequest
from corral.server.backups.index import Description, IndexedSnapshot
from corral.server.backups.store import NEVER
from corral.server.db.database import Tx
from corral.server.events.model import format_time, utc_now
from corral.server.instances import expand, identities, validation
from corral.server.instances.model import Devices, Instance, Snapshot
from corral.server.instances.security import idmaps
from corral.server.instances.snapshots import snapshot_store
from corral.server.projects import permissions
from corral.server.projects.contents import Entity
from corral.server.snapshots import naming
from corral.server.storage.custom_snapshots import parse_expiry
from corral.server.storage.keys import validate_volume
from corral.server.storage.model import ContentType, Volume, VolumeType

_KEPT_VOLATILE = frozenset(
    {
        "volatile.apply_template",
        "volatile.base_image",
        "volatile.cloud-init.instance-id",
        "volatile.last_state.idmap",
        "volatile.uuid",
    }
)
"""Volatile keys that hold for what is in a backup; the rest is about the server and the moment it was made at."""
_KEPT_ENDINGS = (".hwaddr", ".name")


def plan_snapshots(description: Description, names: Sequence[str], pool: str, inherited: Devices) -> list[Snapshot]:
    """The named snapshots of a description, with their root disks in a pool. Raises InvalidRequest."""
    described = {one.name: one for one in description.snapshots or []}
    missing = set(names) - set(described)
    if missing:
        raise InvalidRequest(f"Snapshot {min(missing)!r} is not described")
    return [_snapshot(described[name], pool, inherited) for name in names]


def _snapshot(one: IndexedSnapshot, pool: str, inherited: Devices) -> Snapshot:
    naming.check_name(one.name)
    devices = expand.with_root_in(pool, one.devices or {}, inherited)
    try:
        config = kept_config(one.config)
        validation.check_config(config, None)
        validation.check_devices(devices, None, expanded=False)
    except InvalidRequest as error:
        raise InvalidRequest(f"Snapshot {one.name!r}: {error}") from error
    return Snapshot(
        0,
        0,
        one.name,
        one.created_at or format_time(utc_now()),
        parse_expiry(one.expires_at) or NEVER,
        False,
        one.description,
        config,
        devices,
    )


def write_snapshots(
    tx: Tx,
    instance: Instance,
    volume: Volume,
    snapshots: Sequence[Snapshot],
    volume_configs: Mapping[str, Mapping[str, str]],
) -> None:
    """Write the rows of snapshots that came with an instance, as far as its project allows what is in them."""
    if snapshots:
        permissions.check_snapshots(tx, instance.project)
    for one in snapshots:
        name = f"{instance.name}/{one.name}"
        permissions.check_entity(tx, instance.project, Entity(instance.type.value, name, one.config, one.devices))
        snapshot_store.finish_snapshot(tx, snapshot_store.insert_copy(tx, instance.id, one), volume.id)
        snapshot_store.write_volume_config(tx, volume.id, one.name, volume_configs.get(one.name, {}))


def volume_configs(description: Description) -> dict[str, dict[str, str]]:
    """The configs of the volume's snapshots, as far as volumes of instances have such keys."""
    return {one.name.rpartition("/")[2]: volume_config(one.config) for one in description.volume_snapshots or []}


def volume_config(config: Mapping[str, str] | None) -> dict[str, str]:
    """The config of an instance's volume, as far as it has such keys. Raises InvalidRequest."""
    kept = {key: value for key, value in (config or {}).items() if value and is_volume_key(key)}
    validate_volume(kept, "", VolumeType.CONTAINER, ContentType.FILESYSTEM)
    return kept


def is_volume_key(key: str) -> bool:
    """Whether a key of an instance's volume is taken over."""
    return key.startswith(("user.", "snapshots."))


def kept_config(config: Mapping[str, str] | None) -> dict[str, str]:
    """A config without the volatile keys that were about another server or moment. Raises InvalidRequest."""
    kept = {key: value for key, value in (config or {}).items() if value and _holds(key)}
    try:
        idmaps.of_text(kept.get("volatile.last_state.idmap"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidRequest("volatile.last_state.idmap is no id map") from error
    return kept


def own_config(tx: Tx, config: Mapping[str, str]) -> dict[str, str]:
    """The instance's config; where the one that was saved is still there, without what tells it apart."""
    kept = kept_config(config)
    identity = kept.get("volatile.uuid", "")
    taken = tx.rows("SELECT 1 FROM instances_config WHERE key = 'volatile.uuid' AND value = ?", identity)
    if taken or not identity:
        kept = {key: value for key, value in kept.items() if not key.endswith(".hwaddr")}
        for key in (identities.UUID, identities.CLOUD_INIT):
            kept.pop(key, None)
    identities.add(kept)
    return kept


def _holds(key: str) -> bool:
    return not key.startswith("volatile.") or key in _KEPT_VOLATILE or key.endswith(_KEPT_ENDINGS)
