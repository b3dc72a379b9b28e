"""Routes of the host that lead to an instance through an interface."""

import ipaddress
from collections.abc import Iterable, Mapping

from corral.server.devices.model import Check, check_networks
from corral.server.host.network.netlink import Netlink
from corral.server.host.network.rtnetlink import SCOPE_GLOBAL, SCOPE_LINK, Route

_PROTOCOL_BOOT = 3
CHECKS: dict[str, Check] = {
    f"{family}.routes{kind}": check_networks(version)
    for family, version in (("ipv4", 4), ("ipv6", 6))
    for kind in ("", ".external")
}
KEYS = frozenset(CHECKS)


def networks_of(config: Mapping[str, str]) -> list[str]:
    """The networks that are reached through the instance, of both families."""
    listed = [part.strip() for key in sorted(KEYS) for part in config.get(key, "").split(",")]
    return [str(ipaddress.ip_network(one)) for one in listed if one]


def change(interface: str, old: Iterable[str], new: Iterable[str]) -> None:
    """Remove the old routes through an interface and set the new ones; an interface that is gone has none."""
    wanted = list(new)
    gone = [one for one in old if one not in wanted]
    if not wanted and not gone:
        return
    with Netlink() as host:
        link = host.find_link(interface)
        if link is None:
            return
        for network in gone:
            _delete(host, _direct(network, link.index))
        for network in wanted:
            host.ensure_route(_direct(network, link.index))


def _direct(network: str, interface: int) -> Route:
    """A route straight to the link; only IPv4 has the scope."""
    scope = SCOPE_GLOBAL if ":" in network else SCOPE_LINK
    return Route(network, interface=interface, protocol=_PROTOCOL_BOOT, scope=scope)


def _delete(host: Netlink, route: Route) -> None:
    try:
        host.delete_route(route)
    except ProcessLookupError:
        return
