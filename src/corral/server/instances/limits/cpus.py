"""Spreads containers whose limit is a number of CPUs over the host's: anew when one starts, stops or changes."""

import logging

from corral.server.context import Context
from corral.server.host.isolation import cgroup
from corral.server.host.threads import in_thread
from corral.server.instances import store
from corral.server.instances.running import Running, RunningContainer
from corral.server.instances.spec import HostFacts, plan_cpus

log = logging.getLogger(__name__)


async def balance(context: Context) -> None:
    """Pin the containers whose `limits.cpu` is a number or that keep to NUMA nodes; nothing where there are none."""
    facts = context.parts[HostFacts]
    containers = {container.instance_id: container for container in context.parts[Running].list()}
    if not containers or not facts.hierarchies.has("cpuset"):
        return
    limits = await context.db.read(store.list_effective, "limits.cpu", "limits.cpu.nodes")
    wanted = {container.name: limits[one] for one, container in containers.items() if one in limits}
    plan = plan_cpus(wanted, facts)
    if not plan:
        return
    pinned = [(container, plan[container.name]) for container in containers.values() if container.name in plan]
    await in_thread(_pin, facts, pinned)


def _pin(facts: HostFacts, pinned: list[tuple[RunningContainer, str]]) -> None:
    for container, cpus in pinned:
        try:
            group = container.cgroup(facts.hierarchies)
            # To write is dear, and most stay where they are when another one starts.
            group.apply(
                setting
                for setting in cgroup.cpuset_settings(facts.hierarchies, cpus)
                if group.read(setting.controller, setting.file) != setting.value
            )
        except OSError as error:
            log.warning("Failed to pin container %s to CPUs %s: %s", container.name, cpus, error)
