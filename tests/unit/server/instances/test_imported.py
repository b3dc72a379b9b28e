"""Instances that come from elsewhere: what is taken over of their descriptions."""

import pytest

from corral.errors import InvalidRequest
from corral.server.backups.index import Description, IndexedSnapshot
from corral.server.instances.backup.imported import kept_config, plan_snapshots, volume_config
from corral.server.instances.expand import with_root_in


def test_the_root_disk_goes_to_the_pool() -> None:
    root = {"type": "disk", "path": "/", "pool": "old"}
    assert with_root_in("new", {"root": root}, {})["root"]["pool"] == "new"
    assert with_root_in("old", {}, {"root": root}) == {}
    assert with_root_in("new", {}, {"root": {**root, "size": "1GiB"}}) == {
        "root": {"type": "disk", "path": "/", "pool": "new", "size": "1GiB"}
    }
    assert with_root_in("new", {}, {}) == {"root": {"type": "disk", "path": "/", "pool": "new"}}


def test_only_some_volatile_keys_are_taken_over() -> None:
    config = {
        "user.a": "1",
        "volatile.eth0.hwaddr": "00:16:3e:00:00:01",
        "volatile.eth0.host_name": "veth1",
        "volatile.last_state.power": "RUNNING",
        "volatile.idmap.next": "[]",
        "volatile.last_state.idmap": "[]",
        "volatile.root.apply_quota": "1GiB",
    }
    assert sorted(kept_config(config)) == ["user.a", "volatile.eth0.hwaddr", "volatile.last_state.idmap"]


@pytest.mark.parametrize("text", ["x", "{}1", '[{"a": 1}]', "[1]", "5"])
def test_a_malformed_idmap(text: str) -> None:
    with pytest.raises(InvalidRequest):
        kept_config({"volatile.last_state.idmap": text})


def test_volumes_of_instances_keep_the_keys_that_they_can_have() -> None:
    assert volume_config({"user.a": "1", "zfs.blocksize": "4KiB", "size": "1GiB"}) == {"user.a": "1"}
    with pytest.raises(InvalidRequest):
        volume_config({"snapshots.expiry": "never ever"})


@pytest.mark.parametrize(
    "snapshot",
    [
        IndexedSnapshot(name="../x"),
        IndexedSnapshot(name="a", config={"no.such.key": "1"}),
        IndexedSnapshot(name="a", config={"limits.memory": "much"}),
        IndexedSnapshot(name="a", devices={"d": {"type": "no-such-type"}}),
        IndexedSnapshot(name="a", expires_at="tomorrow"),
        IndexedSnapshot(name="b"),
    ],
)
def test_bad_snapshots(snapshot: IndexedSnapshot) -> None:
    description = Description(snapshots=[snapshot])
    with pytest.raises(InvalidRequest):
        plan_snapshots(description, ["../x" if snapshot.name == "../x" else "a"], "pool", {})
