"""Device types that are known but that this server cannot attach: their configuration is kept, a start is refused."""

from collections.abc import Mapping

from corral.errors import NotSupported
from corral.server.devices.model import Attachment, DeviceContext


class UnsupportedDevice:
    """A device of a type that has no implementation here."""

    live_keys = frozenset[str]()

    def validate(self, config: Mapping[str, str], others: Mapping[str, Mapping[str, str]]) -> None:
        return

    async def prepare(self, device: DeviceContext) -> Mapping[str, str | None]:
        return {}

    async def attach(self, device: DeviceContext) -> Attachment:
        kind = device.config.get("nictype") or device.config.get("type", "")
        raise NotSupported(
            f'Failed to start device "{device.device}": Unsupported device type {kind!r} on this server: remove the '
            "device or mask it with a device of type none"
        )

    async def update(self, device: DeviceContext, old: Mapping[str, str]) -> None:
        return

    async def detach(self, device: DeviceContext) -> None:
        return

    async def remove(self, device: DeviceContext) -> None:
        return
