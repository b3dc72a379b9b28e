"""InfiniBand devices: an interface of the host, or a virtual function of one, with the nodes of its verbs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from corral.errors import InvalidRequest
from corral.server.devices import nodes
from corral.server.devices.model import (
    Attachment,
    Check,
    DeviceContext,
    anything,
    check_interface_name,
    check_keys,
    check_mtu,
)
from corral.server.devices.nic import veth
from corral.server.devices.nic.physical import PhysicalNic
from corral.server.devices.nic.sriov import SriovNic
from corral.server.devices.nodes import Node
from corral.server.host.sysfs import read_text
from corral.server.host.threads import in_thread


def _check_guid(text: str) -> None:
    bytes_ = text.split(":")
    if len(bytes_) not in (8, 20) or any(len(one) != 2 for one in bytes_):
        raise InvalidRequest("Invalid value, must be either 8 or 20 byte hex value")
    int("".join(bytes_), 16)


def _check_nictype(text: str) -> None:
    if text not in ("physical", "sriov"):
        raise InvalidRequest(f'Invalid value "{text}" (not one of physical, sriov)')


_CHECKS: dict[str, Check] = {
    "nictype": _check_nictype,
    "parent": anything,
    "name": check_interface_name,
    "mtu": check_mtu,
    "hwaddr": _check_guid,
}


def list_nodes(parent: str, sys: Path = Path("/sys")) -> list[tuple[str, int, int]]:
    """The verbs' nodes of an interface as (name below /dev/infiniband, major, minor)."""
    device = sys / "class/net" / parent / "device"
    found = []
    for kind in ("infiniband_verbs", "infiniband_mad"):
        for entry in sorted((device / kind).glob("*")):
            major, _, minor = read_text(entry / "dev").strip().partition(":")
            if major.isdecimal() and minor.isdecimal():
                found.append((entry.name, int(major), int(minor)))
    return found


class Infiniband:
    """An InfiniBand interface: a NIC that is lent, and device nodes."""

    live_keys = frozenset[str]()

    def validate(self, config: Mapping[str, str], others: Mapping[str, Mapping[str, str]]) -> None:
        check_keys(config, _CHECKS, ("nictype", "parent"))
        veth.check_unique_name(config, others)

    async def prepare(self, device: DeviceContext) -> Mapping[str, str | None]:
        return await _nic(device).prepare(device)

    async def _find(self, device: DeviceContext) -> Sequence[Node]:
        parent = device.config["parent"]
        found = await in_thread(list_nodes, parent)
        if not found:
            raise InvalidRequest(
                f'Failed to start device "{device.device}": Parent device "{parent}" isn\'t an InfiniBand interface of '
                "this server"
            )
        return [Node(f"/dev/infiniband/{name}", False, major, minor) for name, major, minor in found]

    async def attach(self, device: DeviceContext) -> Attachment:
        found = await self._find(device)
        nic = await _nic(device).attach(device)
        shown = await nodes.attach(device, found)
        return replace(nic, mounts=shown.mounts, rules=shown.rules)

    async def update(self, device: DeviceContext, old: Mapping[str, str]) -> None:
        return

    async def detach(self, device: DeviceContext) -> None:
        await nodes.detach(device)
        await _nic(device).detach(device)

    async def remove(self, device: DeviceContext) -> None:
        return

    async def plug(self, device: DeviceContext) -> Mapping[str, str | None]:
        found = await self._find(device)
        values = await _nic(device).plug(device)
        await nodes.plug(device, found)
        return values

    async def unplug(self, device: DeviceContext) -> None:
        await nodes.unplug(device)
        await _nic(device).unplug(device)


def _nic(device: DeviceContext) -> PhysicalNic | SriovNic:
    return SriovNic() if device.config.get("nictype") == "sriov" else PhysicalNic()
