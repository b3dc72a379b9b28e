"""What NICs on a parent interface of the host share: the parent, by name or by a managed network, and its VLAN."""

from collections.abc import Mapping
from functools import partial

from corral import units
from corral.errors import InvalidRequest, NotFound
from corral.server.devices.model import (
    Check,
    DeviceContext,
    anything,
    check_interface_name,
    check_keys,
    check_mac,
    check_mtu,
)
from corral.server.devices.nic import loans, veth, vlans
from corral.server.host import sysfs
from corral.server.host.threads import in_thread
from corral.server.keys import BOOL, UNSIGNED32
from corral.server.networks import store as networks
from corral.server.networks.model import NetworkType

CHECKS: dict[str, Check] = {
    **dict.fromkeys(("nictype", "network", "parent", "maas.subnet.ipv4", "maas.subnet.ipv6"), anything),
    "name": check_interface_name,
    "hwaddr": check_mac,
    "mtu": check_mtu,
    "vlan": vlans.check_id,
    "gvrp": BOOL.parse,
    "boot.priority": UNSIGNED32.parse,
}
_WITH_NETWORK_BANNED = ("nictype", "parent", "mtu", "vlan", "maas.subnet.ipv4", "maas.subnet.ipv6", "gvrp")
CREATED = "last_state.created"


def validate(
    config: Mapping[str, str], others: Mapping[str, Mapping[str, str]], checks: Mapping[str, Check] = CHECKS
) -> None:
    """Check the keys of a NIC that needs a parent or a network."""
    if config.get("network"):
        for key in _WITH_NETWORK_BANNED:
            if config.get(key):
                raise InvalidRequest(f'Cannot use "{key}" property in conjunction with "network" property')
    check_keys(config, checks, () if config.get("network") else ("parent",))
    veth.check_unique_name(config, others)


async def resolve(device: DeviceContext, kind: NetworkType) -> dict[str, str]:
    """The NIC's config with the parent, VLAN and MTU of its managed network."""
    config = {key: value for key, value in device.config.items() if value}
    name = config.get("network")
    if not name:
        return config
    try:
        network = await device.context.db.read(networks.get_network, "default", name)
    except NotFound as error:
        raise NotFound(f'Failed to load network "{name}" for project "default": {error}') from error
    if network.type is not kind:
        raise InvalidRequest(f"Specified network must be of type {kind.value}")
    for key in ("parent", "vlan", "mtu", "gvrp"):
        if network.config.get(key):
            config[key] = network.config[key]
    return config


async def ensure(device: DeviceContext, config: Mapping[str, str]) -> tuple[str, bool]:
    """The interface to use, and whether it was made now: the VLAN of a parent, or the parent."""
    parent, vlan = config["parent"], config.get("vlan", "")
    if not sysfs.interface_exists(parent):
        raise InvalidRequest(f'Failed to start device "{device.device}": Parent device "{parent}" doesn\'t exist')
    interface = vlans.interface_of(parent, vlan)
    if not vlan or sysfs.interface_exists(interface):
        return interface, await in_thread(loans.find_vlan, device) == interface
    await in_thread(loans.note_vlan, device, interface)
    gvrp = units.is_true(config.get("gvrp"))
    try:
        created = await in_thread(partial(vlans.ensure_interface, parent, vlan, gvrp=gvrp))
    except BaseException:
        await in_thread(loans.forget_vlan, device)
        raise
    if not created:
        # Another NIC made it just now.
        await in_thread(loans.forget_vlan, device)
    return interface, created


async def release(device: DeviceContext, made: str = "") -> None:
    """Delete the interface of a VLAN where one was made for this NIC: `made`, or what is noted. Repeatable."""
    interface = await in_thread(loans.find_vlan, device) or made
    if not interface and device.volatile.get(CREATED) == "true" and device.config.get("vlan"):
        interface = vlans.interface_of(device.config.get("parent", ""), device.config["vlan"])
    if interface:
        await in_thread(vlans.remove_interface, interface)
        await in_thread(loans.forget_vlan, device)
