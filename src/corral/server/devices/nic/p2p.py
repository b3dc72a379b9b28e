"""NICs that are a veth pair between host and instance, with nothing attached to the host's end."""

import ipaddress
from collections.abc import Mapping
from functools import partial

from corral.errors import NotSupported
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
    check_networks,
)
from corral.server.devices.nic import veth
from corral.server.host.netlink import Netlink, Route
from corral.server.host.threads import in_thread
from corral.server.keys import BIT_RATE, UNSIGNED

_CHECKS: dict[str, Check] = {
    "nictype": anything,
    "name": check_interface_name,
    "host_name": check_interface_name,
    "hwaddr": check_mac,
    "mtu": check_mtu,
    "ipv4.routes": check_networks,
    "ipv6.routes": check_networks,
    **dict.fromkeys(("limits.ingress", "limits.egress", "limits.max"), BIT_RATE.parse),
    "boot.priority": UNSIGNED.parse,
}


class P2pNic:
    """A veth pair; routes to the instance are set on the host's end."""

    live_keys = frozenset({"boot.priority"})

    def validate(self, config: Mapping[str, str], others: Mapping[str, Mapping[str, str]]) -> None:
        check_keys(config, _CHECKS)
        veth.check_unique_name(config, others)

    async def prepare(self, device: DeviceContext) -> Mapping[str, str | None]:
        return veth.prepare_identity(device)

    async def attach(self, device: DeviceContext) -> Attachment:
        for key in ("limits.ingress", "limits.egress", "limits.max"):
            if device.config.get(key):
                raise NotSupported(
                    f'Failed to start device "{device.device}": {key} is not supported by this server yet'
                )
        host_name = device.config.get("host_name") or veth.new_host_name()
        settings = veth.settings_of(device, host_name, mtu=device.config.get("mtu", ""))
        return Attachment(
            nic=Nic(settings, host_name),
            volatile={"host_name": host_name},
            after_start=partial(in_thread, _add_routes, host_name, routes_of(device.config)),
        )

    async def update(self, device: DeviceContext, old: Mapping[str, str]) -> None:
        return

    async def detach(self, device: DeviceContext) -> None:
        return

    async def plug(self, device: DeviceContext) -> Mapping[str, str | None]:
        attachment = await self.attach(device)
        assert attachment.nic is not None
        assert attachment.after_start is not None
        await in_thread(veth.plug, dict(attachment.nic.settings), device.pid)
        await attachment.after_start()
        return attachment.volatile

    async def unplug(self, device: DeviceContext) -> None:
        host_name = device.config.get("host_name") or device.volatile.get("host_name")
        if host_name:
            await in_thread(veth.unplug, host_name)

    async def remove(self, device: DeviceContext) -> None:
        return


def routes_of(config: Mapping[str, str]) -> list[str]:
    """The networks that are reached through the instance, of both families."""
    listed = [*config.get("ipv4.routes", "").split(","), *config.get("ipv6.routes", "").split(",")]
    return [str(ipaddress.ip_network(one.strip())) for one in listed if one.strip()]


def _add_routes(host_name: str, routes: list[str]) -> None:
    if routes:
        with Netlink() as host:
            index = host.get_link(host_name).index
            for route in routes:
                host.ensure_route(Route(route, interface=index))
