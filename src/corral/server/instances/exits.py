"""What happens when a container has ended: cleaned up by the verb that stopped it, or by the daemon if none did."""

import logging

from corral.errors import CorralError
from corral.server.background import Background
from corral.server.context import Context
from corral.server.host.threads import in_thread
from corral.server.instances import busy, delete, root_volume, start, store
from corral.server.instances.attachments import attach, hotplug
from corral.server.instances.container import runtime
from corral.server.instances.limits import cpus
from corral.server.instances.model import Instance, seccomp_path, target_path
from corral.server.instances.running import Running, RunningContainer
from corral.server.instances.security import apparmor, interception
from corral.server.instances.sessions import files
from corral.server.rollback import finish
from corral.server.storage import volumes

log = logging.getLogger(__name__)


async def clean_up(context: Context, instance: Instance, container: RunningContainer) -> str:
    """Put away what a container left whose monitor is gone, and note that it is stopped.

    Returns why it ended: `stop` or `reboot`. Runs to its end also if the caller is cancelled.
    """
    target: str = await finish(_clean_up(context, instance, container))
    return target


async def _clean_up(context: Context, instance: Instance, container: RunningContainer) -> str:
    member = context.member
    context.parts[Running].discard(container)
    hotplug.follow(context, instance)
    files.release(context, instance.id)
    target = await in_thread(runtime.read_target, target_path(member, instance))
    await interception.stop(context, instance)
    await apparmor.unload(context, instance)
    forgotten = await attach.detach_all(context, instance)
    volume = await root_volume.find(context, instance)
    if volume is not None:
        await root_volume.clear_owner(volumes.path(member, volume))
        await volumes.unmount(context, volume)
    seccomp_path(member, instance).unlink(missing_ok=True)
    values = {**forgotten, "volatile.last_state.power": "STOPPED"}
    await context.db.write(store.set_config, instance.id, values)
    await cpus.balance(context)
    log.info("Container %s ended (%s)", instance.storage_name, target)
    return target


def watch(context: Context) -> None:
    """Have the ends that no verb waits for dealt with in the background."""

    def on_surprise(container: RunningContainer) -> None:
        context.parts[Background].start(f"exit of {container.name}", _react(context, container))

    context.parts[Running].on_surprise = on_surprise


async def _react(context: Context, container: RunningContainer) -> None:
    """Clean up after a container that was ended from inside (or by somebody's kill), and start it again if asked."""
    async with busy.claim_after_all(context, container.instance_id):
        instance = await context.db.read(store.find_instance, container.instance_id)
        if instance is None or container.monitor_pidfd < 0:
            return
        target = await clean_up(context, instance, container)
        start.publish(context, instance, "instance-shutdown")
        await after_exit(context, instance, target)


async def after_exit(context: Context, instance: Instance, target: str) -> None:
    """Start what asked for a reboot, delete what was made for one run."""
    if target == "reboot":
        try:
            instance = await context.db.read(store.reload, instance.id)
            await start.launch(context, instance)
        except CorralError:
            log.exception("Failed to start %s again after its reboot", instance.storage_name)
        else:
            start.publish(context, instance, "instance-restarted")
    elif instance.ephemeral:
        await delete.remove(context, instance)
