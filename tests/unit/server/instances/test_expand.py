"""Profiles and own configuration put together."""

from corral.server.instances.expand import changed_devices, changed_keys, expand_config, expand_devices
from corral.server.instances.model import Profile


def test_later_profiles_win_and_the_instance_over_all() -> None:
    profiles = [Profile("a", {"x": "1", "y": "1"}), Profile("b", {"y": "2", "z": "2"})]
    assert expand_config(profiles, {"z": "3"}) == {"x": "1", "y": "2", "z": "3"}
    assert expand_config([], {}) == {}


def test_a_device_replaces_the_one_of_the_same_name_as_a_whole() -> None:
    profiles = [
        Profile("a", {}, {"root": {"type": "disk", "size": "1GiB"}}),
        Profile("b", {}, {"eth0": {"type": "nic"}}),
    ]
    expanded = expand_devices(profiles, {"root": {"type": "none"}})
    assert expanded == {"root": {"type": "none"}, "eth0": {"type": "nic"}}
    expanded["eth0"]["name"] = "changed"
    assert profiles[1].devices == {"eth0": {"type": "nic"}}


def test_changed_keys_take_absent_for_empty() -> None:
    assert changed_keys({"a": "1", "b": ""}, {"a": "2", "c": "3"}) == ["a", "c"]


def test_changed_devices() -> None:
    before = {"a": {"type": "nic"}, "b": {"type": "disk"}, "c": {"type": "nic", "mtu": "1"}, "d": {"type": "none"}}
    after = {"b": {"type": "none"}, "c": {"type": "nic", "mtu": "2"}, "d": {"type": "none"}, "e": {"type": "disk"}}
    assert changed_devices(before, after) == (["a", "b"], ["b", "e"], ["c"])
