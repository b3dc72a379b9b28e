"""NICs that are a veth pair between host and instance, with nothing attached to the host's end."""

from collections.abc import Mapping
from functools import partial

from corral.server.devices.model import (
    Attachment,
    Check,
    DeviceContext,
    Nic,
    anything,
    check_interface_name,
    check_keys,
    check_mac,
    check_mtu,
)
from corral.server.devices.nic import limits, routes, veth
from corral.server.host.threads import in_thread
from corral.server.keys import UNSIGNED32

_CHECKS: dict[str, Check] = {
    "nictype": anything,
    "name": check_interface_name,
    "host_name": check_interface_name,
    "hwaddr": check_mac,
    "mtu": check_mtu,
    "ipv4.routes": routes.CHECKS["ipv4.routes"],
    "ipv6.routes": routes.CHECKS["ipv6.routes"],
    **limits.CHECKS,
    "boot.priority": UNSIGNED32.parse,
}


class P2pNic:
    """A veth pair; routes to the instance are set on the host's end and go with it."""

    live_keys = frozenset({"boot.priority", "ipv4.routes", "ipv6.routes"}) | limits.KEYS

    def validate(self, config: Mapping[str, str], others: Mapping[str, Mapping[str, str]]) -> None:
        check_keys(config, _CHECKS)
        veth.check_unique_name(config, others)

    async def prepare(self, device: DeviceContext) -> Mapping[str, str | None]:
        return veth.prepare_identity(device)

    async def attach(self, device: DeviceContext) -> Attachment:
        host_name = veth.choose_host_name(device)
        settings = veth.settings_of(device, host_name, mtu=device.config.get("mtu", ""))
        return Attachment(
            nic=Nic(settings, host_name),
            volatile={"host_name": host_name},
            release=partial(limits.take_back, device),
            after_start=partial(self._set_up, device, host_name),
        )

    async def _set_up(self, device: DeviceContext, host_name: str) -> None:
        await in_thread(routes.change, host_name, [], routes.networks_of(device.config))
        await limits.set_up(device, host_name)

    async def update(self, device: DeviceContext, old: Mapping[str, str]) -> None:
        host_name = veth.host_name_of(device)
        if not device.pid or not host_name:
            return
        await in_thread(routes.change, host_name, routes.networks_of(old), routes.networks_of(device.config))
        await limits.change(device, host_name, old)

    async def detach(self, device: DeviceContext) -> None:
        await limits.take_back(device)
        await veth.remove_rest(device)

    async def plug(self, device: DeviceContext) -> Mapping[str, str | None]:
        return await veth.plug_attachment(device, await self.attach(device))

    async def unplug(self, device: DeviceContext) -> None:
        host_name = veth.host_name_of(device)
        if host_name:
            await in_thread(veth.unplug, host_name)
        await limits.take_back(device)

    async def remove(self, device: DeviceContext) -> None:
        return
