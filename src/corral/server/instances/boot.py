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
from corral.server.host.programs.zygote import Zygote
from corral.server.host.threads import in_thread
from corral.server.instances import (
    busy,
    delete,
    exits,
    facts,
    keys,
    reactions,
    running,
    start,
    stop,
    store,
)
from corral.server.instances.attachments import hotplug
from corral.server.instances.attachments.hotplug import Followers
from corral.server.instances.backup import backup_file
from corral.server.instances.criu import Criu
from corral.server.instances.guest.guest_events import GuestEvents
from corral.server.instances.inventory import Inventory
from corral.server.instances.limits import host_limits
from corral.server.instances.metrics import Collected
from corral.server.instances.model import Instance
from corral.server.instances.running import Running
from corral.server.instances.security import apparmor
from corral.server.instances.security.idmaps import HostIds, Planned
from corral.server.instances.security.interception import Interceptors
from corral.server.instances.sessions.files import FileServers
from corral.server.instances.snapshots import scheduling
from corral.server.instances.spec import HostFacts
from corral.server.keys import Config
from corral.units import is_true

log = logging.getLogger(__name__)

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
    context.parts.add(Planned())
    context.parts.add(Running())
    context.parts.add(Criu())
    context.parts.add(await Inventory.open(context.db))
    context.parts.add(GuestEvents())
    context.parts.add(Collected())
    await backup_file.add_part(context)
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
    await backup_file.close_part(context)
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
