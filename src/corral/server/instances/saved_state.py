"""The saved state of an instance: the memory of its processes, which its next start continues with.

It is a directory beside the root, in the instance's volume and in each snapshot that was taken with it. The record
says whether it counts: what lies there without that is the rest of something that was cut short, and is taken away.
"""

import logging
import shutil
from pathlib import Path

from corral.errors import InternalError, InvalidRequest, NotSupported
from corral.server.context import Context
from corral.server.db.database import Tx
from corral.server.host.isolation.cgroup import Layout
from corral.server.host.isolation.idmap import IdMap
from corral.server.host.programs import command
from corral.server.host.threads import in_thread
from corral.server.instances import criu, root_volume, store
from corral.server.instances.container import checkpoint
from corral.server.instances.container.checkpoint import Target
from corral.server.instances.container.lxc_config import device_rules
from corral.server.instances.model import Instance, log_dir
from corral.server.instances.running import RunningContainer
from corral.server.instances.security import idmaps, interception
from corral.server.instances.spec import HostFacts, InstanceSpec
from corral.server.rollback import Rollback, finish
from corral.server.storage import volumes

log = logging.getLogger(__name__)

PENDING = "save state "
"""The pending mark's beginning; the id of the boot follows, after which nobody knows what reached the disk."""

_NAME = "state"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def directory_of(volume: Path) -> Path:
    """Where the state is in an instance's mounted volume."""
    return volume / _NAME


def target_of(context: Context, instance: Instance, volume: Path) -> Target:
    """The container of an instance for lxc-checkpoint."""
    return Target(
        instance.storage_name,
        context.member.containers_dir,
        log_dir(context.member, instance) / "lxc.conf",
        directory_of(volume),
    )


async def check(context: Context, instance: Instance, what: str) -> None:
    """Raise why the state of an instance cannot be saved or restored on this server."""
    reason = await criu.why_not(context)
    if reason:
        raise NotSupported(f"{what} requires CRIU: {reason}")
    if interception.wanted(instance.expanded_config, context.parts[HostFacts]):
        raise NotSupported(
            f"{what} is not possible while system calls are intercepted: CRIU cannot save what listens to them. Unset "
            "security.syscalls.intercept.* and restart the instance"
        )


async def save(context: Context, instance: Instance, container: RunningContainer, *, stops: bool) -> None:
    """Save the state of a running container that the caller has claimed; `stops` ends it with that.

    Runs to its end also if the caller is cancelled: a CRIU that is killed leaves the processes halted. A failure
    leaves the container running and no state.
    """
    if container.frozen:
        raise InvalidRequest("The instance is frozen: resume it before its state is saved")
    await finish(_save(context, instance, container, stops=stops))


async def _save(context: Context, instance: Instance, container: RunningContainer, *, stops: bool) -> None:
    volume = await root_volume.get(context, instance)
    target = target_of(context, instance, volumes.path(context.member, volume))
    group = await in_thread(_find_unified, container, context.parts[HostFacts])
    await in_thread(_make, target.state)
    try:
        await checkpoint.save(target, container.init_pid, group, stops=stops)
    except BaseException:
        await in_thread(_remove, target.state)
        raise


def _find_unified(container: RunningContainer, facts: HostFacts) -> Path | None:
    """The container's control group where these are unified."""
    return container.cgroup(facts.hierarchies).unified if facts.hierarchies.layout is Layout.UNIFIED else None


async def restore(
    context: Context, instance: Instance, spec: InstanceSpec, volume: Path, undo: Rollback
) -> RunningContainer:
    """Make an instance run from its state, whose files for liblxc are written. A failure leaves the state as it is."""
    target = target_of(context, instance, volume)
    if not await in_thread(is_there, target.state):
        raise InvalidRequest("Instance has no existing state to restore: start it with --stateless")
    await in_thread(set_readable, target.state, True)
    undo.add(in_thread, set_readable, target.state, False)
    # To its end also if the caller is cancelled: a CRIU that is killed leaves processes that are half restored.
    container: RunningContainer = await finish(checkpoint.restore(instance.id, spec, target))
    try:
        await in_thread(_limit, container, spec, context.parts[HostFacts])
        await _set_sysctls(container, spec)
    except OSError as error:
        raise InternalError(f"Failed to limit {instance.name} as it was: {error}") from error
    return container


