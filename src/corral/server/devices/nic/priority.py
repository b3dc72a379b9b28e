"""The priority of what a NIC sends: a chain of the nft `netdev` table at the host's end of its pair sets skb->priority.

It is set where packets come in from the instance, and stays with them to the queues of the interface they leave by.
"""

from collections.abc import Mapping

from corral.server.devices.model import DeviceContext
from corral.server.devices.nic.filters import label_of
from corral.server.host.network import nftables

KEY = "limits.priority"


def priority_of(config: Mapping[str, str]) -> int:
    """The priority, 0 for none."""
    return int(config.get(KEY) or 0)


def render(label: str, table: str, host_name: str, priority: int) -> str:
    """One transaction that puts a NIC's chain in place of the one it had."""
    return render_removal(label, table) + (
        f"table netdev {table} {{\n\tchain prio.{label} {{\n"
        f'\t\ttype filter hook ingress device "{host_name}" priority 0; policy accept;\n'
        f"\t\tmeta priority set {priority >> 16:x}:{priority & 0xFFFF:x}\n"
        "\t}\n}\n"
    )


def render_removal(label: str, table: str) -> str:
    """A transaction that removes a NIC's chain, whether it exists or not."""
    chain = f"netdev {table} prio.{label}"
    return f"add table netdev {table}\nadd chain {chain}\nflush chain {chain}\ndelete chain {chain}\n"


async def apply(device: DeviceContext, host_name: str) -> None:
    """Set the priority of a NIC whose pair is new; nothing for one that has none."""
    priority = priority_of(device.config)
    if priority:
        label = label_of(device.project, device.instance, device.device)
        await nftables.apply(render(label, device.context.member.product.name, host_name, priority))


async def change(device: DeviceContext, host_name: str, old: Mapping[str, str]) -> None:
    """Bring a running NIC from its old priority to the new one."""
    if priority_of(old) != priority_of(device.config):
        await remove(device, old)
        await apply(device, host_name)


async def remove(device: DeviceContext, config: Mapping[str, str] | None = None) -> None:
    """Remove what `apply` made."""
    if priority_of(device.config if config is None else config):
        label = label_of(device.project, device.instance, device.device)
        await nftables.apply(render_removal(label, device.context.member.product.name))
