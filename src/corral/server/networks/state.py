"""The present state of an interface of the host: addresses, counters, and what is special to bonds, bridges, VLANs."""

import os
from pathlib import Path

from corral.api import networks as wire
from corral.errors import NotFound
from corral.server.context import Context
from corral.server.host import sysfs
from corral.server.host.network.netlink import Netlink
from corral.server.host.network.rtnetlink import Address, Link
from corral.server.host.threads import in_thread
from corral.server.networks import store
from corral.server.networks.model import NetworkType

NET = Path("/sys/class/net")


async def get_state(context: Context, project: str, name: str) -> wire.NetworkState:
    """The state of a managed network's interface, or in the default project of any interface; NotFound without one."""
    network = await context.db.read(store.find_network, project, name)
    interface = name
    if network is not None and network.type is NetworkType.PHYSICAL:
        vlan = network.config.get("vlan")
        interface = f"{network.config['parent']}.{vlan}" if vlan else network.config["parent"]
    if network is None and project != "default":
        raise NotFound("Network not found")
    return await in_thread(read_state, interface)


def read_state(interface: str) -> wire.NetworkState:
    """The state of an interface by its name. Raises NotFound."""
    with Netlink() as host:
        links = host.list_links(with_addresses=True)
    link = next((link for link in links if link.name == interface), None)
    if link is None:
        raise NotFound(f'Network interface "{interface}" not found')
    counters = link.counters
    return wire.NetworkState(
        addresses=[_address(address) for address in link.addresses],
        counters=wire.NetworkStateCounters(
            bytes_received=counters.bytes_received,
            bytes_sent=counters.bytes_sent,
            packets_received=counters.packets_received,
            packets_sent=counters.packets_sent,
        ),
        hwaddr="" if link.type == "loopback" else link.mac,
        mtu=link.mtu,
        state="up" if link.is_up else "down",
        type=link.type,
        bond=_bond(NET / interface / "bonding"),
        bridge=_bridge(NET / interface),
        vlan=_vlan(link, links),
    )


def _address(address: Address) -> wire.NetworkStateAddress:
    scope = "global"
    if address.address.startswith("127") or address.address == "::1":
        scope = "local"
    elif address.address.startswith(("169.254", "fe80:")):
        scope = "link"
    return wire.NetworkStateAddress(
        family=address.family, address=address.address, netmask=str(address.prefix), scope=scope
    )


def _bond(path: Path) -> wire.NetworkStateBond | None:
    if not path.exists():
        return None
    return wire.NetworkStateBond(
        mode=sysfs.read_text(path / "mode").partition(" ")[0],
        transmit_policy=sysfs.read_text(path / "xmit_hash_policy").partition(" ")[0],
        up_delay=sysfs.read_int(path / "updelay"),
        down_delay=sysfs.read_int(path / "downdelay"),
        mii_frequency=sysfs.read_int(path / "miimon"),
        mii_state=sysfs.read_text(path / "mii_status"),
        lower_devices=sysfs.read_text(path / "slaves").split(),
    )


def _bridge(path: Path) -> wire.NetworkStateBridge | None:
    if not (path / "bridge").exists():
        return None
    return wire.NetworkStateBridge(
        id=sysfs.read_text(path / "bridge/bridge_id"),
        stp=sysfs.read_int(path / "bridge/stp_state") == 1,
        forward_delay=sysfs.read_int(path / "bridge/forward_delay"),
        vlan_default=sysfs.read_int(path / "bridge/default_pvid"),
        vlan_filtering=sysfs.read_int(path / "bridge/vlan_filtering") == 1,
        upper_devices=sorted(os.listdir(path / "brif")),
    )


def _vlan(link: Link, links: list[Link]) -> wire.NetworkStateVLAN | None:
    if link.kind != "vlan":
        return None
    lower = next((other.name for other in links if other.index == link.link), "")
    fields = dict(
        part.split(": ", 1) for part in sysfs.read_text(f"/proc/net/vlan/{link.name}").split("\t") if ": " in part
    )
    vid = fields.get("VID", "0").split()[0]
    return wire.NetworkStateVLAN(lower_device=lower, vid=int(vid))
