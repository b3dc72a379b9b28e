"""What instances need when the daemon starts and when the host goes down."""

import asyncio
import logging
from collections.abc import Iterable
from itertools import groupby

from corral.errors import CorralError, NotSupported
from corral.server.background import Background
from corral.server.context import Context
from corral.server.events.problems import Problem, ProblemSolved
from corral.server.host.isolation import idmap
from corral.server.host.programs.liblxc_socket import scan_running
from corral.server.host.programs.zygote import Zygote
from corral.server.host.threads import in_thread
from corral.server.instances import (
    busy,
    delete,
    exits,
    facts,
    keys,
    reactions,
    rename,
    replacing,
    running,
    saved_state,
    start,
    stop,
    store,
)
from corral.server.instances.attachments import attach, device_changes, hotplug
from corral.server.instances.attachments.hotplug import Followers
from corral.server.instances.backup.backup_file import Outdated
from corral.server.instances.container import runtime
from corral.server.instances.copies import move, refresh
from corral.server.instances.criu import Criu
from corral.server.instances.guest.guest_events import GuestEvents
from corral.server.instances.inventory import Inventory
from corral.server.instances.limits import host_limits
from corral.server.instances.metrics import Collected
from corral.server.instances.model import Instance, containers_dir, target_path
from corral.server.instances.running import Running
from corral.server.instances.security import apparmor, interception
from corral.server.instances.security.idmaps import HostIds
from corral.server.instances.security.interception import Interceptors
from corral.server.instances.sessions.files import FileServers
from corral.server.instances.snapshots import scheduling, snapshot, snapshot_removal, stillness
from corral.server.instances.spec import HostFacts
from corral.server.keys import Config
from corral.units import is_true

log = logging.getLogger(__name__)

RECOVERING = "recover"
"""What is pending of an instance whose files are older than its record: they are not removed with it."""
AUTOSTART_PATIENCE_S = 10.0
"""How long the start of the daemon waits for instances that are started with it; the rest goes on behind."""
_NOT_STARTED = "Failed to autostart instance"
START_ATTEMPTS = 3
RETRY_S = 5.0
_PARALLEL_STOPS = 8


async def add_parts(context: Context) -> None:
    """Find out what the host offers and make the daemon's parts for instances."""
    found = await in_thread(facts.detect, context.member.product)
    context.parts.add(found, HostFacts)
    if not found.in_user_namespace:
        await in_thread(host_limits.raise_host_limits)
    context.parts.add(await in_thread(_host_ids))
    context.parts.add(Running())
    context.parts.add(Criu())
    context.parts.add(await Inventory.open(context.db))
    context.parts.add(GuestEvents())
    context.parts.add(Collected())
    context.parts.add(Outdated())
    context.parts.add(Interceptors(context))
    context.parts.add(FileServers())
    context.parts.add(Zygote()).ensure_started()
    await scheduling.add_part(context)
    hotplug.add_part(context)
    exits.watch(context)
    await apparmor.report(context)
    reactions.listen(context)


async def close_parts(context: Context) -> None:
    """Let go of what the parts hold; instances and their commands run on."""
    context.parts[Followers].close()
    context.parts[Interceptors].close()
    context.parts[FileServers].close()
    await context.parts[Zygote].close()
    context.parts[Running].close()


def _host_ids() -> HostIds:
    try:
        uids, gids = idmap.get_default_ranges()
    except NotSupported as error:
        log.warning("%s", error)
        return HostIds(None, None, str(error))
    return HostIds(uids, gids)


async def adopt(context: Context) -> None:
    """Take over the containers that run, finish or undo what was cut short, deal with those that ended meanwhile."""
    instances = await context.db.read(store.list_instances)
    by_name = {one.storage_name: one for one in instances if one.is_container}
    lxcpath = containers_dir(context.member)
    await in_thread(runtime.wait_for_starts, lxcpath)
    for name in await in_thread(scan_running, str(lxcpath), list(by_name)):
        instance = by_name.get(name)
        if instance is None or instance.pending == RECOVERING:
            # All that is left of an instance after its database was lost may be this.
            log.warning("Container %s runs and belongs to no instance: it is left alone until its recovery", name)
        elif instance.pending in ("create", "delete"):
            log.warning("Container %s runs and belongs to no instance: killed", name)
            await runtime.destroy(lxcpath, name)
        else:
            await adopt_container(context, instance)
    for instance in instances:
        try:
            await _resume(context, instance)
        except (CorralError, OSError):
            log.exception("Failed to bring instance %s in order", instance.storage_name)
    await snapshot_removal.sweep(context)
    await hotplug.refresh_all(context)


