"""Devices of virtual machines only. A profile that serves both kinds of instance may have them: a container that gets
them by it goes without."""

from collections.abc import Callable, Mapping

from corral.server.devices.model import Check, DeviceContext, check_keys, check_pci_address
from corral.server.devices.none import NoDevice

PCI_CHECKS: dict[str, Check] = {"address": check_pci_address}


class MachineDevice(NoDevice):
    """A kind of device that a container ignores; `check` looks at the combination of keys."""

    def __init__(
        self,
        checks: Mapping[str, Check],
        required: tuple[str, ...] = (),
        check: Callable[[Mapping[str, str]], None] = lambda config: None,
    ) -> None:
        self._checks = checks
        self._required = required
        self._check = check

    def validate(self, config: Mapping[str, str], others: Mapping[str, Mapping[str, str]]) -> None:
        check_keys(config, self._checks, self._required)
        self._check(config)

    async def plug(self, device: DeviceContext) -> Mapping[str, str | None]:
        return {}

    async def unplug(self, device: DeviceContext) -> None:
        return
