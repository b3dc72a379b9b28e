"""What running instances use, as metrics: collected once in a while for each project and kept for some seconds."""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Iterable
from pathlib import Path

from corral.errors import CorralError
from corral.server.context import Context
from corral.server.host.filesystems.mount import find_mount
from corral.server.host.isolation import cgroup_stats
from corral.server.host.isolation.cgroup import Cgroup
from corral.server.host.network.netlink import Netlink
from corral.server.host.threads import in_thread
from corral.server.instances import running
from corral.server.instances.inventory import Inventory
from corral.server.instances.model import Instance, link_path
from corral.server.instances.running import RunningContainer
from corral.server.instances.spec import HostFacts
from corral.server.metrics import openmetrics as series
from corral.server.metrics.openmetrics import MetricSet

log = logging.getLogger(__name__)

KEPT_S = 8.0
"""How long what was collected is answered again."""

MEMORY = {
    "active": series.MEMORY_ACTIVE,
    "active_anon": series.MEMORY_ACTIVE_ANON,
    "active_file": series.MEMORY_ACTIVE_FILE,
    "cache": series.MEMORY_CACHED,
    "dirty": series.MEMORY_DIRTY,
    "inactive": series.MEMORY_INACTIVE,
    "inactive_anon": series.MEMORY_INACTIVE_ANON,
    "inactive_file": series.MEMORY_INACTIVE_FILE,
    "mapped": series.MEMORY_MAPPED,
    "rss": series.MEMORY_RSS,
    "shmem": series.MEMORY_SHMEM,
    "unevictable": series.MEMORY_UNEVICTABLE,
    "writeback": series.MEMORY_WRITEBACK,
}


class Collected:
    """The metrics of each project and when they were collected. One part of the daemon."""

    def __init__(self) -> None:
        self._sets: dict[str, tuple[float, MetricSet]] = {}

    def find(self, project: str) -> MetricSet | None:
        """What was collected for a project lately."""
        collected_at, found = self._sets.get(project, (0.0, None))
        return found if time.monotonic() - collected_at < KEPT_S else None

    def keep(self, project: str, metrics: MetricSet) -> None:
        """Keep the metrics of a project for a while; what is too old is dropped."""
        now = time.monotonic()
        self._sets = {name: entry for name, entry in self._sets.items() if now - entry[0] < KEPT_S}
        self._sets[project] = (now, metrics)


async def collect(context: Context, projects: Iterable[str]) -> MetricSet:
    """The metrics of the running instances of some projects."""
    names = list(projects)
    kept = context.parts[Collected]
    async with context.locks.hold("metrics"):
        missing = [name for name in names if kept.find(name) is None]
        for name, metrics in (await _collect_anew(context, missing)).items():
            kept.keep(name, metrics)
        return series.merged(found for name in names if (found := kept.find(name)) is not None)


async def _collect_anew(context: Context, projects: list[str]) -> dict[str, MetricSet]:
    if not projects:
        return {}
    wanted = set(projects)
    instances = await context.parts[Inventory].list(projects[0] if len(projects) == 1 else None)
    pairs = [
        (one, container)
        for one in instances
        if one.project in wanted and (container := running.find(context, one)) is not None
    ]
    facts = context.parts[HostFacts]
    roots = [link_path(context.member, one) for one, _ in pairs]
    sets = await asyncio.gather(
        *(in_thread(_measure, one, container, root, facts) for (one, container), root in zip(pairs, roots, strict=True))
    )
    found = {name: MetricSet() for name in projects}
    for (one, _), metrics in zip(pairs, sets, strict=True):
        found[one.project].merge(metrics)
    return found


def _measure(instance: Instance, container: RunningContainer, root: Path, facts: HostFacts) -> MetricSet:
    """The metrics of one container; what cannot be read is left out."""
    metrics = MetricSet({"name": instance.name, "project": instance.project, "type": instance.type.value})
    try:
        group = container.cgroup(facts.hierarchies)
    except (OSError, CorralError) as error:
        if not container.exited.is_set():
            log.debug("No metrics of %s: %s", instance.storage_name, error)
        return metrics
    for step in (_add_cpu, _add_disks, _add_memory_kinds):
        with contextlib.suppress(OSError, ValueError):
            step(metrics, group)
    with contextlib.suppress(OSError):
        _add_memory(metrics, group, facts.memory_total)
    with contextlib.suppress(OSError):
        _add_network(metrics, container)
    with contextlib.suppress(OSError):
        _add_filesystem(metrics, root / "rootfs")
    with contextlib.suppress(OSError):
        metrics.add(series.PROCS, group.count_processes())
    return metrics


