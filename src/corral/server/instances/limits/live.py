"""Applies changed config to a running container: the control group limits and the guest API.

Other keys take effect at the next start.
"""

import os
from collections.abc import Iterable

from corral import units
from corral.errors import InvalidRequest
from corral.server.context import Context
from corral.server.host.filesystems import inside, mount
from corral.server.host.isolation import cgroup
from corral.server.host.threads import in_thread
from corral.server.instances import keys
from corral.server.instances.guest import guests
from corral.server.instances.limits import cpus, kernel_modules, network_priority
from corral.server.instances.model import Instance
from corral.server.instances.running import RunningContainer
from corral.server.instances.security import apparmor, interception
from corral.server.instances.spec import HostFacts, compose_limits


async def apply_config(
    context: Context, instance: Instance, container: RunningContainer, changed: Iterable[str]
) -> None:
    """Bring the limits of a running container to its new config; InvalidRequest where the kernel refuses one."""
    changed = list(changed)
    if keys.DEVLXD.name in changed:
        await in_thread(_show_guest_api, context, instance, container)
    if kernel_modules.KEY in changed:
        await kernel_modules.load(instance.expanded_config)
    if apparmor.KEYS & set(changed):
        await apparmor.load(context, instance)
    if any(key.startswith("security.syscalls.intercept.mount.") for key in changed):
        await interception.update(context, instance)
    if keys.LIMITS_NETWORK_PRIORITY.name in changed:
        await network_priority.apply(context, instance, container)
    limits = [key for key in changed if key.startswith("limits.") and not key.startswith("limits.kernel.")]
    if not limits:
        return
    facts = context.parts[HostFacts]
    await in_thread(_apply, instance, container, facts, limits)
    if "limits.cpu" in limits or "limits.cpu.nodes" in limits:
        await cpus.balance(context)


def _show_guest_api(context: Context, instance: Instance, container: RunningContainer) -> None:
    """Put /dev/lxd into the container or take it out."""
    try:
        # Also before it is put there: the key may say the same in another word.
        inside.detach(container.init_pid, guests.MOUNT_POINT, guests.root_ids(instance))
        if guests.is_offered(instance.expanded_config):
            tree = mount.open_tree(guests.directory(context.member), recursive=False)
            try:
                mount.set_tree_read_only(tree)
                inside.attach(container.init_pid, tree, guests.MOUNT_POINT, guests.root_ids(instance))
            finally:
                os.close(tree)
    except OSError as error:
        raise InvalidRequest(
            f"Failed to change {guests.MOUNT_POINT} of {instance.name}: {error.strerror or error}"
        ) from error


def _apply(instance: Instance, container: RunningContainer, facts: HostFacts, names: list[str]) -> None:
    try:
        group = container.cgroup(facts.hierarchies)
    except ConnectionRefusedError:
        # It just ended: the next start sets all limits.
        return
    settings = compose_limits(instance.expanded_config, facts, live=True)
    wanted = {controller for key in names for controller in _CONTROLLERS.get(key.split(".")[1], ())}
    if {"limits.cpu", "limits.cpu.nodes"} & set(names) and not instance.expanded_config.get("limits.cpu"):
        settings += _all_cpus(facts)
    for key in names:
        if key.startswith(_HUGE_PAGES) and not instance.expanded_config.get(key):
            settings += cgroup.hugepages_settings(facts.hierarchies, key.removeprefix(_HUGE_PAGES), None)
    for setting in settings:
        if setting.controller not in wanted:
            continue
        try:
            group.write(setting.controller, setting.file, setting.value)
        except OSError as error:
            if setting.file.startswith("memory.memsw") and setting.value == "-1":
                continue
            if setting.value in ("max", "-1") and isinstance(error, FileNotFoundError):
                # What the kernel cannot limit (huge pages of this size) is not limited.
                continue
            raise InvalidRequest(
                f"Failed to set {setting.file} to {setting.value} for {instance.name}: {error.strerror}"
            ) from error


_HUGE_PAGES = "limits.hugepages."

_CONTROLLERS = {
    "cpu": ("cpu", "cpuset"),
    "memory": ("memory",),
    "processes": ("pids",),
    "disk": ("blkio", "io"),
    "hugepages": ("hugetlb",),
}


def _all_cpus(facts: HostFacts) -> list[cgroup.Setting]:
    return cgroup.cpuset_settings(facts.hierarchies, units.format_id_ranges(list(facts.cpus)))
