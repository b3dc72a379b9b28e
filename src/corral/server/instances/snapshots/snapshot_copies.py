"""Rows of snapshots that are like those of another instance."""

from collections.abc import Mapping
from dataclasses import replace

from corral.server.db.database import Tx
from corral.server.devices import registry
from corral.server.instances import expand, store
from corral.server.instances.model import Instance, Snapshot
from corral.server.instances.snapshots import snapshot_store
from corral.server.storage.model import Volume


def begin(tx: Tx, instance: Instance, snapshot: Snapshot) -> int:
    """Give an instance a snapshot like another's, in the making; its root disk is in this instance's pool."""
    _, root = registry.find_root_disk(instance.expanded_devices)
    inherited = expand.expand_devices(store.get_profiles(tx, instance.project, instance.profiles), {})
    devices = expand.with_root_in(root["pool"], snapshot.devices, inherited)
    return snapshot_store.insert_copy(tx, instance.id, replace(snapshot, devices=devices))


def finish(tx: Tx, snapshot_id: int, volume: Volume, name: str, config: Mapping[str, str]) -> None:
    """Mark such a snapshot as whole; `config` is that of its volume's snapshot."""
    snapshot_store.finish_snapshot(tx, snapshot_id, volume.id)
    snapshot_store.write_volume_config(tx, volume.id, name, config)
