"""`limits.network.priority`: the priority of what a container's processes send, on hosts with net_prio (cgroups 1)."""

import os
from pathlib import Path

from corral.errors import InvalidRequest
from corral.server.context import Context
from corral.server.host.isolation.cgroup import Cgroup, Hierarchies
from corral.server.host.threads import in_thread
from corral.server.instances import keys
from corral.server.instances.model import Instance
from corral.server.instances.running import RunningContainer
from corral.server.instances.spec import HostFacts
from corral.server.keys import Config

_CONTROLLER = "net_prio"
_INTERFACES = Path("/sys/class/net")


async def apply(context: Context, instance: Instance, container: RunningContainer) -> None:
    """Set the priority of a running container; nothing where the host has no such control group."""
    hierarchies = context.parts[HostFacts].hierarchies
    if _CONTROLLER in hierarchies.v1:
        priority = Config(instance.expanded_config)[keys.LIMITS_NETWORK_PRIORITY] or 0
        await in_thread(_apply, container, hierarchies, priority)


def _apply(container: RunningContainer, hierarchies: Hierarchies, priority: int) -> None:
    set_priority(container.cgroup(hierarchies), priority, container.name, os.listdir(_INTERFACES))


def set_priority(group: Cgroup, priority: int, name: str, interfaces: list[str]) -> None:
    """Set it for each interface of the host. Raises InvalidRequest where it can be set for none."""
    failed: OSError | None = None
    done = False
    for interface in interfaces:
        try:
            group.write(_CONTROLLER, "net_prio.ifpriomap", f"{interface} {priority}")
            done = True
        except OSError as error:
            # An interface may be gone by now.
            failed = error
    if failed is not None and not done:
        raise InvalidRequest(f"Failed to set the network priority of {name}: {failed.strerror}") from failed
