"""Rates of a NIC, on the host's end of its pair: what the instance receives is shaped, what it sends is policed.

What goes to the instance leaves the host's end: `limits.ingress` is a class there. What comes from the instance enters
it: `limits.egress` is a police action on its ingress hook. The program tc (tc-htb(8), tc-police(8)) does both. The
priority is beside (`priority.py`).
"""

from collections.abc import Mapping

from corral import units
from corral.errors import CommandFailed, NotSupported
from corral.server.devices.model import Check, DeviceContext, check_id
from corral.server.devices.nic import priority
from corral.server.host.programs import command
from corral.server.keys import BIT_RATE

_RATES = ("limits.ingress", "limits.egress", "limits.max")
CHECKS: dict[str, Check] = {**dict.fromkeys(_RATES, BIT_RATE.parse), priority.KEY: check_id}
KEYS = frozenset(CHECKS)
"""All of them change while the instance runs."""


def rates_of(config: Mapping[str, str]) -> tuple[int, int]:
    """Bits per second to and from the instance, 0 for no limit; limits.max stands for both."""
    both = config.get("limits.max")

    def rate(key: str) -> int:
        text = both or config.get(key, "")
        return units.parse_bit_rate(text) if text else 0

    return rate("limits.ingress"), rate("limits.egress")


def render(host_name: str, rates: tuple[int, int]) -> str:
    """The commands for `tc -batch` that set the rates of an interface that has none."""
    ingress, egress = rates
    lines = []
    if ingress:
        lines += [
            f"qdisc add dev {host_name} root handle 1: htb default 10",
            f"class add dev {host_name} parent 1: classid 1:10 htb rate {ingress}bit",
            f"filter add dev {host_name} parent 1:0 protocol all u32 match u32 0 0 flowid 1:1",
        ]
    if egress:
        # The burst is what passes in 25 ms: less than that and TCP never gets to the rate.
        lines += [
            f"qdisc add dev {host_name} handle ffff: ingress",
            f"filter add dev {host_name} parent ffff: protocol all u32 match u32 0 0"
            f" police rate {egress}bit burst {max(egress // 40, 16384)}b mtu 65535 drop",
        ]
    return "\n".join(lines) + "\n" if lines else ""


async def set_up(device: DeviceContext, host_name: str) -> None:
    """Limit a NIC whose pair is new."""
    await apply(host_name, device.config, is_new=True)
    await priority.apply(device, host_name)


async def change(device: DeviceContext, host_name: str, old: Mapping[str, str]) -> None:
    """Bring a running NIC from its old limits to those of its config."""
    if rates_of(old) != rates_of(device.config):
        await apply(host_name, device.config, is_new=False)
    await priority.change(device, host_name, old)


async def take_back(device: DeviceContext) -> None:
    """Remove what does not go with the pair."""
    await priority.remove(device)


async def apply(host_name: str, config: Mapping[str, str], *, is_new: bool) -> None:
    """Give an interface the rates of a config; `is_new` is one that has none yet."""
    if not is_new:
        clear = f"qdisc del dev {host_name} root\nqdisc del dev {host_name} ingress\n"
        await command.run(["tc", "-force", "-batch", "-"], stdin=clear, ok=(0, 1, 2))
    script = render(host_name, rates_of(config))
    if not script:
        return
    try:
        await command.run(["tc", "-batch", "-"], stdin=script)
    except CommandFailed as error:
        if "TC action module" in error.stderr:
            raise NotSupported(
                "limits.egress and limits.max need traffic policing (act_police), which this kernel does not have"
            ) from error
        raise
