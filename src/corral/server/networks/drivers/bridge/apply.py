"""Makes a bridge on the host what its plan says, and takes it away again.

Applying is idempotent: it compares and changes what differs, so it serves creation, update, the daemon's start and
repair alike, and does not disturb what is in use.
"""

import errno
import logging
import shutil
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path

from corral.errors import CommandFailed, Conflict, InternalError, InvalidRequest, NotSupported
from corral.server.host import sysfs
from corral.server.host.network import nftables, rtnetlink
from corral.server.host.network.netlink import Netlink
from corral.server.host.network.rtnetlink import Link, Route
from corral.server.host.threads import in_thread
from corral.server.networks.drivers.bridge import dnsmasq, firewall
from corral.server.networks.drivers.bridge.plan import BridgePlan
from corral.server.networks.site import Site
from corral.server.rollback import Rollback

log = logging.getLogger(__name__)

SYSCTL = Path("/proc/sys")
MAIN_TABLE = 254
PROTOCOL_BOOT = 3


async def apply_bridge(plan: BridgePlan, site: Site, former_interfaces: Iterable[str] = ()) -> None:
    """Make the plan true: link, addresses, routes, kernel settings, dnsmasq, firewall.

    `former_interfaces` are external interfaces that may have been attached before. A bridge that was made here is
    removed again when something fails.
    """
    released = sorted(set(former_interfaces) - set(plan.external_interfaces))
    async with Rollback() as undo:
        if await in_thread(_ensure_bridge, plan.name):
            undo.add(remove_bridge, plan.name, site)
        await in_thread(_configure, plan, released)
        directory = site.directory(plan.name)
        await in_thread(directory.mkdir, mode=0o711, parents=True, exist_ok=True)
        if plan.uses_dnsmasq:
            await dnsmasq.ensure_running(plan, site)
        else:
            await dnsmasq.stop(plan.name, site)
            await in_thread((directory / dnsmasq.LEASES).unlink, missing_ok=True)
        await apply_firewall(plan, site)
        undo.commit()


async def remove_bridge(network: str, site: Site) -> None:
    """Take a bridge with its firewall rules and its dnsmasq away; nothing that is missing is an error."""
    await in_thread(_delete_bridge, network)
    await dnsmasq.stop(network, site)
    await remove_firewall(network, site)


# Link, addresses, routes


def _ensure_bridge(name: str) -> bool:
    """Create the bridge unless it is there; tells whether it was created."""
    with Netlink() as host:
        present = host.find_link(name)
        if present is None:
            try:
                host.create_bridge(name)
            except OSError as error:
                if error.errno == errno.EOPNOTSUPP:
                    raise NotSupported("The kernel has no support for bridges (module bridge)") from error
                raise InternalError(f"Failed to create bridge {name}: {error.strerror}") from error
            return True
    if present.kind != "bridge":
        raise Conflict(f'Network interface "{name}" already exists and is no bridge: rename or remove it')
    return False


def _delete_bridge(name: str) -> None:
    with Netlink() as host:
        present = host.find_link(name)
        if present is not None and present.kind == "bridge":
            host.ensure_link_deleted(name)


def _configure(plan: BridgePlan, released: Iterable[str]) -> None:
    _set_kernel(plan)
    with Netlink() as host:
        try:
            _configure_link(host, plan, released)
            _configure_addresses(host, plan)
        except OSError as error:
            raise InternalError(f'Failed to configure bridge "{plan.name}": {error.strerror or error}') from error


def _set_kernel(plan: BridgePlan) -> None:
    if (SYSCTL / "net/ipv6").exists():
        for path, value in plan.sysctls:
            _set_sysctl(path, value)
    elif plan.ipv6 is not None:
        raise NotSupported("Network has ipv6.address but kernel IPv6 support is missing: set ipv6.address=none")
    if plan.ipv4 is not None and plan.ipv4.routing:
        _set_sysctl("net/ipv4/ip_forward", "1")
    if plan.ipv6 is not None and plan.ipv6.routing:
        # A router ignores advertisements unless told otherwise: keep the host's own uplinks working (ip-sysctl.rst).
        for entry in (SYSCTL / "net/ipv6/conf").iterdir():
            if sysfs.read_text(entry / "accept_ra") == "1":
                _set_sysctl(f"net/ipv6/conf/{entry.name}/accept_ra", "2")
        _set_sysctl("net/ipv6/conf/all/forwarding", "1")


def _set_sysctl(path: str, value: str) -> None:
    if sysfs.read_sysctl(path) == value:
        return
    try:
        sysfs.write_sysctl(path, value)
    except OSError as error:
        raise InternalError(
            f"Failed to set the kernel's {path.replace('/', '.')} to {value}: {error.strerror}"
        ) from error


def _configure_link(host: Netlink, plan: BridgePlan, released: Iterable[str]) -> None:
    link = host.get_link(plan.name)
    host.set_mtu(plan.name, plan.mtu)
    if link.mac != plan.hwaddr:
        host.set_mac(plan.name, plan.hwaddr)
    try:
        Path(f"/sys/class/net/{plan.name}/bridge/vlan_filtering").write_text("1")
    except OSError as error:
        log.debug("The kernel cannot filter VLANs on bridge %s: %s", plan.name, error.strerror)
    host.set_up(plan.name)
    ports = {found.name: found for found in host.list_links(with_addresses=True)}
    for name in released:
        if name in ports and ports[name].master == link.index:
            host.set_master(name, None)
    for name in plan.external_interfaces:
        _attach(host, plan.name, link.index, ports.get(name), name)


