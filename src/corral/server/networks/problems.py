"""What is odd about a network that works all the same, as warnings."""

import ipaddress

from corral.server.context import Context
from corral.server.events.problems import Problem, ProblemSolved
from corral.server.keys import Config
from corral.server.networks import keys
from corral.server.networks.model import Network, NetworkType

LARGE_PREFIX = "IPv6 networks with a prefix larger than 64 aren't properly supported by dnsmasq"
_LONGEST = 64


async def report(context: Context, network: Network) -> None:
    """Raise or resolve the warnings about a network's configuration."""
    if network.type is not NetworkType.BRIDGE:
        return
    gateway = Config(network.config)[keys.IPV6_ADDRESS]
    entity = ("network", network.id)
    if isinstance(gateway, ipaddress.IPv6Interface) and gateway.network.prefixlen > _LONGEST:
        message = f"Guests of {network.name} get no address by SLAAC in a /{gateway.network.prefixlen}"
        await context.events.react(Problem(LARGE_PREFIX, message, network.project, entity))
    else:
        await context.events.react(ProblemSolved(LARGE_PREFIX, network.project, entity))
