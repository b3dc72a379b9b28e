"""NICs on a bridge: of a managed network (`network=`) or of a bridge that the host has (`parent=`)."""

import ipaddress
import socket
from collections.abc import Mapping
from functools import partial

from corral import units
from corral.errors import InvalidRequest, NotFound, NotSupported
from corral.server.devices.model import (
    Attachment,
    Check,
    DeviceContext,
    Nic,
    anything,
    check_interface_name,
    check_ipv4,
    check_ipv6,
    check_keys,
    check_mac,
    check_mtu,
    check_networks,
)
from corral.server.devices.nic import veth
from corral.server.host.threads import in_thread
from corral.server.keys import BIT_RATE, BOOL, UNSIGNED
from corral.server.networks import reservations
from corral.server.networks import store as networks
from corral.server.networks.model import Network, NetworkType
from corral.server.networks.reservations import Reservation

_DEFAULT_PROJECT = "default"
"""Bridges have no projects: all projects use those of the default one."""

_CHECKS: dict[str, Check] = {
    **dict.fromkeys(("nictype", "network", "parent", "maas.subnet.ipv4", "maas.subnet.ipv6", "vlan.tagged"), anything),
    "name": check_interface_name,
    "host_name": check_interface_name,
    "hwaddr": check_mac,
    "mtu": check_mtu,
    "ipv4.address": check_ipv4,
    "ipv6.address": check_ipv6,
    **dict.fromkeys(("ipv4.routes", "ipv6.routes", "ipv4.routes.external", "ipv6.routes.external"), check_networks),
    **dict.fromkeys(("limits.ingress", "limits.egress", "limits.max"), BIT_RATE.parse),
    **dict.fromkeys(
        (
            "security.mac_filtering",
            "security.ipv4_filtering",
            "security.ipv6_filtering",
            "security.port_isolation",
        ),
        BOOL.parse,
    ),
    "boot.priority": UNSIGNED.parse,
    "vlan": anything,
}
_UNSUPPORTED = [
    "limits.ingress",
    "limits.egress",
    "limits.max",
    "security.mac_filtering",
    "security.ipv4_filtering",
    "security.ipv6_filtering",
    "ipv4.routes",
    "ipv6.routes",
    "ipv4.routes.external",
    "ipv6.routes.external",
    "vlan",
    "vlan.tagged",
]
_WITH_NETWORK_BANNED = ("nictype", "parent", "mtu", "maas.subnet.ipv4", "maas.subnet.ipv6")


