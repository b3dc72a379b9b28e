"""NICs on a bridge: of a managed network (`network=`) or of a bridge that the host has (`parent=`)."""

import contextlib
import ipaddress
import os
import secrets
import socket
from collections.abc import Mapping
from functools import partial
from pathlib import Path

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
from corral.server.host import pidfd
from corral.server.host.netlink import Netlink
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
        name = config.get("name")
        if name and sum(one.get("type") == "nic" and one.get("name") == name for one in others.values()) > 1:
            raise InvalidRequest(f'Duplicate NIC name detected "{name}"')

    async def prepare(self, device: DeviceContext) -> Mapping[str, str | None]:
        network = await _find_network(device)
        if network is not None:
            check_addresses(device.config, network)
        elif device.config.get("ipv4.address") or device.config.get("ipv6.address"):
            family = "ipv4" if device.config.get("ipv4.address") else "ipv6"
            raise InvalidRequest(f"Cannot use manually specified {family}.address when using unmanaged parent bridge")
        made: dict[str, str | None] = {}
        if not device.config.get("hwaddr") and not device.volatile.get("hwaddr"):
            made["hwaddr"] = generate_mac()
        if not device.config.get("name") and not device.volatile.get("name"):
            made["name"] = next(f"eth{n}" for n in range(1000) if f"eth{n}" not in device.used_names)
        return made

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
        host_name = config.get("host_name") or f"veth{secrets.token_hex(4)}"
        mac = config.get("hwaddr") or device.volatile.get("hwaddr", "")
        if network is not None:
            await _reserve(device, network, mac)
        settings = [
            ("type", "veth"),
            ("flags", "up"),
            ("link", bridge),
            ("veth.pair", host_name),
            ("name", config.get("name") or device.volatile.get("name", "eth0")),
            ("hwaddr", mac),
        ]
        mtu = config.get("mtu") or (network.config.get("bridge.mtu", "") if network is not None else "")
        if mtu:
            settings.append(("mtu", mtu))
        isolated = units.is_true(config.get("security.port_isolation"))
        return Attachment(
            nic=Nic(tuple(settings), host_name),
            volatile={"host_name": host_name},
            after_start=partial(in_thread, _tune_host_side, host_name, isolated),
        )

    async def update(self, device: DeviceContext, old: Mapping[str, str]) -> None:
        network = await _find_network(device)
        if network is not None:
            check_addresses(device.config, network)
            await _reserve(device, network, device.config.get("hwaddr") or device.volatile.get("hwaddr", ""))

    async def detach(self, device: DeviceContext) -> None:
        return

    async def plug(self, device: DeviceContext) -> Mapping[str, str | None]:
        attachment = await self.attach(device)
        assert attachment.nic is not None
        settings = dict(attachment.nic.settings)
        await in_thread(_plug, settings, device.pid)
        if attachment.after_start is not None:
            await attachment.after_start()
        return attachment.volatile

    async def unplug(self, device: DeviceContext) -> None:
        host_name = device.config.get("host_name") or device.volatile.get("host_name")
        if host_name:
            await in_thread(_unplug, host_name)

    async def remove(self, device: DeviceContext) -> None:
        try:
            network = await _find_network(device)
        except NotFound:
            return
        if network is not None:
            await reservations.release(device.context, network, device.storage_name, device.device)


def generate_mac() -> str:
    """A random address in the block that LXD uses."""
    return "00:16:3e:" + ":".join(f"{byte:02x}" for byte in secrets.token_bytes(3))


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


def _tune_host_side(host_name: str, isolated: bool) -> None:
    """The host's end of the pair is a bridge port: it must not take part in IPv6 itself."""
    with contextlib.suppress(OSError):
        Path(f"/proc/sys/net/ipv6/conf/{host_name}/disable_ipv6").write_text("1")
    if isolated:
        Path(f"/sys/class/net/{host_name}/brport/isolated").write_text("1")


def _plug(settings: Mapping[str, str], pid: int) -> None:
    """Make the pair, put one end on the bridge and the other, with its name, into the container."""
    host_name, peer = settings["veth.pair"], f"veth{secrets.token_hex(4)}"
    namespace = pidfd.open_pidfd(pid)
    try:
        with Netlink() as host:
            host.create_veth(host_name, peer, peer_mac=settings["hwaddr"], mtu=int(settings.get("mtu", 0)))
            try:
                host.set_master(host_name, settings["link"])
                host.set_up(host_name)
                host.move_link(peer, pid=pid, new_name=settings["name"])
                with Netlink(namespace) as inside:
                    inside.set_up(settings["name"])
            except BaseException:
                host.ensure_link_deleted(host_name)
                raise
    finally:
        os.close(namespace)


def _unplug(host_name: str) -> None:
    with Netlink() as host:
        host.ensure_link_deleted(host_name)
