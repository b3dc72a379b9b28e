"""Runs commands in instances: with the client's websockets as standard streams, recorded into logs, or alone."""

import asyncio
import contextlib
import functools
import logging
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from corral import architectures
from corral.api.instance_exec import Control, InstanceExecPost
from corral.api.urls import url
from corral.errors import InvalidRequest
from corral.server.background import alongside
from corral.server.context import Context
from corral.server.events.model import Lifecycle
from corral.server.host.isolation import seccomp_filter
from corral.server.host.programs import fdio, terminal
from corral.server.host.programs.zygote import Attach, ExecRequest, Running, Zygote
from corral.server.host.threads import in_thread
from corral.server.instances import running, store
from corral.server.instances.model import Instance, log_dir
from corral.server.instances.running import RunningContainer
from corral.server.instances.security import apparmor, idmaps
from corral.server.instances.sessions.channels import (
    Channel,
    Connections,
    Disconnected,
    Flow,
    drain,
    pump_in,
    pump_out,
    until_disconnected,
)
from corral.server.instances.spec import HostFacts
from corral.server.operations import model as operations

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 30.0
DRAIN_S = 2.0
"""How long the terminal of a command that has ended must be quiet to be done, where what the command left behind holds
it open."""
_DRAIN_SIZE = 1 << 20
"""Of a terminal that is never quiet: more than the kernel holds of what the command itself wrote."""

DEFAULT_SIZE = (80, 25)
"""Columns and rows of a terminal whose client names none."""
END_OF_INPUT = b"\x04"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MORE_PATHS = (("snap", "/snap/bin"), ("etc/NIXOS", "/run/current-system/sw/bin"))
_LIBLXC_KEYS = ("raw.lxc", "raw.seccomp", "security.syscalls.", "limits.kernel.")


@dataclass(frozen=True, slots=True)
class Target:
    """A running instance that a command is for."""

    context: Context
    instance: Instance
    container: RunningContainer


async def get_target(context: Context, project: str, name: str) -> Target:
    """The running instance of a name. Raises NotFound, or InvalidRequest where it is stopped or frozen."""
    if "/" in name:
        raise InvalidRequest("Invalid instance name")
    instance = await context.db.read(store.get_instance, project, name)
    container = running.get(context, instance)
    if container.frozen:
        raise InvalidRequest("Instance is frozen")
    return Target(context, instance, container)


def compose_environment(instance: Instance, body: InstanceExecPost, init_pid: int) -> dict[str, str]:
    """The environment of a command: the request's, the instance's `environment.*`, the defaults."""
    environment = dict(body.environment)
    for key, value in instance.expanded_config.items():
        if key.startswith("environment."):
            environment.setdefault(key.removeprefix("environment."), value)
    if "PATH" not in environment:
        # Nothing is opened there: where the guest plants a link, only this list of words is one longer.
        more = [path for sign, path in _MORE_PATHS if os.path.lexists(f"/proc/{init_pid}/root/{sign}")]
        environment["PATH"] = ":".join([_PATH, *more])
    if body.user == 0:
        environment.setdefault("HOME", "/root")
        environment.setdefault("USER", "root")
    environment.setdefault("LANG", "C.UTF-8")
    environment["container"] = "lxc"
    return environment


def needs_liblxc(instance: Instance, *, privileged: bool) -> bool:
    """Whether the command must be set up by liblxc: more than namespaces, groups and the default filter hold it."""
    is_foreign = instance.architecture != architectures.local_architectures()[0]
    configured = any(key.startswith(_LIBLXC_KEYS) for key in instance.expanded_config)
    return privileged or configured or is_foreign or not _default_filter()


@functools.cache
def _default_filter() -> str:
    """The default filter of system calls for this machine; "" where only liblxc knows to make it."""
    return (seccomp_filter.compile_default(os.uname().machine) or b"").hex()


def check(body: InstanceExecPost) -> None:
    """Raise InvalidRequest for a command that cannot be."""
    if not body.command:
        raise InvalidRequest("No command specified")
    texts = [*body.command, body.cwd, *body.environment, *body.environment.values()]
    if any("\0" in text for text in texts):
        raise InvalidRequest("The command holds a NUL character")
    if any("=" in name or not name for name in body.environment):
        raise InvalidRequest("The name of an environment variable is empty or holds '='")
    if not (0 <= body.user < 1 << 32 and 0 <= body.group < 1 << 32):
        raise InvalidRequest("A user or group is a number from 0 to 4294967295")