class BridgedNic:
    """A veth pair with one end on a bridge; liblxc makes it with the container, so it goes with the container."""

    live_keys = frozenset({"ipv4.address", "ipv6.address", "boot.priority"})

    def validate(self, config: Mapping[str, str], others: Mapping[str, Mapping[str, str]]) -> None:
        if config.get("network"):
            for key in _WITH_NETWORK_BANNED:
                if config.get(key):
                    raise InvalidRequest(f'Cannot use "{key}" property in conjunction with "network" property')
        check_keys(config, _CHECKS, () if config.get("network") else ("parent",))
        veth.check_unique_name(config, others)

    async def prepare(self, device: DeviceContext) -> Mapping[str, str | None]:
        network = await _find_network(device)
        if network is not None:
            check_addresses(device.config, network)
        elif device.config.get("ipv4.address") or device.config.get("ipv6.address"):
            family = "ipv4" if device.config.get("ipv4.address") else "ipv6"
            raise InvalidRequest(f"Cannot use manually specified {family}.address when using unmanaged parent bridge")
        return veth.prepare_identity(device)

    async def attach(self, device: DeviceContext) -> Attachment:
        config = device.config
        unsupported = [key for key in _UNSUPPORTED if config.get(key) and config[key].lower() != "false"]
        if unsupported:
            raise NotSupported(
                f'Failed to start device "{device.device}": {unsupported[0]} is not supported by this server yet'
            )
        network = await _find_network(device)
        bridge = network.name if network is not None else config["parent"]
        if not _interface_exists(bridge):
            raise NotFound(f'Failed to start device "{device.device}": Parent device "{bridge}" doesn\'t exist')
        host_name = config.get("host_name") or veth.new_host_name()
        if network is not None:
            await _reserve(device, network, veth.mac_of(device))
        mtu = config.get("mtu") or (network.config.get("bridge.mtu", "") if network is not None else "")
        isolated = units.is_true(config.get("security.port_isolation"))
        return Attachment(
            nic=Nic(veth.settings_of(device, host_name, bridge, mtu), host_name),
            volatile={"host_name": host_name},
            after_start=partial(in_thread, veth.tune_host_side, host_name, isolated),
        )

    async def update(self, device: DeviceContext, old: Mapping[str, str]) -> None:
        network = await _find_network(device)
        if network is not None:
            check_addresses(device.config, network)
            await _reserve(device, network, veth.mac_of(device))

    async def detach(self, device: DeviceContext) -> None:
        return

    async def plug(self, device: DeviceContext) -> Mapping[str, str | None]:
        attachment = await self.attach(device)
        assert attachment.nic is not None
        settings = dict(attachment.nic.settings)
        await in_thread(veth.plug, settings, device.pid)
        if attachment.after_start is not None:
            await attachment.after_start()
        return attachment.volatile

    async def unplug(self, device: DeviceContext) -> None:
        host_name = device.config.get("host_name") or device.volatile.get("host_name")
        if host_name:
            await in_thread(veth.unplug, host_name)

    async def remove(self, device: DeviceContext) -> None:
        try:
            network = await _find_network(device)
        except NotFound:
            return
        if network is not None:
            await reservations.release(device.context, network, device.storage_name, device.device)


def check_addresses(config: Mapping[str, str], network: Network) -> None:
    """Raise InvalidRequest for a static address that the managed network cannot give."""
    for family in ("ipv4", "ipv6"):
        address, subnet = config.get(f"{family}.address", ""), network.config.get(f"{family}.address", "")
        if address in ("", "none"):
            continue
        if subnet in ("", "none") or network.config.get(f"{family}.dhcp", "").lower() in ("false", "0", "no", "off"):
            raise InvalidRequest(
                f'Cannot specify "{family}.address" when DHCP is disabled (unless using security.{family}_filtering) '
                f'on network "{network.name}"'
            )
        interface = ipaddress.ip_interface(subnet)
        wanted = ipaddress.ip_address(address)
        if wanted not in interface.network:
            raise InvalidRequest(f'Device IP address "{address}" not within network "{network.name}" subnet')
        if wanted == interface.ip:
            raise InvalidRequest(
                f'IP address "{address}" is assigned to parent managed network device "{network.name}"'
            )


async def _find_network(device: DeviceContext) -> Network | None:
    name = device.config.get("network") or device.config.get("parent", "")
    if not device.config.get("network"):
        return await device.context.db.read(networks.find_network, _DEFAULT_PROJECT, name)
    try:
        network = await device.context.db.read(networks.get_network, _DEFAULT_PROJECT, name)
    except NotFound as error:
        raise NotFound(f'Error loading network config for "{name}": {error}') from error
    if network.type is not NetworkType.BRIDGE:
        raise InvalidRequest("Specified network must be of type bridge")
    return network


async def _reserve(device: DeviceContext, network: Network, mac: str) -> None:
    def fixed(family: str) -> str | None:
        address = device.config.get(f"{family}.address", "")
        return address if address not in ("", "none") else None

    reservation = Reservation(
        instance=device.storage_name,
        device=device.device,
        hwaddr=mac,
        ipv4=fixed("ipv4"),
        ipv6=fixed("ipv6"),
        hostname=device.instance if device.project == "default" else f"{device.instance}.{device.project}",
    )
    await reservations.reserve(device.context, network, reservation)


def _interface_exists(name: str) -> bool:
    try:
        return socket.if_nametoindex(name) > 0
    except OSError:
        return False
