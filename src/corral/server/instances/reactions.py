"""What running instances do when something below them changed."""

import contextlib
import logging

from corral.server.context import Context
from corral.server.host.network.netlink import Netlink
from corral.server.host.threads import in_thread
from corral.server.instances import running
from corral.server.instances.attachments import attach
from corral.server.instances.inventory import Inventory
from corral.server.networks.model import Network, NetworkChanged, NetworkRepaired, NetworkType

log = logging.getLogger(__name__)


def listen(context: Context) -> None:
    """Subscribe to what networks tell."""

    async def changed(event: NetworkChanged) -> None:
        await reconnect(context, event.network)

    async def repaired(event: NetworkRepaired) -> None:
        await reconnect(context, event.network)

    context.events.on(NetworkChanged, changed)
    context.events.on(NetworkRepaired, repaired)


async def reconnect(context: Context, network: Network) -> None:
    """Put the host's ends of running NICs back on a bridge that was made anew."""
    if network.type is not NetworkType.BRIDGE:
        return
    ports, users = [], []
    for instance in await context.parts[Inventory].list():
        if running.find(context, instance) is None:
            continue
        users.append(instance)
        for name, device in instance.expanded_devices.items():
            bridge = device.get("network") or device.get("parent")
            host_name = device.get("host_name") or instance.config.get(f"volatile.{name}.host_name")
            if device.get("type") == "nic" and bridge == network.name and host_name:
                ports.append(host_name)
    if ports:
        await in_thread(_connect, network.name, ports)
    for instance in users:
        await attach.restore_all(context, instance)


def _connect(bridge: str, ports: list[str]) -> None:
    with Netlink() as netlink:
        index = netlink.get_link(bridge).index
        for port in ports:
            with contextlib.suppress(OSError):
                if netlink.get_link(port).master != index:
                    netlink.set_master(port, bridge)
                    log.info("Put %s back on the bridge %s", port, bridge)