def _add_cpu(metrics: MetricSet, group: Cgroup) -> None:
    for cpu, (user, system) in cgroup_stats.cpu_seconds(group).items():
        labels = {"cpu": cpu} if cpu else {}
        metrics.add(series.CPU_SECONDS, system, mode="system", **labels)
        metrics.add(series.CPU_SECONDS, user, mode="user", **labels)


def _add_disks(metrics: MetricSet, group: Cgroup) -> None:
    for device, use in cgroup_stats.block_use(group).items():
        metrics.add(series.DISK_READ_BYTES, use.read_bytes, device=device)
        metrics.add(series.DISK_READS, use.reads, device=device)
        metrics.add(series.DISK_WRITTEN_BYTES, use.written_bytes, device=device)
        metrics.add(series.DISK_WRITES, use.writes, device=device)


def _add_memory_kinds(metrics: MetricSet, group: Cgroup) -> None:
    for kind, value in cgroup_stats.memory_by_kind(group).items():
        metrics.add(MEMORY[kind], value)
    kills = cgroup_stats.count_oom_kills(group)
    if kills is not None:
        metrics.add(series.MEMORY_OOM_KILLS, kills)
    pages = cgroup_stats.huge_pages(group)
    if pages is not None:
        metrics.add(series.MEMORY_HUGEPAGES_TOTAL, pages[0])
        metrics.add(series.MEMORY_HUGEPAGES_FREE, pages[1])


def _add_memory(metrics: MetricSet, group: Cgroup, host_total: int) -> None:
    memory = group.memory_usage()
    total = min(memory.limit or host_total, host_total)
    cached = cgroup_stats.memory_by_kind(group).get("cache", 0)
    metrics.add(series.MEMORY_TOTAL, total)
    metrics.add(series.MEMORY_FREE, max(0, total - memory.used))
    metrics.add(series.MEMORY_AVAILABLE, min(total, max(0, total - memory.used + cached)))
    metrics.add(series.MEMORY_SWAP, memory.swap_used)


def _add_network(metrics: MetricSet, container: RunningContainer) -> None:
    with Netlink(container.init_pidfd) as netlink:
        links = netlink.list_links()
    for link in links:
        counters, device = link.counters, link.name
        metrics.add(series.NETWORK_RECEIVE_BYTES, counters.bytes_received, device=device)
        metrics.add(series.NETWORK_RECEIVE_PACKETS, counters.packets_received, device=device)
        metrics.add(series.NETWORK_RECEIVE_ERRS, counters.errors_received, device=device)
        metrics.add(series.NETWORK_RECEIVE_DROP, counters.packets_dropped_inbound, device=device)
        metrics.add(series.NETWORK_TRANSMIT_BYTES, counters.bytes_sent, device=device)
        metrics.add(series.NETWORK_TRANSMIT_PACKETS, counters.packets_sent, device=device)
        metrics.add(series.NETWORK_TRANSMIT_ERRS, counters.errors_sent, device=device)
        metrics.add(series.NETWORK_TRANSMIT_DROP, counters.packets_dropped_outbound, device=device)


def _add_filesystem(metrics: MetricSet, root: Path) -> None:
    """The root file system as the host sees it: a path inside the container is the container's to bend."""
    stat = os.statvfs(root)
    entry = find_mount(root)
    labels = {"mountpoint": "/"}
    if entry is not None:
        labels |= {"device": entry.source, "fstype": entry.fstype}
    metrics.add(series.FILESYSTEM_AVAIL, stat.f_bavail * stat.f_frsize, **labels)
    metrics.add(series.FILESYSTEM_FREE, stat.f_bfree * stat.f_frsize, **labels)
    metrics.add(series.FILESYSTEM_SIZE, stat.f_blocks * stat.f_frsize, **labels)
