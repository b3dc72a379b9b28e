"""Stops, restarts, freezes and resumes instances."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator

from corral.errors import Conflict, InternalError, InvalidRequest
from corral.server.context import Context
from corral.server.host.programs import pidfd, processes
from corral.server.host.threads import in_thread
from corral.server.instances import busy, exits, running, saved_state, start, store
from corral.server.instances.container.runtime import KILL_TIMEOUT_S
from corral.server.instances.keys import parse_raw_lxc
from corral.server.instances.model import Instance
from corral.server.instances.running import RunningContainer
from corral.server.instances.spec import HostFacts
from corral.server.rollback import finish

ALREADY_STOPPED = "The instance is already stopped"
NOT_RUNNING = "The container isn't running"


@contextlib.asynccontextmanager
async def _awaiting(container: RunningContainer) -> AsyncIterator[None]:
    """While this lasts, the end of the container is expected and its clean-up is the caller's."""
    container.awaited += 1
    try:
        yield
    finally:
        container.awaited -= 1


async def stop_instance(
    context: Context, project: str, name: str, *, force: bool = False, timeout_s: float = -1, stateful: bool = False
) -> None:
    """Stop a running instance: ask its init and wait (a negative timeout waits for ever), or kill it.

    With `stateful` its state is saved instead, for the next start to continue with.
    """
    instance = await context.db.read(store.get_instance, project, name)
    container = running.find(context, instance)
    if container is None and busy.holder(context, instance.id) is None:
        raise InvalidRequest(ALREADY_STOPPED)
    if stateful:
        await saved_state.check(context, instance, "Stateful stop")
    kill = not stateful and (force or timeout_s == 0)
    if kill and container is not None and busy.holder(context, instance.id) in ("stop", "restart"):
        # Somebody waits for a graceful stop: end it, and let them clean up.
        await _kill(context, container)
    async with busy.claim(context, instance.id, "stop", ("stop", "start")) as waited:
        instance = await context.db.read(store.reload, instance.id)
        container = running.find(context, instance)
        if container is None:
            if waited:
                return
            raise InvalidRequest(ALREADY_STOPPED)
        if stateful:
            await finish(_end_with_state(context, instance, container))
        else:
            await end(context, instance, container, timeout_s=0 if kill else timeout_s)
        start.publish(context, instance, "instance-stopped" if kill or stateful else "instance-shutdown")
        if instance.ephemeral:
            await exits.after_exit(context, instance, "stop")


async def end(context: Context, instance: Instance, container: RunningContainer, *, timeout_s: float) -> None:
    """End a container and clean up; with a timeout of 0 it is killed. The caller has claimed the instance."""
    async with _awaiting(container):
        try:
            if timeout_s == 0:
                await _kill(context, container)
            else:
                await _shut_down(context, instance, container, timeout_s)
        except BaseException:
            # Cancelled or late, but it may have ended just now: then nobody else would clean up.
            if container.exited.is_set():
                await exits.clean_up(context, instance, container)
            raise
        await exits.clean_up(context, instance, container)


async def _end_with_state(context: Context, instance: Instance, container: RunningContainer) -> None:
    """Save the state of a container, which ends it. What a daemon that dies here leaves is settled at its start."""
    if instance.ephemeral:
        raise InvalidRequest("An ephemeral instance is deleted when it stops: its state cannot be kept")
    async with _awaiting(container):
        await context.db.write(store.mark_pending, instance.id, saved_state.pending_mark())
        try:
            await saved_state.save(context, instance, container, stops=True)
            async with asyncio.timeout(KILL_TIMEOUT_S):
                await container.exited.wait()
        except BaseException:
            await context.db.write(saved_state.set_stateful, instance.id, False)
            if container.exited.is_set():
                await exits.clean_up(context, instance, container)
            raise
        await exits.clean_up(context, instance, container)
        await context.db.write(saved_state.note_saved, instance.id)


async def _kill(context: Context, container: RunningContainer) -> None:
    if not container.exited.is_set():
        pidfd.kill_and_forget(container.init_pidfd)
        if container.frozen:
            await in_thread(_thaw, context, container)
    try:
        async with asyncio.timeout(KILL_TIMEOUT_S):
            await container.exited.wait()
    except TimeoutError:
        raise InternalError(
            f"Failed to stop {container.name}: its processes did not end within {KILL_TIMEOUT_S:g} s of SIGKILL; they "
            "probably wait for a device or a network file system"
        ) from None


def _thaw(context: Context, container: RunningContainer) -> None:
    with contextlib.suppress(OSError):
        container.cgroup(context.parts[HostFacts].hierarchies).thaw()


