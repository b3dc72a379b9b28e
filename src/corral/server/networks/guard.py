"""Watches the networks while the daemon runs and repairs what others break: a dead dnsmasq, flushed rules.

It wakes when a dnsmasq ends, when anybody changes the firewall, and once a minute; networks that could not be started
are tried again.
"""

import asyncio
import contextlib
import logging
import os
import socket
import time

from corral.errors import CorralError
from corral.server.context import Context
from corral.server.events.problems import Problem, ProblemSolved
from corral.server.host.network import nftables
from corral.server.networks import reservations, store
from corral.server.networks.drivers.protocol import Guarded
from corral.server.networks.model import Network, NetworkRepaired, NetworkStatus
from corral.server.networks.registry import DRIVERS, driver_of
from corral.server.networks.site import site_of

log = logging.getLogger(__name__)

UNAVAILABLE = "Network unavailable"
"""The warning of a network that could not be started."""
CHECK_INTERVAL_S = 60.0
SETTLE_S = 0.2
"""A change of the firewall comes as many messages: this long after the first one comes the check."""
REPAIR_PAUSE_S = 5.0
"""A network that was just repaired is left alone this long, so that what cannot live is not started in a loop."""


class Guard:
    """The watch over the managed networks of this member."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._wake = asyncio.Event()
        self._lifelines: dict[int, int] = {}
        self._unavailable: set[int] = set()
        self._repaired: dict[int, float] = {}
        self._retired = False

    def retire(self) -> None:
        """Repair nothing any more: the networks are being taken away. The caller holds the lock of the networks."""
        self._retired = True
        self._drop_all()

    def status_of(self, network: Network) -> NetworkStatus:
        """The status on this member: Unavailable where the network could not be started."""
        return NetworkStatus.UNAVAILABLE if network.id in self._unavailable else network.status

    def watch(self, network: Network) -> None:
        """Watch the process that a started network needs; call it again after each start."""
        self._unavailable.discard(network.id)
        self._drop_lifeline(network.id)
        driver = DRIVERS.get(network.type)
        if not isinstance(driver, Guarded):
            return
        lifeline = driver.open_lifeline(site_of(self._context.member), network)
        if lifeline is not None:
            self._lifelines[network.id] = lifeline
            asyncio.get_running_loop().add_reader(lifeline, self._on_death, network)

    def forget(self, network: Network) -> None:
        """Watch a network no more."""
        self._drop_lifeline(network.id)
        self._unavailable.discard(network.id)
        self._repaired.pop(network.id, None)

    async def mark_unavailable(self, network: Network, error: Exception) -> None:
        """Note that a network could not be started, also as a warning; it is tried again."""
        self._drop_lifeline(network.id)
        self._unavailable.add(network.id)
        log.error("Network %s cannot be started: %s", network.name, error)
        entity = ("network", network.id)
        await self._context.events.react(Problem(UNAVAILABLE, str(error), network.project, entity))

    async def run(self) -> None:
        """Watch until cancelled."""
        loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as stack:
            monitor = self._open_monitor()
            if monitor is not None:
                stack.enter_context(monitor)
                loop.add_reader(monitor, self._on_firewall_change, monitor)
                stack.callback(loop.remove_reader, monitor)
            stack.callback(self._drop_all)
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(CHECK_INTERVAL_S):
                        await self._wake.wait()
                        await asyncio.sleep(SETTLE_S)
                self._wake.clear()
                await self.check()

    async def check(self) -> None:
        """Look at all networks once and repair what is amiss."""
        async with self._context.locks.hold("networks"):
            if self._retired:
                return
            for network in await self._context.db.read(store.list_networks):
                if network.status is NetworkStatus.CREATED:
                    try:
                        await self._check(network)
                    except (CorralError, OSError) as error:
                        await self.mark_unavailable(network, error)

    async def _check(self, network: Network) -> None:
        driver = DRIVERS.get(network.type)
        harm = None
        if network.id in self._unavailable:
            harm = "it could not be started before"
        elif isinstance(driver, Guarded):
            harm = await driver.find_harm(site_of(self._context.member), network)
        if harm is None:
            return
        if time.monotonic() - self._repaired.get(network.id, -REPAIR_PAUSE_S) < REPAIR_PAUSE_S:
            asyncio.get_running_loop().call_later(REPAIR_PAUSE_S, self._wake.set)
            return
        self._repaired[network.id] = time.monotonic()
        log.warning("Network %s is put right: %s", network.name, harm)
        await start_one(self._context, network)
        await self._context.events.react(ProblemSolved(UNAVAILABLE, network.project, ("network", network.id)))
        await self._context.events.react(NetworkRepaired(network, harm))

    def _on_death(self, network: Network) -> None:
        log.debug("dnsmasq of network %s ended", network.name)
        self._drop_lifeline(network.id)
        self._wake.set()

    def _on_firewall_change(self, monitor: socket.socket) -> None:
        nftables.drain_monitor(monitor)
        self._wake.set()

    def _open_monitor(self) -> socket.socket | None:
        try:
            return nftables.open_monitor()
        except OSError as error:
            log.warning("Changes of the firewall are only noticed once a minute: %s", error.strerror)
            return None

    def _drop_lifeline(self, network_id: int) -> None:
        lifeline = self._lifelines.pop(network_id, None)
        if lifeline is not None:
            asyncio.get_running_loop().remove_reader(lifeline)
            os.close(lifeline)

    def _drop_all(self) -> None:
        for network_id in list(self._lifelines):
            self._drop_lifeline(network_id)


async def start_one(context: Context, network: Network) -> None:
    """Start a network with its reservations and watch it. The caller holds the lock of the networks."""
    await reservations.rebuild(context, network)
    await driver_of(network.type).start(site_of(context.member), network)
    context.parts[Guard].watch(network)
