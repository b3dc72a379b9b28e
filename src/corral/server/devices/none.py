"""The `none` device: masks a device of a profile and is otherwise nothing."""

from collections.abc import Mapping

from corral.server.devices.model import Attachment, DeviceContext, check_keys


class NoDevice:
    """A device that does nothing."""

    live_keys = frozenset[str]()

    def validate(self, config: Mapping[str, str], others: Mapping[str, Mapping[str, str]]) -> None:
        check_keys(config, {})

    async def prepare(self, device: DeviceContext) -> Mapping[str, str | None]:
        return {}

    async def attach(self, device: DeviceContext) -> Attachment:
        return Attachment()

    async def update(self, device: DeviceContext, old: Mapping[str, str]) -> None:
        return

    async def detach(self, device: DeviceContext) -> None:
        return

    async def remove(self, device: DeviceContext) -> None:
        return
