"""What instances use and which addresses they have: read from control groups, network namespaces and pools."""

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Mapping

from corral.api.instances import (
    InstanceState,
    InstanceStateCPU,
    InstanceStateDisk,
    InstanceStateMemory,
    InstanceStateNetwork,
    InstanceStateNetworkAddress,
    InstanceStateNetworkCounters,
)
from corral.errors import CorralError, NotFound
from corral.server.context import Context
from corral.server.devices import registry
from corral.server.host.isolation.cgroup import Cgroup
from corral.server.host.network.netlink import Netlink
from corral.server.host.network.rtnetlink import Link
from corral.server.host.threads import in_thread
from corral.server.instances import running, store
from corral.server.instances.model import Instance, Status
from corral.server.instances.running import RunningContainer
from corral.server.instances.spec import HostFacts
from corral.server.storage import store as storage
from corral.server.storage import volumes
from corral.server.storage.model import Volume, VolumeType

log = logging.getLogger(__name__)


async def get_state(context: Context, project: str, name: str) -> InstanceState:
    """The state of one instance."""
    instance = await context.db.read(store.get_instance, project, name)
    return (await get_states(context, [instance]))[instance.id]


async def get_states(context: Context, instances: list[Instance]) -> dict[int, InstanceState]:
    """The states of many instances at once, by their ids."""
    disks, live = await asyncio.gather(_disks(context, instances), _live_states(context, instances))
    states = {}
    for instance in instances:
        state = live.get(instance.id)
        if state is None:
            state = InstanceState(status=Status.STOPPED.text, status_code=Status.STOPPED.value)
        state.disk = disks.get(instance.id, {})
        states[instance.id] = state
    return states


async def _live_states(context: Context, instances: list[Instance]) -> dict[int, InstanceState]:
    facts = context.parts[HostFacts]
    pairs = [(one, container) for one in instances if (container := running.find(context, one)) is not None]
    found = await asyncio.gather(*(in_thread(_read_state, one, container, facts) for one, container in pairs))
    return {pair[0].id: state for pair, state in zip(pairs, found, strict=True) if state is not None}


def _read_state(instance: Instance, container: RunningContainer, facts: HostFacts) -> InstanceState | None:
    status = Status.FROZEN if container.frozen else Status.RUNNING
    state = InstanceState(status=status.text, status_code=status.value, pid=container.init_pid)
    try:
        group = container.cgroup(facts.hierarchies)
        _read_group(state, group, facts)
        state.network = _read_network(container, instance.config)
    except OSError as error:
        if container.exited.is_set():
            return None
        log.debug("State of %s is incomplete: %s", instance.storage_name, error)
    return state


def _read_group(state: InstanceState, group: Cgroup, facts: HostFacts) -> None:
    with contextlib.suppress(OSError):
        state.cpu = InstanceStateCPU(usage=group.cpu_times().total_ns)
    memory = group.memory_usage()
    state.memory = InstanceStateMemory(
        usage=memory.used,
        usage_peak=memory.peak,
        total=min(memory.limit or facts.memory_total, facts.memory_total),
        swap_usage=memory.swap_used,
        swap_usage_peak=memory.swap_peak,
    )
    with contextlib.suppress(OSError):
        state.processes = group.count_processes()


def _read_network(container: RunningContainer, config: Mapping[str, str]) -> dict[str, InstanceStateNetwork]:
    with Netlink(container.init_pidfd) as netlink:
        links = netlink.list_links(with_addresses=True)
    by_mac = {
        config[f"volatile.{name}.hwaddr"].lower(): host_name
        for key, host_name in config.items()
        if key.startswith("volatile.")
        and key.endswith(".host_name")
        and f"volatile.{(name := key.removeprefix('volatile.').removesuffix('.host_name'))}.hwaddr" in config
    }
    return {link.name: _network(link, by_mac, config) for link in links}


def _network(link: Link, by_mac: Mapping[str, str], config: Mapping[str, str]) -> InstanceStateNetwork:
    counters = link.counters
    return InstanceStateNetwork(
        addresses=[
            InstanceStateNetworkAddress(
                family=one.family, address=one.address, netmask=str(one.prefix), scope=one.scope
            )
            for one in link.addresses
        ],
        counters=InstanceStateNetworkCounters(
            bytes_received=counters.bytes_received,
            bytes_sent=counters.bytes_sent,
            packets_received=counters.packets_received,
            packets_sent=counters.packets_sent,
            errors_received=counters.errors_received,
            errors_sent=counters.errors_sent,
            packets_dropped_outbound=counters.packets_dropped_outbound,
            packets_dropped_inbound=counters.packets_dropped_inbound,
        ),
        hwaddr="" if link.type == "loopback" else link.mac,
        host_name=by_mac.get(link.mac.lower(), config.get(f"volatile.{link.name}.host_name", "")),
        mtu=link.mtu,
        state="up" if link.is_up else "down",
        type=link.type,
    )


async def _disks(context: Context, instances: list[Instance]) -> dict[int, dict[str, InstanceStateDisk]]:
    """Use of the root disks, by instance and device; those whose pool does not count are left out."""
    roots: dict[tuple[str, str, str, VolumeType], tuple[int, str]] = {}
    for instance in instances:
        with contextlib.suppress(CorralError):
            name, root = registry.find_root_disk(instance.expanded_devices)
            kind = VolumeType.CONTAINER if instance.is_container else VolumeType.VM
            roots[root.get("pool", ""), instance.project, instance.name, kind] = (instance.id, name)
    found = list(await _find_volumes(context, roots))
    try:
        usages = await volumes.usages(context, found)
    except (CorralError, OSError) as error:
        log.debug("The use of volumes is unknown: %s", error)
        return {}
    result: dict[int, dict[str, InstanceStateDisk]] = {}
    for volume in found:
        usage = usages.get(volume.id)
        if usage is not None and usage.used is not None:
            instance_id, name = roots[volume.pool.name, volume.project, volume.name, volume.type]
            result[instance_id] = {name: InstanceStateDisk(usage=usage.used, total=usage.total or 0)}
    return result


async def _find_volumes(
    context: Context, wanted: Mapping[tuple[str, str, str, VolumeType], object]
) -> Iterable[Volume]:
    if len(wanted) == 1:
        ((pool, project, name, kind),) = wanted
        try:
            return [await volumes.get(context, pool, project, name, kind)]
        except NotFound:
            return []
    kinds = (VolumeType.CONTAINER, VolumeType.VM)
    listed = await context.db.read(storage.list_volumes, None, None, kinds)
    return [one for one in listed if (one.pool.name, one.project, one.name, one.type) in wanted]
