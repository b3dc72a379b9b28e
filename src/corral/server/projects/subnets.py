"""The subnets that a project is given of an uplink network: they must lie in the routes of a network that exists."""

import ipaddress
from collections.abc import Mapping

from corral.errors import InvalidRequest
from corral.server.db.database import Tx
from corral.server.keys import WORDS
from corral.server.projects import keys

_KEY = "restricted.networks.subnets"


def check(tx: Tx, config: Mapping[str, str]) -> None:
    """Raise InvalidRequest where `restricted.networks.subnets` names an uplink or a subnet that there is not."""
    for uplink, subnet in keys.SUBNETS.parse(config.get(_KEY, "")):
        problem = _problem_of(tx, uplink, subnet)
        if problem:
            raise InvalidRequest(f'Invalid project configuration key "{_KEY}" value: {problem}')


def _problem_of(tx: Tx, uplink: str, subnet: str) -> str:
    network = tx.row("SELECT id FROM networks WHERE project_id = 1 AND name = ?", uplink)
    if network is None:
        return f'Invalid uplink network "{uplink}": Network not found'
    wanted = ipaddress.ip_network(subnet)
    texts = tx.rows(
        "SELECT value FROM networks_config WHERE network_id = ? AND key IN ('ipv4.routes', 'ipv6.routes')",
        network["id"],
    )
    for row in texts:
        for text in WORDS.parse(row["value"]):
            route = ipaddress.ip_network(text, strict=False)
            if route.version == wanted.version and route.supernet_of(wanted):  # type: ignore[arg-type]
                return ""
    return f'Uplink network "{uplink}" doesn\'t contain "{subnet}" in its routes'
