"""The leases of a network: what dnsmasq gave out, what instances have reserved, and the network's own addresses."""

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from corral.api import networks as wire
from corral.server.context import Context
from corral.server.db import nics
from corral.server.db.nics import InstanceNic
from corral.server.host.threads import in_thread
from corral.server.keys import Config
from corral.server.networks import keys, store
from corral.server.networks.addresses import Address, eui64
from corral.server.networks.drivers.bridge import dnsmasq
from corral.server.networks.model import Network, NetworkType
from corral.server.networks.site import site_of


@dataclass(frozen=True, slots=True)
class Lease:
    """A line of dnsmasq's lease file. IPv6 leases have no MAC address of their own, but often one in the client id."""

    address: Address
    hwaddr: str
    hostname: str
    client_id: str


def parse_leases(text: str) -> list[Lease]:
    """The leases in the text of a lease file (lines `expiry mac-or-iaid address name client-id`)."""
    leases = []
    for line in text.splitlines():
        fields = line.split()
        if len(fields) < 5:
            continue
        try:
            address = ipaddress.ip_address(fields[2])
        except ValueError:
            continue
        hwaddr = fields[1].lower() if ":" in fields[1] else fields[4][-17:].lower()
        leases.append(Lease(address, hwaddr, fields[3], fields[4]))
    return leases


def read_leases(path: Path) -> list[Lease]:
    """The leases in a file; none where there is no file."""
    try:
        return parse_leases(path.read_text(errors="replace"))
    except OSError:
        return []


async def list_leases(context: Context, project: str, name: str, asking: str) -> list[wire.NetworkLease]:
    """The leases on a network as a project sees them. `asking` is that project, `project` the network's."""
    network = await context.db.read(store.get_network, project, name)
    if network.type is not NetworkType.BRIDGE:
        return []
    found = await context.db.read(nics.list_instance_nics)
    path = site_of(context.member).directory(name) / dnsmasq.LEASES
    leases = await in_thread(read_leases, path)
    here = [nic for nic in found if nic.network_project == project and nic.network == name]
    mine = [nic for nic in here if nic.project == asking]
    foreign = {nic.config.get("hwaddr", "").lower() for nic in here if nic.project != asking}
    leases = [lease for lease in leases if lease.hwaddr not in foreign]
    return compose_leases(network, mine, leases, own_addresses=asking == project, location=context.member.location)


def compose_leases(
    network: Network, found: Sequence[InstanceNic], leases: Iterable[Lease], *, own_addresses: bool, location: str
) -> list[wire.NetworkLease]:
    """The wire form: gateways, static addresses and SLAAC addresses of the NICs, then what dnsmasq gave out (pure)."""
    listed: list[wire.NetworkLease] = []
    if own_addresses:
        listed += [
            wire.NetworkLease(hostname=f"{network.name}.gw", address=str(gateway.ip), type="gateway")
            for gateway in (Config(network.config)[keys.IPV4_ADDRESS], Config(network.config)[keys.IPV6_ADDRESS])
            if gateway is not None
        ]
    for nic in found:
        listed += _leases_of_nic(network, nic, location)
    known = {nic.config.get("hwaddr", "").lower() for nic in found}
    present = {(lease.hwaddr, lease.address) for lease in listed}
    for lease in leases:
        if (lease.hwaddr, str(lease.address)) in present:
            continue
        hwaddr = lease.hwaddr if lease.address.version == 4 else ""
        # Not every lease of IPv6 tells whose it is: such a one is shown to the network's own project only.
        if lease.hwaddr not in known and (hwaddr or not own_addresses):
            continue
        listed.append(
            wire.NetworkLease(
                hostname=lease.hostname, hwaddr=hwaddr, address=str(lease.address), type="dynamic", location=location
            )
        )
    return listed


def _leases_of_nic(network: Network, nic: InstanceNic, location: str) -> list[wire.NetworkLease]:
    config = Config(network.config)
    hwaddr = nic.config.get("hwaddr", "").lower()
    found = [
        (nic.config[key], "static") for key in ("ipv4.address", "ipv6.address") if nic.config.get(key, "none") != "none"
    ]
    gateway = config[keys.IPV6_ADDRESS]
    if hwaddr and isinstance(gateway, ipaddress.IPv6Interface) and not config[keys.IPV6_DHCP_STATEFUL]:
        found.append((str(eui64(gateway.network, hwaddr)), "dynamic"))
    return [
        wire.NetworkLease(hostname=nic.instance, hwaddr=hwaddr, address=address, type=kind, location=location)
        for address, kind in found
    ]
