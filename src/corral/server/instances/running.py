"""The containers that run on this server: their monitors, init processes and control groups, as long as they live.

The daemon is not their parent: each has a monitor of its own that outlives the daemon. A container is here from the
moment its start was seen until its end was dealt with.
"""

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass, field

from corral.errors import InvalidRequest
from corral.server.context import Context
from corral.server.host.isolation.cgroup import Cgroup, Hierarchies, Layout, find_container_cgroup
from corral.server.host.programs.liblxc_socket import Monitor
from corral.server.host.programs.peers import Namespace
from corral.server.instances.model import Instance, Status


@dataclass(eq=False, slots=True)
class RunningContainer:
    """One running container. The descriptors are closed when it is discarded.

    `exited` is set when the monitor is gone. `awaited` counts the verbs that wait for that and will clean up; with
    none, the end is a surprise. `cgroup` is found at its first use.
    """

    instance_id: int
    name: str
    monitor: Monitor
    init_pid: int
    init_pidfd: int
    monitor_pid: int
    monitor_pidfd: int
    frozen: bool = False
    awaited: int = 0
    exited: asyncio.Event = field(default_factory=asyncio.Event)
    groups: Cgroup | None = None
    pid_namespace: Namespace | None = None
    """Found when a process is asked for that may be in it (guests.py)."""

    def cgroup(self, hierarchies: Hierarchies) -> Cgroup:
        """Its control groups, as the monitor tells them. Asks the monitor: call it in a thread."""
        if self.groups is None:
            self.groups = find_container_cgroup(hierarchies, self.monitor.get_cgroup)
        return self.groups

    def allow_device(self, hierarchies: Hierarchies, rule: str, allowed: bool) -> None:
        """Let the processes use a device or not: `c 1:5 rwm`; nothing where they may use all.

        Asks the monitor: call it in a thread.
        """
        prefix = "lxc.cgroup2" if hierarchies.layout is Layout.UNIFIED else "lxc.cgroup"
        if not self.monitor.get_config_item(f"{prefix}.devices.deny"):
            return
        if "devices" in hierarchies.v1:
            file = "devices.allow" if allowed else "devices.deny"
            self.cgroup(hierarchies).write("devices", file, rule)
        elif hierarchies.layout is Layout.UNIFIED:
            self.monitor.allow_device(rule, allowed)


class Running:
    """All running containers, by the id of their instance. One part of the daemon."""

    def __init__(self) -> None:
        self._containers: dict[int, RunningContainer] = {}
        self.on_surprise: Callable[[RunningContainer], None] = lambda container: None
        """Called when a container ended that no verb waited for."""

    def __len__(self) -> int:
        return len(self._containers)

    def find(self, instance_id: int) -> RunningContainer | None:
        """The running container of an instance; one whose monitor is gone counts no more."""
        container = self._containers.get(instance_id)
        return container if container is not None and not container.exited.is_set() else None

    def list(self) -> list[RunningContainer]:
        """All that run."""
        return [container for container in self._containers.values() if not container.exited.is_set()]

    def add(self, container: RunningContainer) -> None:
        """Watch a container until its monitor ends."""
        self._containers[container.instance_id] = container
        asyncio.get_running_loop().add_reader(container.monitor_pidfd, self._exited, container)

    def discard(self, container: RunningContainer) -> None:
        """Forget a container and close its descriptors."""
        if container.monitor_pidfd >= 0:
            asyncio.get_running_loop().remove_reader(container.monitor_pidfd)
            os.close(container.monitor_pidfd)
            os.close(container.init_pidfd)
            container.monitor_pidfd = container.init_pidfd = -1
        if self._containers.get(container.instance_id) is container:
            del self._containers[container.instance_id]

    def close(self) -> None:
        """Let go of all containers; they run on."""
        for container in list(self._containers.values()):
            self.discard(container)

    def _exited(self, container: RunningContainer) -> None:
        asyncio.get_running_loop().remove_reader(container.monitor_pidfd)
        container.exited.set()
        if not container.awaited:
            self.on_surprise(container)


def find(context: Context, instance: Instance) -> RunningContainer | None:
    """The running container of an instance, or None while it is stopped."""
    return context.parts[Running].find(instance.id)


def get(context: Context, instance: Instance) -> RunningContainer:
    """The running container of an instance; InvalidRequest while it is stopped."""
    container = find(context, instance)
    if container is None:
        raise InvalidRequest("Instance is not running")
    return container


def status(context: Context, instance: Instance) -> Status:
    """What the instance is doing."""
    container = find(context, instance)
    if container is None:
        return Status.STOPPED
    return Status.FROZEN if container.frozen else Status.RUNNING
