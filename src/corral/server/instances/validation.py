"""Whether configuration and devices of an instance or a profile are sound. Reads nothing: pure.

Whether what a device names exists (pools, networks, paths) is asked by the devices themselves at the attach.
"""

from collections.abc import Mapping

from corral.errors import InvalidRequest
from corral.server.devices import registry
from corral.server.instances.keys import KEYS, is_device_volatile, parse_fuse
from corral.server.instances.model import InstanceType
from corral.units import is_true

_PRLIMITS = "limits.kernel."
PRLIMIT_NAMES = frozenset(
    {
        "as",
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    }
)
"""The limits of setrlimit(2), as liblxc names them."""

_EXCLUSIVE = (
    ("security.syscalls.allow", "security.syscalls.whitelist"),
    ("security.syscalls.deny", "security.syscalls.blacklist"),
    ("security.syscalls.deny_default", "security.syscalls.blacklist_default"),
    ("security.syscalls.deny_compat", "security.syscalls.blacklist_compat"),
)


def check_config(config: Mapping[str, str], kind: InstanceType | None) -> None:
    """Check an instance's own config, or with `kind` None what may hold for either kind: an expanded config."""
    for name, value in config.items():
        _check_key(name, value, kind)
    _check_combinations(config)


def check_profile_config(config: Mapping[str, str]) -> None:
    """Check a profile's config: what holds for single instances has no place in it."""
    for name in config:
        if name.startswith("volatile."):
            raise InvalidRequest("Volatile keys can only be set on instances")
        if name.startswith("image."):
            raise InvalidRequest("Image keys can only be set on instances")
    check_config(config, None)


def _check_key(name: str, value: str, kind: InstanceType | None) -> None:
    if name.startswith("user.") or is_device_volatile(name):
        return
    key = KEYS.find(name)
    if key is None or (kind is not None and key.applies and kind.value not in key.applies):
        raise InvalidRequest(f"Unknown configuration key: {name}")
    if name.startswith(_PRLIMITS) and name.removeprefix(_PRLIMITS) not in PRLIMIT_NAMES:
        raise InvalidRequest(f"Unknown limit {name}: there are {', '.join(sorted(PRLIMIT_NAMES))}")
    key.check(value)


def _check_combinations(config: Mapping[str, str]) -> None:
    for new, old in _EXCLUSIVE:
        if new in config and old in config:
            raise InvalidRequest(f"Mutually exclusive keys {new} and {old} are set: they are two names of one setting")

    def of(*names: str) -> list[str]:
        return [config[name] for name in names if config.get(name)]

    allows = of("security.syscalls.allow", "security.syscalls.whitelist")
    denies = of("security.syscalls.deny", "security.syscalls.blacklist")
    denies += [
        value
        for value in of(
            "security.syscalls.deny_default",
            "security.syscalls.blacklist_default",
            "security.syscalls.deny_compat",
            "security.syscalls.blacklist_compat",
        )
        if is_true(value)
    ]
    if config.get("raw.seccomp") and (allows or denies):
        raise InvalidRequest("raw.seccomp is mutually exclusive with security.syscalls*")
    if allows and denies:
        raise InvalidRequest("security.syscalls.allow is mutually exclusive with security.syscalls.deny*")
    if is_true(config.get("security.syscalls.intercept.mount")):
        programs = parse_fuse(config.get("security.syscalls.intercept.mount.fuse", ""))
        for name in config.get("security.syscalls.intercept.mount.allowed", "").split(","):
            if name in programs:
                raise InvalidRequest(
                    f"Filesystem {name} cannot appear in security.syscalls.intercept.mount.allowed and "
                    "security.syscalls.intercept.mount.fuse"
                )
    if is_true(config.get("security.privileged")) and is_true(config.get("nvidia.runtime")):
        raise InvalidRequest("nvidia.runtime is incompatible with privileged containers")


def check_devices(devices: Mapping[str, Mapping[str, str]], kind: InstanceType | None, *, expanded: bool) -> None:
    """Check devices; an expanded set must have exactly one root disk."""
    if expanded:
        try:
            registry.find_root_disk(devices)
        except InvalidRequest as error:
            raise InvalidRequest(f"Failed detecting root disk device: {error}") from error
    for name, device in devices.items():
        try:
            own = kind is InstanceType.CONTAINER and not expanded
            registry.validate(name, device, devices, of_container=own)
        except InvalidRequest as error:
            raise InvalidRequest(f'Device validation failed for "{name}": {error}') from error
