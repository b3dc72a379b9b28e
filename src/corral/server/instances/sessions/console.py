"""The console of a container: attached through websockets, or its log."""

import asyncio
import contextlib
import logging
import os
from collections.abc import Mapping
from typing import Any

import msgspec

from corral.api.instance_exec import Control, InstanceConsolePost
from corral.api.urls import url
from corral.errors import Busy, InvalidRequest
from corral.server.context import Context
from corral.server.events.model import Lifecycle
from corral.server.host.programs import terminal
from corral.server.host.programs.liblxc_socket import Console
from corral.server.host.threads import in_thread
from corral.server.instances import running, store
from corral.server.instances.model import Instance, log_dir
from corral.server.instances.sessions import exec as commands
from corral.server.instances.sessions.channels import Connections, Disconnected, pump_in, pump_out
from corral.server.instances.sessions.exec import Target

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 30.0
TYPES = ("console", "vga")


async def open_session(context: Context, project: str, name: str, body: InstanceConsolePost) -> "Session":
    """A session on the console of a running container. Raises InvalidRequest for what it does not have."""
    kind = body.type or "console"
    if kind not in TYPES:
        raise InvalidRequest(f'Unknown console type "{kind}"')
    instance = await context.db.read(store.get_instance, project, name)
    if kind == "vga" and instance.is_container:
        raise InvalidRequest("VGA console is only supported by virtual machines")
    return Session(await commands.get_target(context, project, name), body)


class Session:
    """One attachment: websockets `0` and `control`. Ends when either is closed or the container ends."""

    def __init__(self, target: Target, body: InstanceConsolePost) -> None:
        self.target = target
        self._body = body
        self.connections = Connections(("0", "control"))

    async def run(self) -> dict[str, Any]:
        """Wait for the client and pass bytes both ways until one side ends."""
        try:
            await self.connections.wait(("0",), CONNECT_TIMEOUT_S)
            console = await self._attach()
            try:
                await self._mirror(console)
            finally:
                console.close()
        finally:
            self.connections.finish()
        return {}

    async def _attach(self) -> Console:
        instance = self.target.instance
        try:
            monitor = self.target.container.monitor
            if await in_thread(monitor.get_config_item, "lxc.console.path") == "none":
                raise InvalidRequest(
                    f"The console of {instance.name} cannot be attached since its state was restored: restart the "
                    "instance for that"
                )
            console = await in_thread(monitor.open_console)
        except BlockingIOError:
            raise Busy(
                f"The console of {instance.name} is in use by another client: detach that one (ctrl+a q) and try again"
            ) from None
        except ConnectionError:
            raise InvalidRequest("Instance is not running") from None
        os.set_blocking(console.fd, False)
        _publish(self.target.context, instance, "instance-console", {"type": "console"})
        return console

    async def _mirror(self, console: Console) -> None:
        if self._body.width > 0 and self._body.height > 0:
            await self._resize(console, self._body.width, self._body.height)
        channel = self.connections.get("0")
        tasks = [
            asyncio.create_task(work, name="console")
            for work in (pump_out(console.fd, channel), pump_in(channel, console.fd), self._control(console))
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(result, Exception) and not isinstance(result, Disconnected):
                    log.error("A stream of a console failed", exc_info=result)
        with contextlib.suppress(Disconnected):
            await channel.send(b"\n\r")
        await channel.send_end()

    async def _control(self, console: Console) -> None:
        channel = await self.connections.connected("control")
        while True:
            message = await channel.receive()
            try:
                control = msgspec.json.decode(message.data, type=Control)
                if control.command == "window-resize":
                    args = control.args or {}
                    await self._resize(console, int(args["width"]), int(args["height"]))
            except (msgspec.MsgspecError, KeyError, ValueError, OSError) as error:
                log.debug("Control message of a console not obeyed: %s", error)

    async def _resize(self, console: Console, width: int, height: int) -> None:
        terminal.set_size(console.fd, width, height)
        await in_thread(self.target.container.monitor.console_resized)


def _publish(context: Context, instance: Instance, action: str, more: Mapping[str, str] | None = None) -> None:
    source = url("/1.0/instances", instance.name, project=instance.project)
    context.events.publish(Lifecycle(action, source, instance.project, more or {}))


async def _get_container(context: Context, project: str, name: str) -> Instance:
    if "/" in name:
        raise InvalidRequest("Invalid instance name")
    instance = await context.db.read(store.get_instance, project, name)
    if not instance.is_container:
        raise InvalidRequest("Instance is not container type")
    return instance


async def read_log(context: Context, project: str, name: str) -> bytes:
    """What the console showed: the ring buffer of a running container, the log on the disk of a stopped one."""
    instance = await _get_container(context, project, name)
    container = running.find(context, instance)
    _publish(context, instance, "instance-console-retrieved")
    if container is not None:
        with contextlib.suppress(ConnectionError):
            data = await in_thread(container.monitor.read_console_log)
            # A C string: the buffer's unused end.
            return data.rstrip(b"\0")
    try:
        return await in_thread((log_dir(context.member, instance) / "console.log").read_bytes)
    except FileNotFoundError:
        return b""


async def clear_log(context: Context, project: str, name: str) -> None:
    """Forget what the console showed."""
    instance = await _get_container(context, project, name)
    container = running.find(context, instance)
    _publish(context, instance, "instance-console-reset")
    if container is not None:
        with contextlib.suppress(ConnectionError):
            await in_thread(container.monitor.clear_console_log)
            return
    with contextlib.suppress(FileNotFoundError):
        await in_thread(os.truncate, log_dir(context.member, instance) / "console.log", 0)