async def adopt_container(context: Context, instance: Instance) -> None:
    """Take over the running container of an instance."""
    try:
        container = await in_thread(runtime.connect, instance.id, containers_dir(context.member), instance.storage_name)
    except OSError:
        log.warning("Container %s ended while it was taken over", instance.storage_name)
        return
    if instance.config.get("volatile.last_state.power") != "RUNNING":
        # What its start had still to do (devices, keys of its id map) nobody knows any more.
        log.warning("The start of container %s was cut short: it is stopped", instance.storage_name)
        context.parts[Running].add(container)
        await stop.end(context, instance, container, timeout_s=0)
        return
    hierarchies = context.parts[HostFacts].hierarchies
    await stillness.resume(context, instance, container)
    try:
        container.frozen = (await in_thread(container.cgroup, hierarchies)).is_frozen()
    except OSError:
        container.frozen = False
    context.parts[Running].add(container)
    await device_changes.finish(context, instance)
    hotplug.follow(context, instance)
    await interception.adopt(context, instance)
    log.info("Container %s is running", instance.storage_name)


async def _resume(context: Context, instance: Instance) -> None:
    if instance.pending in ("create", "delete"):
        log.info("Removing instance %s: its %s was cut short", instance.storage_name, instance.pending)
        await delete.wipe(context, instance)
    elif instance.pending == RECOVERING:
        log.info("Forgetting instance %s again: its recovery was cut short", instance.storage_name)
        await context.db.write(store.delete_instance, instance.id)
    elif instance.pending.startswith(rename.PENDING):
        await rename.resume(context, instance)
    elif instance.pending.startswith(move.PENDING):
        await move.resume(context, instance)
    elif instance.pending.startswith(snapshot.PENDING):
        await snapshot.resume(context, instance)
    elif instance.pending == refresh.PENDING:
        await refresh.resume(context, instance)
    elif instance.pending.startswith(replacing.PENDING):
        await replacing.resume(context, instance)
    elif instance.pending.startswith(saved_state.PENDING):
        await _settle_state(context, instance)
    elif instance.config.get("volatile.last_state.power") == "RUNNING" and not running.find(context, instance):
        await _ended_meanwhile(context, instance)


async def _settle_state(context: Context, instance: Instance) -> None:
    """A stop that was to save the state was cut short: it had been made, or the instance runs, or it ended without."""
    container = running.find(context, instance)
    stopped = await saved_state.settle(context, instance, runs=container is not None)
    if container is None:
        await _ended_meanwhile(context, instance, "stop" if stopped else "")
    elif container.frozen:
        # As CRIU leaves it when it is killed, too.
        await in_thread(stop.set_frozen, context, container, False)
        container.frozen = False


async def _ended_meanwhile(context: Context, instance: Instance, target: str = "") -> None:
    """A container ended while no daemon ran. One that powered itself off stays off; a killed one is started again."""
    path = target_path(context.member, instance)
    told = await in_thread(path.exists)
    read = await in_thread(runtime.read_target, path) if told else "reboot"
    target = target or read
    await interception.stop(context, instance)
    await apparmor.unload(context, instance)
    await attach.detach_all(context, instance)
    if instance.ephemeral and target != "reboot":
        await delete.remove(context, instance)
    elif target != "reboot":
        await context.db.write(store.set_config, instance.id, {"volatile.last_state.power": "STOPPED"})


