"""What is done at the daemon's start with each instance: taken over where it runs, else what was cut short is ended."""

import logging
from collections.abc import Awaitable, Callable

from corral.errors import CorralError
from corral.server.context import Context
from corral.server.host.programs.liblxc_socket import scan_running
from corral.server.host.threads import in_thread
from corral.server.instances import delete, rename, replacing, running, saved_state, stop, store
from corral.server.instances.attachments import attach, device_changes, hotplug
from corral.server.instances.container import runtime
from corral.server.instances.copies import move, refresh
from corral.server.instances.model import Instance, target_path
from corral.server.instances.running import Running
from corral.server.instances.security import apparmor, interception
from corral.server.instances.snapshots import snapshot, snapshot_removal, stillness
from corral.server.instances.spec import HostFacts

log = logging.getLogger(__name__)

RECOVERING = "recover"
"""What is pending of an instance whose files are older than its record: they are not removed with it."""

_RESUMED: dict[str, Callable[[Context, Instance], Awaitable[None]]] = {
    rename.PENDING: rename.resume,
    move.PENDING: move.resume,
    snapshot.PENDING: snapshot.resume,
    refresh.PENDING: refresh.resume,
    replacing.PENDING: replacing.resume,
}
"""What finishes or undoes a change that was cut short, by the beginning of its mark."""


async def adopt(context: Context) -> None:
    """Take over the containers that run, finish or undo what was cut short, deal with those that ended meanwhile."""
    instances = await context.db.read(store.list_instances)
    by_name = {one.storage_name: one for one in instances if one.is_container}
    lxcpath = context.member.containers_dir
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
        container = await in_thread(runtime.connect, instance.id, context.member.containers_dir, instance.storage_name)
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
    elif instance.pending.startswith(saved_state.PENDING):
        await _settle_state(context, instance)
    elif instance.pending:
        for mark, resume in _RESUMED.items():
            if instance.pending.startswith(mark):
                await resume(context, instance)
                return
    elif running.find(context, instance) is None:
        await _look_after(context, instance)


async def _look_after(context: Context, instance: Instance) -> None:
    """See to a stopped instance that may have run until a moment ago, or whose start was cut short."""
    if instance.config.get("volatile.last_state.power") == "RUNNING":
        await _ended_meanwhile(context, instance)
    elif await in_thread(attach.has_traces, context, instance):
        log.warning("What the devices of %s took of the host is given back: it does not run", instance.storage_name)
        await interception.stop(context, instance)
        await apparmor.unload(context, instance)
        await attach.detach_all(context, instance)


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
