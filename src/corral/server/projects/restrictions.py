"""The restrictions of projects: what instances and profiles may not have in a restricted one. Pure."""

import posixpath
from collections.abc import Callable, Mapping

from corral import units
from corral.errors import Forbidden, InvalidRequest
from corral.server.host.isolation.idmap import IdEntry, parse_raw_idmap
from corral.server.keys import WORDS
from corral.server.projects import keys
from corral.server.projects.contents import CONTAINER, PROFILE, VIRTUAL_MACHINE, Contents, Entity
from corral.server.projects.model import Project

_INTERCEPT = "security.syscalls.intercept"
INTERCEPTION = frozenset(
    {
        "security.syscalls.intercept.bpf",
        "security.syscalls.intercept.bpf.devices",
        "security.syscalls.intercept.mknod",
        "security.syscalls.intercept.mount",
        "security.syscalls.intercept.mount.fuse",
        "security.syscalls.intercept.setxattr",
        "security.syscalls.intercept.sysinfo",
    }
)
"""What `restricted.containers.interception=allow` allows; the others are low-level, or need `full`."""

_LOW_LEVEL = {
    CONTAINER: frozenset(
        {
            "boot.host_shutdown_timeout",
            "linux.kernel_modules",
            "raw.apparmor",
            "raw.idmap",
            "raw.lxc",
            "raw.seccomp",
            "security.devlxd.images",
            "security.idmap.base",
            "security.idmap.size",
        }
    ),
    VIRTUAL_MACHINE: frozenset(
        {
            "boot.host_shutdown_timeout",
            "limits.memory.hugepages",
            "raw.apparmor",
            "raw.idmap",
            "raw.qemu",
            "raw.qemu.conf",
        }
    ),
}
_LOW_LEVEL_KEYS = {CONTAINER: "restricted.containers.lowlevel", VIRTUAL_MACHINE: "restricted.virtual-machines.lowlevel"}

_SAFE_VOLATILE = frozenset({"volatile.apply_template", "volatile.base_image", "volatile.last_state.power"})
_SAFE_ENDINGS = (".apply_quota", ".hwaddr")

_PLAIN_DEVICES = {
    "unix-char": "Unix character devices are forbidden",
    "unix-block": "Unix block devices are forbidden",
    "unix-hotplug": "Unix hotplug devices are forbidden",
    "infiniband": "Infiniband devices are forbidden",
    "gpu": "GPU devices are forbidden",
    "usb": "USB devices are forbidden",
    "pci": "PCI devices are forbidden",
    "proxy": "Proxy devices are forbidden",
}
"""Types of devices that are allowed or not, and what is said where they are not."""


def value_of(project: Project, key: str) -> str:
    """The value of a restriction, or what holds where it is not set."""
    found = keys.TABLE.find(key)
    return project.config.get(key) or (found.default or "" if found is not None else "")


def is_restricted(project: Project) -> bool:
    """Whether a project's restrictions are in force."""
    return units.is_true(project.config.get("restricted"))


def is_blocked(project: Project, key: str) -> bool:
    """Whether a restricted project blocks what a key stands for."""
    return is_restricted(project) and value_of(project, key) == "block"


def check(contents: Contents) -> None:
    """Raise Forbidden where something of a project's violates its restrictions, whether they are in force or not."""
    for entity in (*contents.instances, *contents.profiles):
        _check_config(contents.project, entity)
        _check_devices(contents.project, entity)


def _check_config(project: Project, entity: Entity) -> None:
    kinds = [entity.kind] if entity.kind != PROFILE else [CONTAINER, VIRTUAL_MACHINE]
    # Nobody knows which kind of instance a profile will be used for: both must be allowed.
    low_level = all(value_of(project, _LOW_LEVEL_KEYS[kind]) == "allow" for kind in kinds)
    where = f'on {entity.kind} "{entity.name}" of project "{project.name}"'
    config = dict(entity.config)
    if entity.kind == CONTAINER:
        # Not to say anything means no map of its own: a restriction to such maps must see it.
        config.setdefault("security.idmap.isolated", "false")
    intercepts_all = value_of(project, "restricted.containers.interception") == "full"
    for key, value in config.items():
        if not low_level and key == "raw.idmap":
            _check_idmap(project, value, where)
        elif intercepts_all and key.startswith(_INTERCEPT):
            continue
        elif not low_level and any(_is_low_level(kind, key) for kind in kinds):
            raise Forbidden(f'Use of low-level config "{key}" {where} is forbidden')
        problem = _problem_of(project, key, value) if CONTAINER in kinds else None
        if problem is not None:
            raise Forbidden(f'Invalid value "{value}" for config "{key}" {where}: {problem}')


def _is_low_level(kind: str, key: str) -> bool:
    intercepts = kind == CONTAINER and key.startswith(_INTERCEPT) and key not in INTERCEPTION
    return intercepts or key in _LOW_LEVEL[kind]


