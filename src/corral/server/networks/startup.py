"""Brings the networks up with the daemon, and down with the host."""

import logging
import shutil
from collections.abc import Coroutine
from typing import Any

from corral.errors import CorralError
from corral.server.background import Background
from corral.server.context import Context
from corral.server.events.problems import ProblemSolved
from corral.server.host.threads import in_thread
from corral.server.networks import delete, problems, store
from corral.server.networks.drivers.bridge import dnsmasq
from corral.server.networks.guard import UNAVAILABLE, Guard, start_one
from corral.server.networks.model import Network, NetworkStatus
from corral.server.networks.registry import driver_of
from corral.server.networks.site import site_of

log = logging.getLogger(__name__)


async def start_networks(context: Context) -> None:
    """Remove what was half-made, start the rest or take over what still runs, and watch them from now on.

    A network that cannot be started is shown as Unavailable and tried again; the others are not held up.
    """
    guard = context.parts.add(Guard(context))
    async with context.locks.hold("networks"):
        networks = await context.db.read(store.list_networks)
        await _sweep(context, {network.name for network in networks})
        for network in sorted(networks, key=_rank):
            if network.status is NetworkStatus.PENDING:
                log.warning("Removing network %s: its creation was interrupted", network.name)
                await _attempt(network, delete.remove(context, network))
                continue
            try:
                await start_one(context, network)
            except (CorralError, OSError) as error:
                await guard.mark_unavailable(network, error)
            else:
                await context.events.react(ProblemSolved(UNAVAILABLE, network.project, ("network", network.id)))
                await problems.report(context, network)
    context.parts[Background].start("networks", guard.run())


async def _sweep(context: Context, names: set[str]) -> None:
    """Remove the files of networks that are no more, such as those of an interrupted rename."""
    site = site_of(context.member)
    if not site.networks_dir.exists():
        return
    for directory in site.networks_dir.iterdir():
        if directory.name not in names:
            log.warning("Removing %s, which belongs to no network", directory)
            await dnsmasq.stop(directory.name, site)
            await in_thread(shutil.rmtree, directory, ignore_errors=True)


async def stop_networks(context: Context) -> None:
    """Take all networks away from the host; they come back with the next start of the daemon."""
    async with context.locks.hold("networks"):
        context.parts[Guard].retire()
        for network in sorted(await context.db.read(store.list_networks), key=_rank, reverse=True):
            await _attempt(network, driver_of(network.type).stop(site_of(context.member), network))


def _rank(network: Network) -> int:
    """Networks on an interface follow those that make interfaces."""
    return 1 if "parent" in network.config else 0


async def _attempt(network: Network, work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except (CorralError, OSError) as error:
        log.error("Network %s: %s", network.name, error)
