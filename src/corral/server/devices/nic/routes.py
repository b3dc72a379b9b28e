"""Routes of the host that lead to an instance through an interface."""

import ipaddress
from collections.abc import Iterable, Mapping

from corral.server.host.netlink import Netlink, Route

_PROTOCOL_BOOT = 3
KEYS = frozenset({"ipv4.routes", "ipv6.routes", "ipv4.routes.external", "ipv6.routes.external"})


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
            _delete(host, Route(network, interface=link.index, protocol=_PROTOCOL_BOOT))
        for network in wanted:
            host.ensure_route(Route(network, interface=link.index, protocol=_PROTOCOL_BOOT))


def _delete(host: Netlink, route: Route) -> None:
    try:
        host.delete_route(route)
    except ProcessLookupError:
        return