def _problem_of(project: Project, key: str, value: str) -> str | None:
    """What a restriction has against the value of a container's key."""
    # One of them is no truth value: the FUSE programs.
    if key in INTERCEPTION and value.lower() not in ("", *units.FALSE_WORDS):
        blocked = value_of(project, "restricted.containers.interception") not in ("allow", "full")
        return "Container syscall interception is forbidden" if blocked else None
    privilege = value_of(project, "restricted.containers.privilege")
    match key:
        case "security.nesting":
            blocked = value_of(project, "restricted.containers.nesting") == "block" and units.is_true(value)
            return "Container nesting is forbidden" if blocked else None
        case "security.privileged":
            blocked = privilege != "allow" and units.is_true(value)
            return "Privileged containers are forbidden" if blocked else None
        case "security.idmap.isolated":
            blocked = privilege == "isolated" and not units.is_true(value)
            return "Non-isolated containers are forbidden" if blocked else None
    return None


def _check_idmap(project: Project, text: str, where: str) -> None:
    allowed = {kind: keys.ID_RANGES.parse(value_of(project, f"restricted.idmap.{kind}")) for kind in ("uid", "gid")}
    for index, entry in enumerate(parse_raw_idmap(text)):
        covered = (not entry.uids or _covers(allowed["uid"], entry)) and (
            not entry.gids or _covers(allowed["gid"], entry)
        )
        if not covered:
            raise Forbidden(f'Use of low-level "raw.idmap" element {index} {where} is forbidden')


def _covers(ranges: list[range], entry: IdEntry) -> bool:
    return any(one.start <= entry.outside and entry.outside + entry.size <= one.stop for one in ranges)


def _check_devices(project: Project, entity: Entity) -> None:
    for name, device in entity.devices.items():
        kind = device.get("type", "")
        problem: str | None = None
        if kind in _PLAIN_DEVICES:
            blocked = value_of(project, f"restricted.devices.{kind}") != "allow"
            problem = _PLAIN_DEVICES[kind] if blocked else None
        elif kind in _DEVICE_CHECKS:
            problem = _DEVICE_CHECKS[kind](project, device)
        if problem is not None:
            where = f'on {entity.kind} "{entity.name}" of project "{project.name}"'
            raise Forbidden(f'Invalid device "{name}" {where}: {problem}')


def _nic_problem(project: Project, device: Mapping[str, str]) -> str | None:
    allowed = value_of(project, "restricted.devices.nic")
    network, parent = device.get("network"), device.get("parent")
    if allowed == "block":
        return "Network devices are forbidden"
    if allowed == "managed" and not network:
        return "Only managed network devices are allowed"
    if (network or parent) and not allows_network(project, network or parent or "", managed=bool(network)):
        return "Network not allowed in project"
    return None


def _disk_problem(project: Project, device: Mapping[str, str]) -> str | None:
    if device.get("path") == "/" and device.get("pool"):
        return None
    if not device.get("path") and device.get("source") == "cloud-init:config":
        return None
    allowed = value_of(project, "restricted.devices.disk")
    if allowed == "block":
        return "Disk devices are forbidden"
    if allowed == "managed" and not device.get("pool"):
        return "Attaching disks not backed by a pool is forbidden"
    if allowed == "allow" and not device.get("pool"):
        source = device.get("source", "")
        return None if allows_path(project, source) else f'Disk source path "{source}" not allowed'
    return None


_DEVICE_CHECKS: Mapping[str, Callable[[Project, Mapping[str, str]], str | None]] = {
    "nic": _nic_problem,
    "disk": _disk_problem,
}


def allowed_path(project: Project, source: str) -> str | None:
    """The path of `restricted.devices.disk.paths` that a disk's source is in, `/` where all are allowed, or None."""
    paths = value_of(project, "restricted.devices.disk.paths")
    if not paths:
        return "/"
    wanted = posixpath.normpath(source) + "/"
    for parent in WORDS.parse(paths):
        if wanted.startswith(posixpath.normpath(parent).rstrip("/") + "/"):
            return parent
    return None


def allows_path(project: Project, source: str) -> bool:
    """Whether a disk may have a path of the host as its source."""
    return allowed_path(project, source) is not None


def allows_network(project: Project, network: str, *, managed: bool) -> bool:
    """Whether a project may see and use a network or an interface of the host."""
    if not is_restricted(project):
        return True
    nics = value_of(project, "restricted.devices.nic")
    if nics == "block" or (nics == "managed" and not managed):
        return False
    allowed = value_of(project, "restricted.networks.access")
    return not allowed or network in WORDS.parse(allowed)


def check_volatile(
    project: Project, kind: str, name: str, config: Mapping[str, str], present: Mapping[str, str]
) -> None:
    """Raise Forbidden where a client sets volatile keys that a restricted project leaves to the server."""
    if not is_restricted(project) or value_of(project, _LOW_LEVEL_KEYS[kind]) == "allow":
        return
    for key, value in config.items():
        if not key.startswith("volatile.") or is_safe_volatile(key) or present.get(key) == value:
            continue
        verb = "Changing" if key in present else "Setting"
        raise Forbidden(f'{verb} "{key}" on {kind} "{name}" in project "{project.name}" is forbidden')


def is_safe_volatile(key: str) -> bool:
    """Whether anybody may set a volatile key."""
    return key in _SAFE_VOLATILE or key.endswith(_SAFE_ENDINGS)


def check_new(contents: Contents, key: str) -> None:
    """Raise InvalidRequest where a restriction that is to be set is violated already. `contents` has the new config."""
    try:
        check(contents)
    except Forbidden as error:
        raise InvalidRequest(
            f'Conflict detected when changing "{key}" in project "{contents.project.name}": {error}'
        ) from error