async def _shut_down(context: Context, instance: Instance, container: RunningContainer, timeout_s: float) -> None:
    if container.frozen:
        await in_thread(_thaw, context, container)
        container.frozen = False
        start.publish(context, instance, "instance-resumed")
    number = await in_thread(_halt_signal, instance, container.init_pid)
    with contextlib.suppress(ProcessLookupError):
        pidfd.send_signal(container.init_pidfd, number)
    try:
        async with asyncio.timeout(timeout_s if timeout_s > 0 else None):
            await container.exited.wait()
    except TimeoutError:
        raise InternalError(
            f'Failed shutting down instance, status is "Running": it did not end within {timeout_s:g} s of the signal; '
            "wait longer (--timeout) or stop it by force (--force)"
        ) from None


def _halt_signal(instance: Instance, init_pid: int) -> int:
    """The signal that asks the init to power off: `lxc.signal.halt` of raw.lxc, or what its kind of init expects."""
    for key, value in parse_raw_lxc(instance.expanded_config.get("raw.lxc", "")):
        if key == "lxc.signal.halt":
            return parse_signal(value)
    try:
        return processes.choose_halt_signal(init_pid)
    except OSError:
        return signal.SIGPWR


def parse_signal(text: str) -> int:
    """A signal by number or name, as liblxc reads it: `15`, `SIGTERM`, `RTMIN+3`."""
    if text.isdecimal():
        return int(text)
    name, _, offset = text.upper().removeprefix("SIG").partition("+")
    if name == "RTMIN":
        return signal.SIGRTMIN + int(offset or 0)
    try:
        return signal.Signals[f"SIG{name}"]
    except KeyError:
        raise InvalidRequest(f"Unknown signal {text!r} in lxc.signal.halt") from None


async def restart_instance(
    context: Context, project: str, name: str, *, force: bool = False, timeout_s: float = -1
) -> None:
    """Stop a running instance and start it again; an ephemeral one is kept.

    By force it ends a graceful stop that somebody waits for.
    """
    instance = await context.db.read(store.get_instance, project, name)
    kill = force or timeout_s == 0
    container = running.find(context, instance)
    if kill and container is not None and busy.holder(context, instance.id) in ("stop", "restart"):
        await _kill(context, container)
    async with busy.claim(context, instance.id, "restart", ("stop", "restart") if kill else ()) as waited:
        instance = await context.db.read(store.reload, instance.id)
        container = running.find(context, instance)
        if container is None and not waited:
            raise InvalidRequest(ALREADY_STOPPED)
        if container is not None:
            if container.frozen and not kill:
                raise InvalidRequest("Instance is not running")
            await end(context, instance, container, timeout_s=0 if kill else timeout_s)
            instance = await context.db.read(store.reload, instance.id)
        await start.launch(context, instance)
    start.publish(context, instance, "instance-restarted")


async def freeze_instance(context: Context, project: str, name: str) -> None:
    """Halt all processes of a running instance."""
    instance = await context.db.read(store.get_instance, project, name)
    async with busy.claim(context, instance.id, "freeze"):
        container = _running_container(context, instance)
        if container.frozen:
            raise Conflict("The container is already frozen")
        await in_thread(set_frozen, context, container, True)
        container.frozen = True
    start.publish(context, instance, "instance-paused")


async def unfreeze_instance(context: Context, project: str, name: str) -> None:
    """Let the processes of a frozen instance run again."""
    instance = await context.db.read(store.get_instance, project, name)
    async with busy.claim(context, instance.id, "unfreeze"):
        container = _running_container(context, instance)
        if not container.frozen:
            raise Conflict("The container is already running")
        await in_thread(set_frozen, context, container, False)
        container.frozen = False
    start.publish(context, instance, "instance-resumed")


def _running_container(context: Context, instance: Instance) -> RunningContainer:
    container = running.find(context, instance)
    if container is None:
        raise InvalidRequest(NOT_RUNNING)
    return container


def set_frozen(context: Context, container: RunningContainer, frozen: bool) -> None:
    """Halt the processes of a container or let them go on. It waits: call it in a thread."""
    try:
        group = container.cgroup(context.parts[HostFacts].hierarchies)
    except ConnectionRefusedError as error:
        raise InvalidRequest(NOT_RUNNING) from error
    try:
        if frozen:
            group.freeze()
        else:
            group.thaw()
    except TimeoutError as error:
        if frozen:
            group.thaw()
        raise InternalError(f"Failed to freeze {container.name}: {error}") from error
    except FileNotFoundError as error:
        # It just ended, and its control groups with it.
        raise InvalidRequest(NOT_RUNNING) from error
