"""The limits of projects: counts, and sums of what instances and volumes may use. Pure."""

from collections.abc import Callable, Mapping

from corral import units
from corral.errors import Forbidden, InvalidRequest
from corral.server.projects.contents import CONTAINER, VIRTUAL_MACHINE, Contents, Entity

COUNTS = {"limits.containers": CONTAINER, "limits.virtual-machines": VIRTUAL_MACHINE}
_VM_STATE_SIZE = "100MiB"
"""The size of a virtual machine's own file system where its root disk has no `size.state`."""


def _count(text: str) -> int:
    if not text.isascii() or not text.removeprefix("-").isdecimal():
        raise InvalidRequest(f'Invalid number "{text}"')
    return int(text)


def _cpus(text: str) -> int:
    if "," in text or "-" in text:
        raise InvalidRequest("CPUs can't be pinned if project limits are used")
    return _count(text)


def _memory(text: str) -> int:
    if text.endswith("%"):
        raise InvalidRequest("Value can't be a percentage")
    return units.parse_size(text)


SUMS: Mapping[str, Callable[[str], int]] = {
    "limits.cpu": _cpus,
    "limits.disk": units.parse_size,
    "limits.memory": _memory,
    "limits.processes": _count,
}
"""The keys whose limit is on the sum over the project, and how a value is read."""


def format_total(key: str, total: int) -> str:
    """A sum for people."""
    return units.format_size_iec(total, 1) if key in ("limits.disk", "limits.memory") else str(total)


def check(contents: Contents) -> None:
    """Raise Forbidden where a project holds more than its limits allow."""
    project = contents.project
    for key, kind in COUNTS.items():
        limit = project.config.get(key)
        if limit and contents.count(kind) > int(limit):
            raise Forbidden(f'Reached maximum number of instances of type "{kind}" in project "{project.name}"')
    limit = project.config.get("limits.instances")
    if limit and len(contents.instances) > int(limit):
        raise Forbidden(f'Reached maximum number of instances in project "{project.name}"')


def check_sums(contents: Contents) -> None:
    """Raise Forbidden where the sums go beyond the limits, or where something has no limit that could be summed."""
    project = contents.project
    for key, parse in SUMS.items():
        limit = project.config.get(key)
        if limit and total(contents, key) > parse(limit):
            raise Forbidden(f'Reached maximum aggregate value "{limit}" for "{key}" in project "{project.name}"')


def check_new_limit(contents: Contents, key: str, text: str) -> None:
    """Raise InvalidRequest where a limit is to be set below what the project holds already."""
    if not text:
        return
    name = contents.project.name
    if key == "limits.instances" and int(text) < len(contents.instances):
        raise InvalidRequest(
            f'Can\'t change limits.instances in project "{name}": "limits.instances" is too low: there currently are'
            f' {len(contents.instances)} total instances in project "{name}"'
        )
    if key in COUNTS and int(text) < contents.count(COUNTS[key]):
        raise InvalidRequest(
            f'Can\'t change "{key}" in project "{name}": "{key}" is too low: there currently are'
            f' {contents.count(COUNTS[key])} instances of type {COUNTS[key]} in project "{name}"'
        )
    if key in SUMS:
        present = total(contents, key)
        if SUMS[key](text) < present:
            raise InvalidRequest(f'"{key}" is too low: current total is "{format_total(key, present)}"')


def total(contents: Contents, key: str) -> int:
    """The sum of a limit over a project. Raises Forbidden where something has no such limit or an unfit one."""
    name, found = contents.project.name, 0
    if key == "limits.disk":
        for volume, size in contents.volumes.items():
            if size is None:
                short = volume.partition("/")[2]
                raise Forbidden(f'Custom volume "{short}" in project "{name}" has no "size" config set')
            found += units.parse_size(size)
    for instance in contents.instances:
        label = f'nstance "{instance.name}" in project "{name}"'
        texts = _limit_of(instance, key)
        if texts is None:
            if key == "limits.disk":
                raise Forbidden(
                    f'I{label} has no "size" config set on the root device either directly or via a profile'
                )
            raise Forbidden(f'I{label} has no "{key}" config, either directly or via a profile')
        try:
            found += sum(SUMS[key](text) for text in texts)
        except InvalidRequest as error:
            raise Forbidden(f'Failed parsing "{key}" for i{label}: {error}') from error
    return found


def usage(contents: Contents, key: str) -> int:
    """The sum of a limit over what has one."""
    sizes = [size for size in contents.volumes.values() if size] if key == "limits.disk" else []
    found = sum(units.parse_size(size) for size in sizes)
    for instance in contents.instances:
        try:
            found += sum(SUMS[key](text) for text in _limit_of(instance, key) or ())
        except InvalidRequest:
            continue
    return found


def _limit_of(instance: Entity, key: str) -> list[str] | None:
    if key != "limits.disk":
        text = instance.config.get(key)
        return [text] if text else None
    for device in instance.devices.values():
        if device.get("type") == "disk" and device.get("path") == "/" and device.get("pool"):
            if not device.get("size"):
                return None
            state = [device.get("size.state") or _VM_STATE_SIZE] if instance.kind == VIRTUAL_MACHINE else []
            return [device["size"], *state]
    return None