def _attach(host: Netlink, bridge: str, index: int, port: Link | None, name: str) -> None:
    if port is None:
        log.warning("Skipping attaching missing external interface %s to bridge %s", name, bridge)
        return
    if port.master == index:
        return
    if any(address.scope == "global" for address in port.addresses):
        raise InvalidRequest(f'Only unconfigured network interfaces can be bridged: "{name}" has addresses')
    if port.master:
        raise InvalidRequest(f'Interface "{name}" belongs to another bridge or bond already')
    host.set_master(name, bridge)
    host.set_up(name)


def _configure_addresses(host: Netlink, plan: BridgePlan) -> None:
    """Addresses and static routes as planned; routes that instances have on the bridge outlive the change."""
    index = host.get_link(plan.name).index
    wanted = [str(family.gateway) for family in plan.families]
    guest_routes = [
        route
        for route in _routes_of(host, index)
        if route.protocol == PROTOCOL_BOOT and route.scope != rtnetlink.SCOPE_HOST
    ]
    for address in wanted:
        host.ensure_address(plan.name, address)
    stale = [
        f"{found.address}/{found.prefix}"
        for at, found in host.list_addresses()
        if at == index and found.scope == "global" and f"{found.address}/{found.prefix}" not in wanted
    ]
    for address in stale:
        host.delete_address(plan.name, address)
    if stale:
        # The kernel drops the secondary addresses of a subnet with its first one, and routes with the last address.
        for address in wanted:
            host.ensure_address(plan.name, address)
    _configure_routes(host, plan, index, guest_routes if stale else [])


def _routes_of(host: Netlink, index: int) -> list[Route]:
    return [route for route in host.list_routes() if route.interface == index and route.table == MAIN_TABLE]


def _configure_routes(host: Netlink, plan: BridgePlan, index: int, guest_routes: list[Route]) -> None:
    planned = [str(route) for family in plan.families for route in family.routes]
    for route in _routes_of(host, index):
        if route.protocol == rtnetlink.PROTOCOL_STATIC and route.destination not in planned:
            host.delete_route(route)
    for destination in planned:
        scope = rtnetlink.SCOPE_LINK if ":" not in destination else rtnetlink.SCOPE_GLOBAL
        host.ensure_route(Route(destination, interface=index, scope=scope))
    versions = {family.subnet.version for family in plan.families}
    for route in guest_routes:
        if ip_address(route.destination.partition("/")[0]).version in versions:
            try:
                host.ensure_route(route)
            except OSError as error:
                log.error("Failed to restore route %s on %s: %s", route.destination, plan.name, error)


# Firewall


async def apply_firewall(plan: BridgePlan, site: Site) -> None:
    """Put the bridge's rules in place, ours in one transaction and those among iptables' own.

    Raises NotSupported where there is no nft and the bridge filters or translates.
    """
    if not _has_nft():
        if firewall.plan_chains(plan):
            raise NotSupported(
                f'Network "{plan.name}" needs nft for its filters and NAT: install the package nftables, or unset '
                "ipv4.nat and ipv6.nat and set ipv4.firewall=false and ipv6.firewall=false"
            )
        return
    try:
        await nftables.apply(firewall.render_nft(plan, site.table))
    except CommandFailed as error:
        raise InternalError(f'Failed to set up the firewall of network "{plan.name}": {_nft_reason(error)}') from error
    await _apply_foreign(plan, plan.name, site)


async def remove_firewall(network: str, site: Site) -> None:
    """Remove the bridge's rules everywhere, and our table with its last chain."""
    if not _has_nft():
        return
    await nftables.apply(firewall.render_removal(network, site.table))
    if not await nftables.list_chains("inet", site.table):
        await nftables.delete_table("inet", site.table)
    await _apply_foreign(None, network, site)


async def firewall_is_complete(plan: BridgePlan, site: Site) -> bool:
    """Whether all rules of the bridge are in place, in our tables and among iptables' own."""
    if not _has_nft():
        return not firewall.plan_chains(plan)
    tables = await _tables()
    ours = await nftables.list_rules("inet", site.table) if ("inet", site.table) in tables else []
    if not firewall.is_complete(plan, ours):
        return False
    for version, family in ((4, "ip"), (6, "ip6")):
        if (family, "filter") in tables:
            items = await nftables.list_rules(family, "filter")
            if firewall.render_foreign(plan, plan.name, version, items, site.title):
                return False
    return True


async def _apply_foreign(plan: BridgePlan | None, network: str, site: Site) -> None:
    tables = await _tables()
    for version, family in ((4, "ip"), (6, "ip6")):
        if (family, "filter") not in tables:
            continue
        items = await nftables.list_rules(family, "filter")
        script = firewall.render_foreign(plan, network, version, items, site.title)
        if not script:
            continue
        try:
            await nftables.apply(script)
        except CommandFailed as error:
            # Docker or ufw changed the chains meanwhile; the watch comes here again at their next change.
            log.warning("Rules of network %s among those of iptables: %s", network, _nft_reason(error))


async def _tables() -> set[tuple[str, str]]:
    return set(await nftables.list_tables())


def _has_nft() -> bool:
    return shutil.which("nft") is not None


def _nft_reason(error: CommandFailed) -> str:
    return error.stderr.strip().splitlines()[0] if error.stderr.strip() else str(error)
