"""What is in effect for an instance: its profiles in order, then its own configuration. Pure."""

from collections.abc import Iterable, Mapping

from corral.server.instances.model import Devices, Profile


def expand_config(profiles: Iterable[Profile], config: Mapping[str, str]) -> dict[str, str]:
    """Later profiles win over earlier ones, the instance's own values over all."""
    expanded: dict[str, str] = {}
    for profile in profiles:
        expanded.update(profile.config)
    expanded.update(config)
    return expanded


def expand_devices(profiles: Iterable[Profile], devices: Mapping[str, Mapping[str, str]]) -> Devices:
    """A device replaces the one of the same name as a whole; its keys are not merged."""
    expanded: Devices = {}
    for profile in profiles:
        expanded.update({name: dict(device) for name, device in profile.devices.items()})
    expanded.update({name: dict(device) for name, device in devices.items()})
    return expanded


def with_root_in(pool: str, own: Devices, inherited: Devices) -> Devices:
    """The instance's own devices, changed so that its root disk is in a pool. Pure."""
    devices = {name: dict(device) for name, device in own.items()}
    for device in devices.values():
        if device.get("type") == "disk" and device.get("path") == "/" and not device.get("source"):
            device["pool"] = pool
            return devices
    for name, device in inherited.items():
        if device.get("type") == "disk" and device.get("path") == "/" and name not in devices:
            return devices if device.get("pool") == pool else {**devices, name: {**device, "pool": pool}}
    return {**devices, "root": {"type": "disk", "path": "/", "pool": pool}}


def changed_keys(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """The keys whose values differ, sorted; an absent key and an empty value are the same."""
    return sorted(key for key in before.keys() | after.keys() if before.get(key, "") != after.get(key, ""))


def changed_devices(before: Devices, after: Devices) -> tuple[list[str], list[str], list[str]]:
    """The names of removed, added and changed devices; one that changes its type is removed and added."""
    removed = [name for name in before if name not in after or before[name].get("type") != after[name].get("type")]
    added = [name for name in after if name not in before or before[name].get("type") != after[name].get("type")]
    changed = [name for name in after if name not in added and before[name] != after[name]]
    return sorted(removed), sorted(added), sorted(changed)
