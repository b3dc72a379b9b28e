"""Devices that are a set of nodes which the host has or has not: one class for all, a finder for each kind."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from corral.errors import InvalidRequest
from corral.server.devices import nodes
from corral.server.devices.model import Attachment, Check, DeviceContext, check_keys
from corral.server.devices.nodes import Node
from corral.server.host.threads import in_thread

Find = Callable[[Mapping[str, str], str], list[Node]]
"""The nodes for a config that the host has now; the text is the device's name, for errors."""


@dataclass(slots=True)
class NodeDevice:
    """A kind of device made of nodes.

    `check` looks at the combination of keys. `missing` is the error where a required device finds nothing, and
    `is_required` says whether one is. `follows` gives the paths to watch, an empty tuple for uevents alone.
    """

    checks: Mapping[str, Check]
    find: Find
    missing: str
    is_required: Callable[[Mapping[str, str]], bool]
    follows: Callable[[Mapping[str, str]], tuple[str, ...] | None]
    check: Callable[[Mapping[str, str]], None] = lambda config: None
    check_source: Callable[[DeviceContext], None] = lambda device: None
    live_keys: frozenset[str] = frozenset()

    def validate(self, config: Mapping[str, str], others: Mapping[str, Mapping[str, str]]) -> None:
        check_keys(config, self.checks)
        self.check(config)

    async def prepare(self, device: DeviceContext) -> Mapping[str, str | None]:
        self.check_source(device)
        return {}

    async def _find(self, device: DeviceContext) -> Sequence[Node]:
        found = await in_thread(self.find, device.config, device.device)
        if not found and self.is_required(device.config):
            raise InvalidRequest(f'Failed to start device "{device.device}": {self.missing}')
        return found

    async def attach(self, device: DeviceContext) -> Attachment:
        return await nodes.attach(device, await self._find(device))

    async def update(self, device: DeviceContext, old: Mapping[str, str]) -> None:
        return

    async def detach(self, device: DeviceContext) -> None:
        await nodes.detach(device)

    async def remove(self, device: DeviceContext) -> None:
        return

    async def plug(self, device: DeviceContext) -> Mapping[str, str | None]:
        await nodes.plug(device, await self._find(device))
        return {}

    async def unplug(self, device: DeviceContext) -> None:
        await nodes.unplug(device)

    def watched_paths(self, config: Mapping[str, str]) -> tuple[str, ...] | None:
        return self.follows(config)

    async def refresh(self, device: DeviceContext) -> None:
        await nodes.refresh(device, await in_thread(self.find, device.config, device.device))
