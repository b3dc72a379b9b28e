"""Applies changed config to a running container: the control group limits. Other keys take effect at the next start."""

from collections.abc import Iterable

from corral import units
from corral.errors import InvalidRequest
from corral.server.context import Context
from corral.server.host import cgroup
from corral.server.host.threads import in_thread
from corral.server.instances import cpus
from corral.server.instances.model import Instance
from corral.server.instances.running import RunningContainer
from corral.server.instances.spec import HostFacts, compose_limits


async def apply_config(
    context: Context, instance: Instance, container: RunningContainer, changed: Iterable[str]
) -> None:
    """Bring the limits of a running container to its new config; InvalidRequest where the kernel refuses one."""
    keys = [key for key in changed if key.startswith("limits.") and not key.startswith("limits.kernel.")]
    if not keys:
        return
    facts = context.parts[HostFacts]
    await in_thread(_apply, instance, container, facts, keys)
    if "limits.cpu" in keys:
        await cpus.balance(context)


def _apply(instance: Instance, container: RunningContainer, facts: HostFacts, keys: list[str]) -> None:
    group = container.cgroup(facts.hierarchies)
    settings = compose_limits(instance.expanded_config, facts, live=True)
    wanted = {controller for key in keys for controller in _CONTROLLERS.get(key.split(".")[1], ())}
    if "limits.cpu" in keys and not instance.expanded_config.get("limits.cpu"):
        settings += _all_cpus(facts)
    for setting in settings:
        if setting.controller not in wanted:
            continue
        try:
            group.write(setting.controller, setting.file, setting.value)
        except OSError as error:
            if setting.file.startswith("memory.memsw") and setting.value == "-1":
                continue
            raise InvalidRequest(
                f"Failed to set {setting.file} to {setting.value} for {instance.name}: {error.strerror}"
            ) from error


_CONTROLLERS = {
    "cpu": ("cpu", "cpuset"),
    "memory": ("memory",),
    "processes": ("pids",),
    "disk": ("blkio", "io"),
    "hugepages": ("hugetlb",),
}


def _all_cpus(facts: HostFacts) -> list[cgroup.Setting]:
    return cgroup.cpuset_settings(facts.hierarchies, units.format_id_ranges(list(facts.cpus)))