def wants_autostart(instance: Instance) -> bool:
    """Whether the instance starts with the daemon: when told so, or, told nothing, when it ran before."""
    wish = instance.expanded_config.get("boot.autostart", "")
    return is_true(wish) if wish else instance.config.get("volatile.last_state.power") == "RUNNING"


async def autostart(context: Context) -> None:
    """Start the instances that start with the daemon; returns when they run, or after some seconds."""
    instances = [one for one in await context.db.read(store.list_instances) if wants_autostart(one)]
    stopped = [one for one in instances if running.find(context, one) is None]
    if not stopped:
        return
    task = context.parts[Background].start("autostart of instances", _start_all(context, stopped))
    await asyncio.wait([task], timeout=AUTOSTART_PATIENCE_S)


async def _start_all(context: Context, instances: list[Instance]) -> None:
    """Highest priority first; those of the same priority at once, except where a delay keeps them apart."""

    def priority(one: Instance) -> int:
        return Config(one.expanded_config)[keys.AUTOSTART_PRIORITY] or 0

    ordered = sorted(instances, key=lambda one: (-priority(one), one.name))
    for _, group in groupby(ordered, key=priority):
        together = list(group)
        if any(Config(one.expanded_config)[keys.AUTOSTART_DELAY] for one in together):
            for one in together:
                await _start(context, one)
                await asyncio.sleep(Config(one.expanded_config)[keys.AUTOSTART_DELAY] or 0)
        else:
            await asyncio.gather(*(_start(context, one) for one in together))


async def _start(context: Context, instance: Instance) -> None:
    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            await start.start_instance(context, instance.project, instance.name)
        except CorralError as error:
            if str(error) == start.ALREADY_RUNNING:
                return
            log.warning("Attempt %s to start %s failed: %s", attempt, instance.storage_name, error)
            if attempt < START_ATTEMPTS:
                await asyncio.sleep(RETRY_S)
            else:
                about = ("instance", instance.id)
                await context.events.react(Problem(_NOT_STARTED, str(error), instance.project, about))
        else:
            await context.events.react(ProblemSolved(_NOT_STARTED, instance.project, ("instance", instance.id)))
            return
    log.error("Instance %s was not started with the daemon", instance.storage_name)


async def stop_all(context: Context) -> None:
    """Stop all instances, highest `boot.stop.priority` first, and remember that they ran."""
    ids = {container.instance_id for container in context.parts[Running].list()}
    instances = [one for one in await context.db.read(store.list_instances) if one.id in ids]

    def priority(one: Instance) -> int:
        return Config(one.expanded_config)[keys.STOP_PRIORITY] or 0

    limit = asyncio.Semaphore(_PARALLEL_STOPS)
    for level, group in groupby(sorted(instances, key=lambda one: (-priority(one), one.name)), key=priority):
        log.info("Stopping instances of stop priority %s", level)
        await _stop_group(context, group, limit)


async def _stop_group(context: Context, group: Iterable[Instance], limit: asyncio.Semaphore) -> None:
    async def one(instance: Instance) -> None:
        async with limit:
            await _stop(context, instance)

    await asyncio.gather(*(one(instance) for instance in group))


async def _stop(context: Context, instance: Instance) -> None:
    timeout_s = Config(instance.expanded_config)[keys.SHUTDOWN_TIMEOUT]
    try:
        async with busy.claim_after_all(context, instance.id, "stop"):
            container = running.find(context, instance)
            if container is None:
                return
            try:
                await stop.end(context, instance, container, timeout_s=30 if timeout_s is None else max(0, timeout_s))
            except CorralError as error:
                log.warning("%s did not shut down and is killed: %s", instance.storage_name, error)
                if running.find(context, instance) is not None:
                    await stop.end(context, instance, container, timeout_s=0)
            start.publish(context, instance, "instance-shutdown")
            if instance.ephemeral:
                await delete.remove(context, instance)
            else:
                await context.db.write(store.set_config, instance.id, {"volatile.last_state.power": "RUNNING"})
    except (CorralError, OSError):
        log.exception("Failed to stop instance %s", instance.storage_name)


async def let_go(context: Context) -> None:
    """The daemon ends and the containers run on."""
    context.parts[Running].close()
