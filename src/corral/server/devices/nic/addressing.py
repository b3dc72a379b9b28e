"""Addresses of NICs on bridges: whether the network can give them, reserved in its DHCP, unique, allowed to send."""

import ipaddress
from collections.abc import Iterable, Mapping

from corral import units
from corral.errors import Conflict, InvalidRequest
from corral.server.db.nics import InstanceNic
from corral.server.devices.model import DeviceContext
from corral.server.devices.nic import routes, veth
from corral.server.devices.nic.filters import IPNetwork
from corral.server.networks import reservations
from corral.server.networks.model import Network
from corral.server.networks.reservations import Reservation

_FAMILIES = (("ipv4", 4), ("ipv6", 6))


def _is_filtered(config: Mapping[str, str], family: str) -> bool:
    return units.is_true(config.get(f"security.{family}_filtering"))


def _gives_addresses(network: Network, family: str) -> bool:
    config = network.config
    if config.get(f"{family}.address", "") in ("", "none"):
        return False
    if config.get(f"{family}.dhcp", "").lower() in ("false", "0", "no", "off"):
        return False
    return family == "ipv4" or units.is_true(config.get("ipv6.dhcp.stateful"))


def check_managed(config: Mapping[str, str], network: Network) -> None:
    """Raise InvalidRequest for a static address that the managed network cannot give."""
    for family, _ in _FAMILIES:
        address = config.get(f"{family}.address", "")
        if address:
            _check_static(config, network, family, address)


def _check_static(config: Mapping[str, str], network: Network, family: str, address: str) -> None:
    filtered = _is_filtered(config, family)
    if not _gives_addresses(network, family) and not filtered:
        what = "DHCP is" if family == "ipv4" else 'DHCP or "ipv6.dhcp.stateful" are'
        raise InvalidRequest(
            f'Cannot specify "{family}.address" when {what} disabled (unless using security.{family}_filtering) '
            f'on network "{network.name}"'
        )
    if address == "none":
        if not filtered:
            raise InvalidRequest(f"Cannot have {family}.address as none unless using security.{family}_filtering")
        return
    subnet = network.config.get(f"{family}.address", "")
    if subnet in ("", "none"):
        return
    interface, wanted = ipaddress.ip_interface(subnet), ipaddress.ip_address(address)
    if wanted not in interface.network:
        raise InvalidRequest(f'Device IP address "{address}" not within network "{network.name}" subnet')
    if wanted == interface.ip:
        raise InvalidRequest(f'IP address "{address}" is assigned to parent managed network device "{network.name}"')


def check_unmanaged(config: Mapping[str, str]) -> None:
    """Raise InvalidRequest for a static address that nobody gives, or a filter that knows no address."""
    for family, word in (("ipv4", "IPv4"), ("ipv6", "IPv6")):
        given, filtered = config.get(f"{family}.address"), _is_filtered(config, family)
        if filtered and not given:
            raise InvalidRequest(
                f"{word} filtering requires a manually specified {family}.address when using an unmanaged parent bridge"
            )
        if given and not filtered:
            raise InvalidRequest(f"Cannot use manually specified {family}.address when using unmanaged parent bridge")


def _place(config: Mapping[str, str]) -> tuple[str, str]:
    return config.get("network") or config.get("parent", ""), config.get("vlan", "")


def check_dns_name(device: DeviceContext, network: Network) -> None:
    """Raise InvalidRequest where another NIC of the instance is on the network: both would have its one DNS name."""
    for name, config in device.devices.items():
        if name == device.device or config.get("type") != "nic" or _place(config) != _place(device.config):
            continue
        raise InvalidRequest(
            f'Instance DNS name "{device.instance}" conflict between "{device.device}" and "{name}" because both are '
            "connected to same network"
        )


def static_addresses(config: Mapping[str, str]) -> set[str]:
    """The addresses that a NIC's config gives it."""
    return {config.get(f"{family}.address", "") for family, _ in _FAMILIES} - {"", "none"}


def check_conflicts(device: DeviceContext, network: Network, others: Iterable[InstanceNic]) -> None:
    """Raise Conflict where a NIC of another instance on the network has an address of this one."""
    mac = veth.mac_of(device).lower()
    own = static_addresses(device.config)
    for other in others:
        if (other.project, other.instance) == (device.project, device.instance):
            continue
        if _place(other.config) != (network.name, device.config.get("vlan", "")):
            continue
        if mac and other.config.get("hwaddr", "").lower() == mac:
            raise Conflict(f'MAC address "{mac}" already defined on another NIC')
        for family, _ in _FAMILIES:
            if other.config.get(f"{family}.address", "") in own:
                address = other.config[f"{family}.address"]
                raise Conflict(f'IP address "{address}" already defined on another NIC')


def reservation_of(device: DeviceContext) -> Reservation:
    """What the NIC asks of the network's DHCP."""

    def fixed(family: str) -> str | None:
        address = device.config.get(f"{family}.address", "")
        return address if address not in ("", "none") else None

    return Reservation(
        instance=device.storage_name,
        device=device.device,
        hwaddr=veth.mac_of(device),
        ipv4=fixed("ipv4"),
        ipv6=fixed("ipv6"),
        hostname=device.instance if device.project == "default" else f"{device.instance}.{device.project}",
    )


async def reserve(device: DeviceContext, network: Network) -> Reservation:
    """Reserve the NIC's addresses; one whose addresses are filtered gets those that it has none of. Raises Conflict."""
    wanted = reservation_of(device)
    if all(network.config.get(f"{family}.address", "") in ("", "none") for family, _ in _FAMILIES):
        # Nobody serves addresses or names there.
        await reservations.release(device.context, network, device.storage_name, device.device)
        return wanted
    versions = [
        version
        for family, version in _FAMILIES
        if _is_filtered(device.config, family)
        and device.config.get(f"{family}.address") != "none"
        and _gives_addresses(network, family)
    ]
    if versions:
        return await reservations.allocate(device.context, network, wanted, versions)
    await reservations.reserve(device.context, network, wanted)
    return wanted


Allowed = tuple[IPNetwork, ...] | None


async def allowed_networks(device: DeviceContext, network: Network | None) -> tuple[Allowed, Allowed]:
    """The addresses under which the NIC may send, by family; None for a family that is not filtered."""
    reserved = await reserve(device, network) if network is not None else reservation_of(device)
    allowed: list[Allowed] = []
    for family, version in _FAMILIES:
        if not _is_filtered(device.config, family):
            allowed.append(None)
            continue
        address = reserved.ipv4 if version == 4 else reserved.ipv6
        listed = [ipaddress.ip_network(address)] if address else []
        listed += [
            one for one in map(ipaddress.ip_network, routes.networks_of(device.config)) if one.version == version
        ]
        allowed.append(tuple(listed))
    return allowed[0], allowed[1]
