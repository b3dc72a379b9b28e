"""What instances have on a managed bridge: reserved addresses and names (dnsmasq.hosts), and leases.

One file per NIC, `dnsmasq.hosts/INSTANCE.DEVICE`, holds its dhcp-host line; dnsmasq reads them again on SIGHUP.
"""

import contextlib
import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from corral.errors import Conflict, InvalidRequest
from corral.server.context import Context
from corral.server.db import nics
from corral.server.db.nics import InstanceNic
from corral.server.host.threads import in_thread
from corral.server.keys import Config
from corral.server.networks import dhcp_release, keys
from corral.server.networks.addresses import Address, eui64, free_address
from corral.server.networks.drivers.bridge import dnsmasq
from corral.server.networks.drivers.bridge.driver import plan_of
from corral.server.networks.leases import Lease, read_leases
from corral.server.networks.model import Network, NetworkType
from corral.server.networks.site import Site, site_of


@dataclass(frozen=True, slots=True)
class Reservation:
    """A NIC on a managed bridge. `instance` is the storage name (PROJECT_NAME outside the default project),
    `hostname` what the NIC is called in DNS (NAME, or NAME.PROJECT)."""

    instance: str
    device: str
    hwaddr: str
    hostname: str
    ipv4: str | None = None
    ipv6: str | None = None

    @property
    def file_name(self) -> str:
        """A device name may hold a slash: it is written as a dash, and a dash doubled."""
        return f"{self.instance}.{self.device.replace('-', '--').replace('/', '-')}"


def format_line(reservation: Reservation, dns_mode: str) -> str | None:
    """The dhcp-host line, or None where there is nothing to reserve."""
    words = [reservation.hwaddr.lower()]
    if reservation.ipv4:
        words.append(reservation.ipv4)
    if reservation.ipv6:
        words.append(f"[{reservation.ipv6}]")
    if dns_mode in ("", "managed"):
        words.append(reservation.hostname)
    return ",".join(words) if len(words) > 1 else None


def parse_line(line: str) -> tuple[str, list[Address]]:
    """The MAC address and the addresses of a dhcp-host line."""
    hwaddr, *words = line.strip().split(",")
    addresses: list[Address] = []
    for word in words:
        try:
            addresses.append(ipaddress.ip_address(word.removeprefix("[").removesuffix("]")))
        except ValueError:
            continue
    return hwaddr, addresses


def of_nic(nic: InstanceNic) -> Reservation:
    """The reservation that a NIC of an instance asks for."""
    outside = nic.project != "default"
    return Reservation(
        instance=f"{nic.project}_{nic.instance}" if outside else nic.instance,
        device=nic.device,
        hwaddr=nic.config.get("hwaddr", ""),
        hostname=f"{nic.instance}.{nic.project}" if outside else nic.instance,
        ipv4=_given(nic.config.get("ipv4.address")),
        ipv6=_given(nic.config.get("ipv6.address")),
    )


def _given(address: str | None) -> str | None:
    return None if address in (None, "", "none") else address


async def reserve(context: Context, network: Network, reservation: Reservation) -> None:
    """Write a NIC's reservation and have dnsmasq read it. Raises Conflict where another NIC has an address of it."""
    if network.type is not NetworkType.BRIDGE:
        return
    site = site_of(context.member)
    async with context.locks.hold("reservations", network.id):
        await in_thread(_reserve, site, network, reservation)


async def release(context: Context, network: Network, instance: str, device: str, hwaddr: str = "") -> None:
    """Forget a NIC's reservation and its leases; nothing where there is none.

    The MAC address is needed only for a NIC without a reservation (dns.mode other than managed and no fixed address).
    """
    if network.type is not NetworkType.BRIDGE:
        return
    site = site_of(context.member)
    name = Reservation(instance, device, "", "").file_name
    async with context.locks.hold("reservations", network.id):
        await in_thread(_release, site, network, hosts_dir(site, network) / name, hwaddr)


async def allocate(
    context: Context, network: Network, reservation: Reservation, versions: Iterable[int]
) -> Reservation:
    """The reservation with an address of each IP version, present or else free ones, after it has been written.

    For NICs that may only use known addresses (security.ipv4_filtering, security.ipv6_filtering). Raises InvalidRequest
    where the network has no DHCP for a version, Conflict where no address is free.
    """
    site = site_of(context.member)
    async with context.locks.hold("reservations", network.id):
        full = await in_thread(_allocate, site, network, reservation, tuple(versions))
        await in_thread(_reserve, site, network, full)
        return full


async def rebuild(context: Context, network: Network) -> None:
    """Write the reservations of all NICs on a network anew, as its configuration and theirs say."""
    if network.type is not NetworkType.BRIDGE:
        return
    site = site_of(context.member)
    found = await context.db.read(nics.list_instance_nics)
    wanted = [
        of_nic(nic)
        for nic in found
        if nic.network_project == network.project and nic.network == network.name and nic.config.get("hwaddr")
    ]
    async with context.locks.hold("reservations", network.id):
        await in_thread(_rebuild, site, network, wanted)
        await in_thread(dnsmasq.reload, network.name, site)


def hosts_dir(site: Site, network: Network) -> Path:
    """Where the reservations of a network are."""
    return site.directory(network.name) / dnsmasq.HOSTS


def _mode(network: Network) -> str:
    return network.config.get("dns.mode", "")


def _reserve(site: Site, network: Network, reservation: Reservation) -> None:
    if _write(site, network, reservation):
        dnsmasq.reload(network.name, site)


