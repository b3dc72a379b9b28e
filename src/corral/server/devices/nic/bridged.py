"""NICs on a bridge: of a managed network (`network=`) or of a bridge that the host has (`parent=`)."""

from collections.abc import Mapping
from functools import partial

from corral import units
from corral.errors import InvalidRequest, NotFound
from corral.server.db import nics
from corral.server.db.database import Tx
from corral.server.db.nics import InstanceNic
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
    or_none,
)
from corral.server.devices.nic import addressing, filters, limits, routes, veth, vlans
from corral.server.host import sysfs
from corral.server.host.threads import in_thread
from corral.server.keys import BOOL, UNSIGNED32
from corral.server.networks import reservations
from corral.server.networks import store as networks
from corral.server.networks.model import Network, NetworkType

_DEFAULT_PROJECT = "default"
"""Bridges have no projects: all projects use those of the default one."""
_DEFAULT_MTU = 1500

_FILTER_KEYS = frozenset({"security.mac_filtering", "security.ipv4_filtering", "security.ipv6_filtering"})
_CHECKS: dict[str, Check] = {
    **dict.fromkeys(("nictype", "network", "parent", "maas.subnet.ipv4", "maas.subnet.ipv6"), anything),
    "name": check_interface_name,
    "host_name": check_interface_name,
    "hwaddr": check_mac,
    "mtu": check_mtu,
    "ipv4.address": or_none(check_ipv4),
    "ipv6.address": or_none(check_ipv6),
    **routes.CHECKS,
    **limits.CHECKS,
    **dict.fromkeys((*_FILTER_KEYS, "security.port_isolation"), BOOL.parse),
    "boot.priority": UNSIGNED32.parse,
    "vlan": vlans.check_untagged,
    "vlan.tagged": vlans.check_tagged,
}
_WITH_NETWORK_BANNED = ("nictype", "parent", "mtu", "maas.subnet.ipv4", "maas.subnet.ipv6")


