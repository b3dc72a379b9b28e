"""Limits of disk I/O: what limits.read, limits.write and limits.max of all disks say for each disk of the host."""

from collections.abc import Mapping
from dataclasses import replace

from corral import units
from corral.errors import InvalidRequest, NotSupported
from corral.server.devices.model import DeviceContext
from corral.server.host.filesystems import blockdev
from corral.server.host.isolation.cgroup import Hierarchies, Setting, io_limit_settings

KEYS = ("limits.read", "limits.write", "limits.max")
Limit = tuple[int, int]
"""Bytes and operations per second, 0 for no limit."""


def parse_limit(text: str) -> Limit:
    """`10MB` or `10MB/s` is bytes per second, `100iops` operations per second."""
    if not text:
        return 0, 0
    if text.endswith("iops"):
        number = text.removesuffix("iops")
        if not number.isdecimal():
            raise InvalidRequest(f"Invalid I/O limit {text!r}: give a number of iops or a size per second")
        return 0, int(number)
    return units.parse_size(text.removesuffix("/s")), 0


def check_limit(text: str) -> None:
    """Raise InvalidRequest for what is no limit."""
    parse_limit(text)


def limits_of(config: Mapping[str, str]) -> tuple[Limit, Limit]:
    """The limits of reading and writing of one device; limits.max stands for both."""
    both = config.get("limits.max", "")
    return parse_limit(both or config.get("limits.read", "")), parse_limit(both or config.get("limits.write", ""))


def plan(hierarchies: Hierarchies, wanted: Mapping[str, list[tuple[Limit, Limit]]], *, reset: bool) -> list[Setting]:
    """The settings for disks `major:minor`; where several devices lie on one disk their mean counts, as in LXD."""
    settings: list[Setting] = []
    for disk, limits in sorted(wanted.items()):
        for direction, index in (("read", 0), ("write", 1)):
            for unit, part in (("bps", 0), ("iops", 1)):
                given = [one[index][part] for one in limits if one[index][part]]
                value = sum(given) // len(given) if given else 0
                if value or reset:
                    settings += io_limit_settings(hierarchies, disk, direction, unit, value)
    return settings


def settings_of(device: DeviceContext, reset: bool) -> list[Setting]:
    """The settings that all disks of the instance ask for on the disks below this one."""
    limited = {
        name: config
        for name, config in device.devices.items()
        if config.get("type") == "disk" and any(config.get(key) for key in KEYS)
    }
    if (device.device not in limited and not reset) or device.hierarchies is None:
        return []
    own = blockdev.disks_below(_place(device, device.config))
    if not own:
        if device.device not in limited:
            return []
        raise InvalidRequest(
            f'Failed to start device "{device.device}": Block device not found for the disk: its I/O cannot be limited'
        )
    if not device.hierarchies.has("blkio") and not device.hierarchies.has("io"):
        if not limited:
            return []
        raise NotSupported("Cannot apply disk limits as the kernel has no I/O control group controller")
    wanted: dict[str, list[tuple[Limit, Limit]]] = {disk: [] for disk in own}
    for config in limited.values():
        for disk in blockdev.disks_below(_place(device, config)):
            if disk in wanted:
                wanted[disk].append(limits_of(config))
    return plan(device.hierarchies, wanted, reset=reset)


def _place(device: DeviceContext, config: Mapping[str, str]) -> str:
    pools = device.context.member.pools_dir
    return str(pools / config["pool"]) if config.get("pool") else config.get("source", "")


def apply(device: DeviceContext) -> None:
    """Bring the limits of a running container to what its disks say."""
    if device.cgroup is None:
        return
    is_limited = any(device.config.get(key) for key in KEYS)
    group = device.cgroup()
    for setting in settings_of(device, True):
        try:
            group.write(setting.controller, setting.file, setting.value)
        except OSError as error:
            if is_limited:
                raise InvalidRequest(f"Failed to set {setting.file} to {setting.value}: {error.strerror}") from error


def lift(device: DeviceContext) -> None:
    """Bring the limits of a running container to what its other disks say, before this one goes."""
    if any(device.config.get(key) for key in KEYS):
        others = {name: config for name, config in device.devices.items() if name != device.device}
        bare = {key: value for key, value in device.config.items() if key not in KEYS}
        apply(replace(device, devices=others, config=bare))