def _write(site: Site, network: Network, reservation: Reservation) -> bool:
    """Write one file where it differs; tells whether anything changed."""
    directory = hosts_dir(site, network)
    path = directory / reservation.file_name
    wanted = {ipaddress.ip_address(text) for text in (reservation.ipv4, reservation.ipv6) if text}
    # Most NICs ask for a name only; what the others have is read only for those that ask for an address.
    for other, addresses in _read_all(directory).items() if wanted else ():
        for address in wanted.intersection(addresses):
            if other != path.name:
                raise Conflict(f'Address {address} is already reserved on network "{network.name}" for {other}')
    line = format_line(reservation, _mode(network))
    if line is None:
        return _remove(path) is not None
    with contextlib.suppress(FileNotFoundError):
        if path.read_text() == f"{line}\n":
            return False
    try:
        # Nobody misses what a new file does not hold yet, and dnsmasq reads it again when it is whole.
        with path.open("x") as file:
            file.write(f"{line}\n")
    except FileNotFoundError:
        directory.mkdir(parents=True, exist_ok=True)
        return _write(site, network, reservation)
    except FileExistsError:
        # Outside the directory: dnsmasq reads every file in it.
        new = directory.with_name(f".{reservation.file_name}.new")
        new.write_text(f"{line}\n")
        new.chmod(0o644)
        new.replace(path)
    return True


def _remove(path: Path) -> str | None:
    """Remove one file and return the MAC address in it; None where there is none."""
    try:
        line = path.read_text()
        path.unlink()
    except FileNotFoundError:
        return None
    return parse_line(line)[0]


def _read_all(directory: Path) -> dict[str, list[Address]]:
    found = {}
    for path in directory.iterdir() if directory.exists() else ():
        try:
            found[path.name] = parse_line(path.read_text())[1]
        except FileNotFoundError:
            continue
    return found


def _rebuild(site: Site, network: Network, wanted: Iterable[Reservation]) -> None:
    """Addresses that were allocated, not configured, are kept."""
    directory = hosts_dir(site, network)
    directory.mkdir(parents=True, exist_ok=True)
    lines: dict[str, str] = {}
    taken: set[str] = set()
    present = _read_all(directory)
    for reservation in wanted:
        line = format_line(_with_present(reservation, present.get(reservation.file_name, [])), _mode(network))
        addresses = {str(address) for address in parse_line(line)[1]} if line else set()
        if line and not addresses & taken:
            lines[reservation.file_name] = line
            taken |= addresses
    for path in directory.iterdir():
        if path.name not in lines:
            path.unlink(missing_ok=True)
    for name, line in lines.items():
        path = directory / name
        if not path.exists() or path.read_text() != f"{line}\n":
            path.write_text(f"{line}\n")


def _with_present(reservation: Reservation, present: Iterable[Address]) -> Reservation:
    ipv4, ipv6 = reservation.ipv4, reservation.ipv6
    for address in present:
        if address.version == 4:
            ipv4 = ipv4 or str(address)
        else:
            ipv6 = ipv6 or str(address)
    return Reservation(reservation.instance, reservation.device, reservation.hwaddr, reservation.hostname, ipv4, ipv6)


def _allocate(site: Site, network: Network, reservation: Reservation, versions: tuple[int, ...]) -> Reservation:
    directory = hosts_dir(site, network)
    reserved = _read_all(directory)
    leases = read_leases(site.directory(network.name) / dnsmasq.LEASES)
    full = reservation
    for version in versions:
        if (full.ipv4 if version == 4 else full.ipv6) is None:
            chosen = _choose(site, network, full, version, reserved, leases)
            full = _with_present(full, [chosen])
    return full


def _choose(
    site: Site,
    network: Network,
    reservation: Reservation,
    version: int,
    reserved: Mapping[str, list[Address]],
    leases: list[Lease],
) -> Address:
    plan = plan_of(site, network)
    family = plan.ipv4 if version == 4 else plan.ipv6
    if family is None or not family.dhcp:
        raise InvalidRequest(f'Network "{network.name}" has no DHCP for IPv{version}: give the NIC an address')
    own = [address for address in reserved.get(reservation.file_name, []) if address in family.subnet]
    own += [
        lease.address
        for lease in leases
        if lease.hwaddr == reservation.hwaddr.lower() and lease.address in family.subnet
    ]
    for address in own:
        if not family.ranges or any(address in pool for pool in family.ranges):
            return address
    used = {address for addresses in reserved.values() for address in addresses} | {lease.address for lease in leases}
    subnet = family.subnet
    if isinstance(subnet, ipaddress.IPv6Network) and not (family.stateful and family.ranges):
        candidate = eui64(subnet, reservation.hwaddr)
        if candidate not in used and candidate != family.gateway.ip:
            return candidate
    return free_address(family.gateway, family.ranges, used)


def _release(site: Site, network: Network, path: Path, hwaddr: str) -> None:
    reserved = _remove(path)
    if reserved is not None:
        dnsmasq.reload(network.name, site)
    if hwaddr or reserved:
        _release_leases(site, network, hwaddr or reserved or "")


def _release_leases(site: Site, network: Network, hwaddr: str) -> None:
    gateway = Config(network.config)[keys.IPV4_ADDRESS]
    if gateway is None:
        return
    for lease in read_leases(site.directory(network.name) / dnsmasq.LEASES):
        if lease.address.version == 4 and lease.hwaddr == hwaddr.lower():
            dhcp_release.send_ipv4(network.name, str(gateway.ip), str(lease.address), lease.hwaddr, lease.client_id)