async def start(target: Target, body: InstanceExecPost, stdio: tuple[int, int, int], *, tty: bool) -> Running:
    """Start a command with these standard descriptors, which stay the caller's."""
    context, instance, container = target.context, target.instance, target.container
    if container.init_pidfd < 0:
        raise InvalidRequest("Instance is not running")
    init = os.dup(container.init_pidfd)
    try:
        groups = container.groups
        if groups is None:
            try:
                groups = await in_thread(container.cgroup, context.parts[HostFacts].hierarchies)
            except ConnectionRefusedError as error:
                raise InvalidRequest("Instance is not running") from error
        idmap = idmaps.of_text(instance.config.get("volatile.idmap.current"))
        environment = compose_environment(instance, body, container.init_pid)
        request = ExecRequest(
            argv=body.command,
            env=environment,
            cgroups=groups.directories,
            uid=body.user,
            gid=body.group,
            cwd=body.cwd or environment.get("HOME") or "/",
            tty=tty,
            userns=idmap is not None,
            owner=_root_on_host(instance),
            apparmor=apparmor.label(context, instance) if apparmor.host(context).loads_profiles else "",
            core_of=container.init_pid if context.parts[HostFacts].core_scheduling else 0,
            seccomp=_default_filter(),
            attach=_attach(context, instance) if needs_liblxc(instance, privileged=idmap is None) else None,
        )
        command = await context.parts[Zygote].exec(request, init, stdio)
    finally:
        os.close(init)
    source = url("/1.0/instances", instance.name, project=instance.project)
    context.events.publish(Lifecycle("instance-exec", source, instance.project, {"command": body.command}))
    return command


def _attach(context: Context, instance: Instance) -> Attach:
    config = log_dir(context.member, instance) / "lxc.conf"
    return Attach(str(context.member.containers_dir), instance.storage_name, str(config))


def _root_on_host(instance: Instance, user: int = 0) -> tuple[int, int]:
    """The host's ids of a user of the instance, and of its root group."""
    idmap = idmaps.of_text(instance.config.get("volatile.idmap.current"))
    if idmap is None:
        return user, 0
    return idmap.outside_uid(user) or idmap.outside_uid(0) or 0, idmap.outside_gid(0) or 0


def _result(status: int) -> int:
    """Report an exit status as metadata and return it; 126 and 127 fail the operation as LXD's do."""
    code = 128 - status if status < 0 else status
    operations.report(**{"return": code})
    if code == 127:
        raise InvalidRequest("Command not found")
    if code == 126:
        raise InvalidRequest("Command not executable")
    return code


@contextlib.asynccontextmanager
async def _killed_at_last(command: Running) -> AsyncIterator[None]:
    """Whatever happens, the command does not outlive the block."""
    try:
        yield
    finally:
        if not command.has_ended:
            kill(command)
        command.close()


def kill(command: Running) -> None:
    """Kill a command and what is in its process group."""
    if not command.has_ended:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(command.pid, signal.SIGKILL)
        command.send_signal(signal.SIGKILL)


async def run_recorded(target: Target, body: InstanceExecPost, operation_id: str) -> dict[str, Any]:
    """Run a command without a client; its output goes to log files where the request wants that."""
    metadata: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        stack.callback(os.close, null)
        outputs = [null, null]
        if body.record_output:
            instance = target.instance
            directory = log_dir(target.context.member, instance)
            names = [f"exec_{operation_id}.{word}" for word in ("stdout", "stderr")]
            outputs = [_create_log(directory / name) for name in names]
            for fd in outputs:
                stack.callback(os.close, fd)
            base = f"/1.0/instances/{instance.name}/logs"
            metadata["output"] = {"1": f"{base}/{names[0]}", "2": f"{base}/{names[1]}"}
        command = await start(target, body, (null, outputs[0], outputs[1]), tty=False)
    operations.report(**metadata)
    async with _killed_at_last(command):
        return {"return": _result(await command.wait())}


def _create_log(path: Path) -> int:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