class BridgedNic:
    """A veth pair with one end on a bridge; liblxc makes it with the container, so it goes with the container."""

    live_keys = frozenset({"ipv4.address", "ipv6.address", "boot.priority"}) | limits.KEYS | routes.KEYS | _FILTER_KEYS

    def validate(self, config: Mapping[str, str], others: Mapping[str, Mapping[str, str]]) -> None:
        if config.get("network"):
            for key in _WITH_NETWORK_BANNED:
                if config.get(key):
                    raise InvalidRequest(f'Cannot use "{key}" property in conjunction with "network" property')
        check_keys(config, _CHECKS, () if config.get("network") else ("parent",))
        veth.check_unique_name(config, others)
        vlans.check_together(config)
        if config.get("vlan") or config.get("vlan.tagged"):
            for family in ("ipv4", "ipv6"):
                if units.is_true(config.get(f"security.{family}_filtering")):
                    raise InvalidRequest("IP filtering cannot be used with VLAN filtering")

    def check_place(self, tx: Tx, config: Mapping[str, str]) -> None:
        name = config.get("network") or config.get("parent", "")
        network = networks.find_network(tx, _DEFAULT_PROJECT, name)
        if network is None:
            addressing.check_unmanaged(config)
        elif network.type is NetworkType.BRIDGE:
            addressing.check_managed(config, network)

    async def prepare(self, device: DeviceContext) -> Mapping[str, str | None]:
        return self.prepare_on(device, await _find_network(device))

    def prepare_on(self, device: DeviceContext, network: Network | None) -> Mapping[str, str | None]:
        """The same for a network that was read already."""
        if network is not None:
            addressing.check_managed(device.config, network)
            addressing.check_dns_name(device, network)
        else:
            addressing.check_unmanaged(device.config)
        return veth.prepare_identity(device)

    async def reserve(self, device: DeviceContext) -> None:
        """Nothing where the NIC is on no managed bridge."""
        network, others = await device.context.db.read(_read_reservable, device)
        if network is not None and veth.mac_of(device):
            addressing.check_conflicts(device, network, others)
            await addressing.reserve(device, network)

    async def attach(self, device: DeviceContext) -> Attachment:
        return await self.attach_on(device, await _find_network(device))

    async def attach_on(self, device: DeviceContext, network: Network | None) -> Attachment:
        """The same for a network that was read already."""
        config = device.config
        bridge = network.name if network is not None else config["parent"]
        if not sysfs.interface_exists(bridge):
            raise NotFound(f'Failed to start device "{device.device}": Parent device "{bridge}" doesn\'t exist')
        host_name = veth.choose_host_name(device)
        if network is not None:
            await addressing.reserve(device, network)
        settings = veth.settings_of(device, host_name, bridge, _mtu(config, network, bridge))
        return Attachment(
            nic=Nic(settings, host_name),
            volatile={"host_name": host_name},
            release=partial(self._undo, device, bridge),
            after_start=partial(self._set_up, device, network, host_name, bridge),
        )

    async def _set_up(self, device: DeviceContext, network: Network | None, host_name: str, bridge: str) -> None:
        config = device.config
        await in_thread(veth.tune_host_side, host_name, units.is_true(config.get("security.port_isolation")))
        await vlans.apply(host_name, bridge, config)
        await in_thread(routes.change, bridge, [], routes.networks_of(config))
        await limits.set_up(device, host_name)
        if filters.is_filtered(config):
            await self._filter(device, network, host_name)

    async def _filter(self, device: DeviceContext, network: Network | None, host_name: str) -> None:
        allowed = await addressing.allowed_networks(device, network)
        label = filters.label_of(device.project, device.instance, device.device)
        one = filters.Filter(label, host_name, veth.mac_of(device), *allowed)
        await filters.apply(one, device.context.member.product.name)

    async def _undo(self, device: DeviceContext, bridge: str, config: Mapping[str, str] | None = None) -> None:
        """Take back what does not go with the pair: routes through the bridge, filters."""
        config = device.config if config is None else config
        await in_thread(routes.change, bridge, routes.networks_of(config), [])
        await limits.take_back(device)
        if filters.is_filtered(config):
            label = filters.label_of(device.project, device.instance, device.device)
            await filters.remove(label, device.context.member.product.name)

    async def update(self, device: DeviceContext, old: Mapping[str, str]) -> None:
        await self.prepare(device)
        await self.reserve(device)
        host_name = veth.host_name_of(device)
        if not device.pid or not host_name:
            return
        network, config = await _find_network(device), device.config
        bridge = network.name if network is not None else config["parent"]
        await in_thread(routes.change, bridge, routes.networks_of(old), routes.networks_of(config))
        await limits.change(device, host_name, old)
        if filters.is_filtered(config):
            await self._filter(device, network, host_name)
        elif filters.is_filtered(old):
            label = filters.label_of(device.project, device.instance, device.device)
            await filters.remove(label, device.context.member.product.name)

    async def restore(self, device: DeviceContext) -> None:
        """Set the routes and filters again that a repaired or changed network lost."""
        host_name = veth.host_name_of(device)
        network = await _find_network(device)
        if host_name and network is not None:
            await in_thread(routes.change, network.name, [], routes.networks_of(device.config))
            if filters.is_filtered(device.config):
                await self._filter(device, network, host_name)

    async def detach(self, device: DeviceContext) -> None:
        await veth.remove_rest(device)
        await self._undo(device, device.config.get("network") or device.config.get("parent", ""))

    async def plug(self, device: DeviceContext) -> Mapping[str, str | None]:
        return await veth.plug_attachment(device, await self.attach(device))

    async def unplug(self, device: DeviceContext) -> None:
        host_name = veth.host_name_of(device)
        if host_name:
            await in_thread(veth.unplug, host_name)
        await self.detach(device)

    async def remove(self, device: DeviceContext) -> None:
        try:
            network = await _find_network(device)
        except (NotFound, InvalidRequest):
            return
        if network is not None:
            await reservations.release(device.context, network, device.storage_name, device.device, veth.mac_of(device))


def _mtu(config: Mapping[str, str], network: Network | None, bridge: str) -> str:
    """The MTU that the config, the network or else the bridge gives; nothing where it is the usual one."""
    given = config.get("mtu") or (network.config.get("bridge.mtu", "") if network is not None else "")
    if given:
        return given
    inherited = sysfs.read_int(f"/sys/class/net/{bridge}/mtu", _DEFAULT_MTU)
    return str(inherited) if inherited != _DEFAULT_MTU else ""


async def _find_network(device: DeviceContext) -> Network | None:
    return await device.context.db.read(_network_of, device.config)


def _network_of(tx: Tx, config: Mapping[str, str]) -> Network | None:
    if not config.get("network"):
        return networks.find_network(tx, _DEFAULT_PROJECT, config.get("parent", ""))
    network = read_network(tx, config["network"])
    if network.type is not NetworkType.BRIDGE:
        raise InvalidRequest("Specified network must be of type bridge")
    return network


def read_network(tx: Tx, name: str) -> Network:
    """The network that a NIC names. Raises NotFound."""
    try:
        return networks.get_network(tx, _DEFAULT_PROJECT, name)
    except NotFound as error:
        raise NotFound(f'Failed to load network "{name}" for project "default": {error}') from error


def _read_reservable(tx: Tx, device: DeviceContext) -> tuple[Network | None, list[InstanceNic]]:
    """The bridge that a NIC is on, None where it is on something else, and the NICs that may be in its way."""
    name = device.config.get("network")
    network = read_network(tx, name) if name else _network_of(tx, device.config)
    if network is None or network.type is not NetworkType.BRIDGE:
        return None, []
    own = addressing.static_addresses(device.config)
    if not nics.is_claimed(tx, device.project, device.instance, veth.mac_of(device), own):
        return network, []
    return network, nics.list_instance_nics(tx)