def _limit(container: RunningContainer, spec: InstanceSpec, facts: HostFacts) -> None:
    """Set what liblxc sets at a start and not at a restore: the limits and the devices that may be used."""
    group = container.cgroup(facts.hierarchies)
    for setting in spec.limits:
        group.write(setting.controller, setting.file, setting.value)
    if spec.devices_are_limited:
        container.allow_device(facts.hierarchies, "a *:* rwm", False)
        for rule in device_rules(spec):
            container.allow_device(facts.hierarchies, rule, True)


async def _set_sysctls(container: RunningContainer, spec: InstanceSpec) -> None:
    """Set the settings of the container's namespaces, of which CRIU restores only some."""
    if not spec.sysctls:
        return
    spaces = ["--ipc", "--net", "--uts", *(["--user"] if spec.idmap is not None else [])]
    # As liblxc has it: without a dot no name leads out of /proc/sys.
    values = [f"{name.replace('.', '/')}={value}" for name, value in spec.sysctls]
    await command.run(
        ["nsenter", "--target", str(container.init_pid), *spaces, "--", "sysctl", "--quiet", "--write", *values]
    )


async def discard(context: Context, instance: Instance, volume: Path) -> None:
    """Take the state of an instance away. Its record goes first: then half of it is never believed."""
    if instance.stateful:
        await context.db.write(set_stateful, instance.id, False)
    await in_thread(_remove, directory_of(volume))


def set_stateful(tx: Tx, instance_id: int, stateful: bool) -> None:
    """Note whether an instance has a state to start from; nothing is pending then."""
    tx.execute("UPDATE instances SET stateful = ?, pending = '' WHERE id = ?", int(stateful), instance_id)


def note_saved(tx: Tx, instance_id: int) -> None:
    """Note that an instance has stopped with its state."""
    set_stateful(tx, instance_id, True)
    store.set_config(tx, instance_id, {"volatile.last_state.power": "STOPPED"})


def pending_mark() -> str:
    """The mark of an instance whose state is being saved and that stops then."""
    return PENDING + _BOOT_ID.read_text().strip()


async def settle(context: Context, instance: Instance, *, runs: bool) -> bool:
    """Decide what a stop that the daemon's death cut short has left; returns whether it is stopped with its state."""
    volume = await root_volume.get(context, instance)
    directory = await volumes.mount(context, volume)
    try:
        whole = not runs and instance.pending == pending_mark()
        if whole and await in_thread(checkpoint.is_whole, directory_of(directory)):
            await context.db.write(note_saved, instance.id)
            return True
        log.warning("The state of %s was not saved to its end: it is removed", instance.storage_name)
        await context.db.write(set_stateful, instance.id, False)
        await in_thread(_remove, directory_of(directory))
        return False
    finally:
        await volumes.unmount(context, volume)


def check_idmap(instance: Instance, wanted: IdMap | None) -> None:
    """Raise InvalidRequest where the instance would have other ids than its saved processes."""
    if instance.config.get("volatile.idmap.current") != idmaps.to_text(wanted):
        raise InvalidRequest(
            "The ids of the instance have changed since its state was saved: start it with --stateless, which discards "
            "the state"
        )


def set_readable(state: Path, readable: bool) -> None:
    """Let CRIU read the state with the rights that it restores the container with, or nobody but the server.

    The volume's directory, which only the container's root on the host can pass through, is around it in any case.
    """
    for path in state.iterdir():
        if path.is_file() and not path.is_symlink():
            path.chmod(0o644 if readable else 0o600)
    state.chmod(0o755 if readable else 0o700)


def is_there(state: Path) -> bool:
    """Whether there is something to restore."""
    return state.is_dir() and not state.is_symlink()


def _make(state: Path) -> None:
    _remove(state)
    state.mkdir(mode=0o700)


def _remove(state: Path) -> None:
    if state.is_symlink() or state.is_file():
        state.unlink()
    elif state.exists():
        checkpoint.unmount_root(state)
        shutil.rmtree(state)
