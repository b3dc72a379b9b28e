"""TPM devices: a TPM 2.0 emulated by swtpm behind the kernel's virtual TPM proxy; where these lack the start says so.

The TPM's state lives in the instance's volume, beside its root: it is kept over restarts, and goes with the device.
"""

import asyncio
import contextlib
import re
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from corral.errors import CommandFailed, InvalidRequest, NotSupported
from corral.server.devices import nodes
from corral.server.devices.model import Attachment, DeviceContext, anything, check_keys, encode_path
from corral.server.devices.nodes import Node
from corral.server.host.programs import command, helpers, processes
from corral.server.host.threads import in_thread

_CHECKS = {"path": anything, "pathrm": anything}
_ANNOUNCED = re.compile(r"New TPM device: /dev/tpm(\d+) \(major/minor = (\d+)/(\d+)\)")
_MODULE = "tpm_vtpm_proxy"
_START_TIMEOUT_S = 20.0
_REGISTERED_TIMEOUT_S = 10.0
_POLL_S = 0.02


class Tpm:
    """A virtual TPM; its emulator runs as long as the container has the device."""

    live_keys = frozenset[str]()

    def validate(self, config: Mapping[str, str], others: Mapping[str, Mapping[str, str]]) -> None:
        try:
            check_keys(config, _CHECKS, ("path", "pathrm"))
        except InvalidRequest as error:
            raise InvalidRequest(f"Failed to validate config: {error}") from error

    async def prepare(self, device: DeviceContext) -> Mapping[str, str | None]:
        return {}

    async def attach(self, device: DeviceContext) -> Attachment:
        found = await _start(device)
        try:
            attachment = await nodes.attach(device, found)
        except BaseException:
            await _end(device)
            raise
        return Attachment(mounts=attachment.mounts, rules=attachment.rules, release=partial(self.detach, device))

    async def update(self, device: DeviceContext, old: Mapping[str, str]) -> None:
        return

    async def detach(self, device: DeviceContext) -> None:
        await _end(device)
        await nodes.detach(device)

    async def remove(self, device: DeviceContext) -> None:
        await in_thread(shutil.rmtree, _state_dir(device), ignore_errors=True)

    async def plug(self, device: DeviceContext) -> Mapping[str, str | None]:
        found = await _start(device)
        try:
            await nodes.plug(device, found)
        except BaseException:
            await _end(device)
            raise
        return {}

    async def unplug(self, device: DeviceContext) -> None:
        await nodes.unplug(device)
        await _end(device)


def _state_dir(device: DeviceContext) -> Path:
    return device.instance_dir / f"tpm.{encode_path(device.device)}"


def _pid_file(device: DeviceContext) -> Path:
    return device.devices_dir / f"tpm.{encode_path(device.device)}"


def _starting_file(device: DeviceContext) -> Path:
    """Where an emulator that starts writes its number, until it is noted in the pid file."""
    return device.devices_dir / f"tpm-starting.{encode_path(device.device)}"


async def _end(device: DeviceContext) -> None:
    """End the emulator, also one that a daemon started and died before it noted it: that keeps the state locked."""
    await helpers.stop(_pid_file(device))
    starting = _starting_file(device)
    if await in_thread(starting.exists):
        for pid in await in_thread(_find_unnoted, f"file={starting}"):
            await in_thread(processes.terminate, pid)
        await in_thread(starting.unlink, missing_ok=True)


def _find_unnoted(argument: str) -> list[int]:
    found = []
    for pid in processes.list_pids():
        with contextlib.suppress(OSError):
            if argument in processes.get_command_line(pid):
                found.append(pid)
    return found


def parse_announcement(text: str) -> tuple[int, int, int] | None:
    """The TPM's number and its major and minor, from what swtpm says when it has made one."""
    match = _ANNOUNCED.search(text)
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


async def _check_environment(name: str) -> None:
    reason = ""
    if shutil.which("swtpm") is None:
        reason = "Required tool 'swtpm' is missing: install the package swtpm"
    elif not await in_thread(Path("/dev/vtpmx").exists):
        try:
            await command.run(["modprobe", "-b", _MODULE], timeout_s=30)
        except CommandFailed as error:
            why = error.stderr.strip() or error
            reason = f'Failed to load kernel module "{_MODULE}", which virtual TPMs need: {why}'
    if reason:
        raise NotSupported(f'Failed to start device "{name}": Failed to validate environment: {reason}')


async def _start(device: DeviceContext) -> list[Node]:
    """Start the emulator and return the nodes of its TPM: the plain one, and that of the resource manager."""
    await _check_environment(device.device)
    await _end(device)
    state = _state_dir(device)
    await in_thread(state.mkdir, mode=0o700, exist_ok=True)
    await in_thread(device.log_dir.mkdir, parents=True, exist_ok=True)
    await in_thread(device.devices_dir.mkdir, mode=0o711, parents=True, exist_ok=True)
    number_file = _starting_file(device)
    await in_thread(number_file.touch, 0o600)
    argv = ["swtpm", "chardev", "--tpm2", "--tpmstate", f"dir={state}", "--vtpm-proxy", "--daemon"]
    log = device.log_dir / f"tpm.{device.device.replace('/', '-')}.log"
    argv += ["--pid", f"file={number_file}", "--log", f"file={log},truncate"]
    try:
        ended = await command.run(argv, timeout_s=_START_TIMEOUT_S)
    except BaseException as error:
        await _end(device)
        if not isinstance(error, CommandFailed):
            raise
        reason = error.stderr.strip() or str(error)
        raise InvalidRequest(f'Failed to start device "{device.device}": Failed to start swtpm: {reason}') from error
    try:
        await helpers.remember(_pid_file(device), int(await in_thread(number_file.read_text)))
    finally:
        await in_thread(number_file.unlink, missing_ok=True)
    try:
        return await _find_nodes(device, ended.stdout)
    except BaseException:
        await _end(device)
        raise


async def _find_nodes(device: DeviceContext, announcement: str) -> list[Node]:
    made = parse_announcement(announcement)
    if made is None:
        raise InvalidRequest(f'Failed to start device "{device.device}": swtpm did not tell the number of its TPM')
    number, *numbers = made
    manager = await _resource_manager(device.device, number)
    return [
        nodes.of_numbers(device.config["path"], False, (numbers[0], numbers[1]), device.config),
        nodes.of_numbers(device.config["pathrm"], False, manager, device.config),
    ]


async def _resource_manager(name: str, number: int, sys: Path = Path("/sys")) -> tuple[int, int]:
    """The numbers of a TPM's other node, which is there once the kernel has spoken with the emulator."""
    path = sys / f"class/tpmrm/tpmrm{number}/dev"
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_REGISTERED_TIMEOUT_S):
            while True:
                with contextlib.suppress(OSError):
                    major, _, minor = path.read_text().strip().partition(":")
                    return int(major), int(minor)
                await asyncio.sleep(_POLL_S)
    raise InvalidRequest(f'Failed to start device "{name}": The kernel did not take the TPM that swtpm made')
