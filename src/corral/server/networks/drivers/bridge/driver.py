"""The driver of managed bridges."""

import os
import random
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

from corral.errors import AlreadyExists, NotSupported
from corral.server.host.network.netlink import Netlink
from corral.server.host.threads import in_thread
from corral.server.keys import Config, KeyTable
from corral.server.networks import keys
from corral.server.networks.addresses import Subnet
from corral.server.networks.drivers.bridge import apply, dnsmasq, plan
from corral.server.networks.drivers.bridge.plan import BridgePlan
from corral.server.networks.model import Network
from corral.server.networks.site import Site


def plan_of(site: Site, network: Network) -> BridgePlan:
    """The plan of a network on this member."""
    seed = f"{site.seed}.{network.id}"
    return plan.plan_bridge(network.name, network.config, seed=seed, domain=site.domain)


class Bridge:
    """Linux bridges with DHCP, DNS, NAT and filters."""

    @property
    def keys(self) -> KeyTable:
        return keys.BRIDGE_KEYS

    def check_name(self, name: str) -> None:
        """An interface will have this name."""
        keys.check_interface_name(name)
        keys.check_segment(name)

    def fill(self, config: Mapping[str, str], taken: Collection[Subnet], rng: random.Random) -> dict[str, str]:
        """Addresses where none are given, with NAT."""
        return plan.fill(config, taken, ipv6=_has_ipv6(), rng=rng)

    def resolve(self, config: Mapping[str, str], taken: Collection[Subnet], rng: random.Random) -> dict[str, str]:
        """Addresses where `auto` is written."""
        return plan.resolve_auto(config, taken, rng)

    def check(self, name: str, config: Mapping[str, str]) -> None:
        """Keys that contradict each other, and Open vSwitch where it is absent."""
        plan.check(name, config)
        if Config(config)[keys.BRIDGE_DRIVER] == "openvswitch":
            if shutil.which("ovs-vsctl") is None:
                raise NotSupported("Open vSwitch isn't installed on this system: use bridge.driver=native")
            raise NotSupported("Open vSwitch bridges are not supported by this server: use bridge.driver=native")

    async def check_free(self, name: str, config: Mapping[str, str]) -> None:
        """No interface may have the name."""
        if await in_thread(_find_interface, name):
            raise AlreadyExists(f'Network interface "{name}" already exists')

    async def start(self, site: Site, network: Network, before: Mapping[str, str] | None = None) -> None:
        """Make the bridge true."""
        former = Config(before or {})[keys.BRIDGE_EXTERNAL] or ()
        await apply.apply_bridge(plan_of(site, network), site, former)

    async def stop(self, site: Site, network: Network) -> None:
        """Take the bridge away."""
        await apply.remove_bridge(network.name, site)

    async def find_harm(self, site: Site, network: Network) -> str | None:
        """A missing bridge, a dead dnsmasq, or rules that somebody removed."""
        wanted = plan_of(site, network)
        if not await in_thread(_find_interface, network.name):
            return "the bridge is gone"
        if wanted.uses_dnsmasq and await in_thread(dnsmasq.find_running, network.name, site) is None:
            return "dnsmasq does not run"
        if not await apply.firewall_is_complete(wanted, site):
            return "firewall rules are missing"
        return None

    def open_lifeline(self, site: Site, network: Network) -> int | None:
        """dnsmasq's pidfd."""
        running = dnsmasq.find_running(network.name, site)
        if running is None:
            return None
        try:
            return os.pidfd_open(running.pid)
        except ProcessLookupError:
            return None


def _find_interface(name: str) -> bool:
    with Netlink() as host:
        return host.find_link(name) is not None


def _has_ipv6() -> bool:
    try:
        return Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").read_text().strip() == "0"
    except OSError:
        return False