class Session:
    """A command whose standard streams are websockets: `0` to `2`, or `0` alone for a terminal, and `control`."""

    def __init__(self, target: Target, body: InstanceExecPost) -> None:
        self._target = target
        self._body = body
        self._streams = ("0",) if body.interactive else ("0", "1", "2")
        self.connections = Connections((*self._streams, "control"))
        self._command: Running | None = None
        self._gone = asyncio.Event()
        self._told: set[str] = set()
        """The outputs whose end the client was told."""

    async def run(self) -> dict[str, Any]:
        """Wait for the client, run the command to its end and return the operation's metadata."""
        # Old clients do not open the control connection of a command without a terminal.
        required = (*self._streams, "control") if self._body.interactive else self._streams
        try:
            await self.connections.wait(required, CONNECT_TIMEOUT_S)
            status = await (self._run_terminal() if self._body.interactive else self._run_pipes())
            return {"return": _result(status)}
        finally:
            self.connections.finish()

    async def _run_pipes(self) -> int:
        with contextlib.ExitStack() as stack:
            (stdin, feed), (out, stdout), (err, stderr) = (fdio.make_pipe() for _ in range(3))
            for fd in (out, err):
                stack.callback(os.close, fd)
            for fd in (feed, out, err):
                os.set_blocking(fd, False)
            try:
                self._command = await start(self._target, self._body, (stdin, stdout, stderr), tty=False)
            except BaseException:
                os.close(feed)
                raise
            finally:
                for fd in (stdin, stdout, stderr):
                    os.close(fd)
            async with (
                _killed_at_last(self._command),
                alongside("streams of a command", self._feed_pipe(feed), self._control(), self._watch()),
            ):
                await self._show_all((out, "1"), (err, "2"))
                return await self._command.wait()

    async def _run_terminal(self) -> int:
        with contextlib.ExitStack() as stack, contextlib.ExitStack() as held:
            master, slave = await in_thread(self._open_terminal)
            stack.callback(os.close, master)
            # Held until the command ends, which may close its terminal, and open it again, while it runs.
            held.callback(os.close, slave)
            width, height = self._body.width, self._body.height
            terminal.set_size(master, *((width, height) if width > 0 and height > 0 else DEFAULT_SIZE))
            self._command = await start(self._target, self._body, (slave, slave, slave), tty=True)
            os.set_blocking(master, False)
            flow = Flow()
            show = asyncio.create_task(self._show(master, "0", flow), name="exec terminal")
            streams = (self._feed_terminal(master), self._control(master), self._forgo(show))
            async with _killed_at_last(self._command), alongside("streams of a command", *streams):
                status = await self._command.wait()
                held.close()
                await drain(show, flow, DRAIN_S, _DRAIN_SIZE)
                show.cancel()
                await asyncio.gather(show, return_exceptions=True)
                return status

    async def _forgo(self, show: "asyncio.Task[None]") -> None:
        """Show nothing more to a client that is gone."""
        await self._gone.wait()
        show.cancel()

    def _open_terminal(self) -> tuple[int, int]:
        devpts = self._target.container.monitor.get_devpts_fd()
        try:
            return terminal.open_terminal(devpts, *_root_on_host(self._target.instance, self._body.user))
        finally:
            os.close(devpts)

    async def _show_all(self, *outputs: tuple[int, str]) -> None:
        """Send all output until its end: as with ssh, that is when no process has it open, or the client is gone."""
        tasks = [asyncio.create_task(self._show(fd, name), name="exec output") for fd, name in outputs]
        gone = asyncio.create_task(self._gone.wait(), name="exec client")
        try:
            pending: set[asyncio.Task[Any]] = {*tasks}
            while pending and not gone.done():
                await asyncio.wait({*pending, gone}, return_when=asyncio.FIRST_COMPLETED)
                pending = {task for task in pending if not task.done()}
        finally:
            for task in (*tasks, gone):
                task.cancel()
            for result in await asyncio.gather(*tasks, gone, return_exceptions=True):
                if isinstance(result, Exception):
                    log.error("The output of a command failed", exc_info=result)

    async def _show(self, fd: int, name: str, flow: Flow | None = None) -> None:
        channel = self.connections.get(name)
        try:
            await pump_out(fd, channel, flow)
        except Disconnected:
            self._client_gone("output")
        finally:
            self._told.add(name)
            await asyncio.shield(channel.send_end())

    async def _feed_pipe(self, fd: int) -> None:
        channel = self.connections.get("0")
        try:
            with contextlib.suppress(Disconnected):
                await pump_in(channel, fd)
        finally:
            os.close(fd)
        await until_disconnected(channel)

    async def _feed_terminal(self, master: int) -> None:
        channel = self.connections.get("0")
        try:
            await pump_in(channel, master)
            with contextlib.suppress(OSError):
                await fdio.write(master, END_OF_INPUT)
            await until_disconnected(channel)
        except Disconnected:
            pass
        self._client_gone("terminal")

    async def _watch(self) -> None:
        """Notice a client without a control connection that goes while the command is silent.

        It may well close an output that it was told the end of: then it waits for the other, or for the operation.
        """
        for name in ("1", "2"):
            await until_disconnected(self.connections.get(name))
            if name not in self._told:
                if self.connections.find("control") is None:
                    self._client_gone("output")
                return

    async def _control(self, master: int | None = None) -> None:
        channel: Channel = await self.connections.connected("control")
        with contextlib.suppress(Disconnected):
            while True:
                self._obey((await channel.receive()).data, master)
        self._client_gone("control")

    def _obey(self, data: bytes, master: int | None) -> None:
        try:
            message = msgspec.json.decode(data, type=Control)
            if message.command == "window-resize" and master is not None:
                args = message.args or {}
                terminal.set_size(master, int(args["width"]), int(args["height"]))
            elif message.command == "signal" and self._command is not None:
                self._command.send_signal(message.signal)
        except (msgspec.MsgspecError, KeyError, ValueError, OSError) as error:
            log.debug("Control message of a command not obeyed: %s", error)

    def _client_gone(self, what: str) -> None:
        if self._command is not None and not self._command.has_ended:
            log.info("Killing process %d: its client's %s connection is gone", self._command.pid, what)
            kill(self._command)
        self._gone.set()
