"""NICs that are a virtual function of a network card (SR-IOV): a free one is chosen, set up and lent."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from corral import units
from corral.errors import InvalidRequest, NotSupported
from corral.server.devices.model import Attachment, DeviceContext
from corral.server.devices.nic import parents
from corral.server.devices.nic.physical import PhysicalNic
from corral.server.host.programs import command
from corral.server.host.sysfs import read_int
from corral.server.host.threads import in_thread
from corral.server.keys import BOOL
from corral.server.networks.model import NetworkType

_CHECKS = {key: check for key, check in parents.CHECKS.items() if key != "gvrp"} | {
    "security.mac_filtering": BOOL.parse
}
_ID, _PARENT = "last_state.vf.id", "last_state.vf.parent"
_PHYSICAL = PhysicalNic()


@dataclass(frozen=True, slots=True)
class VirtualFunction:
    """A virtual function of a card: its number there and its interface, which is empty while it has none."""

    number: int
    interface: str


def list_functions(parent: str, sys: Path = Path("/sys")) -> list[VirtualFunction]:
    """The virtual functions that a card has now."""
    device = sys / "class/net" / parent / "device"
    found = []
    for number in range(read_int(device / "sriov_numvfs")):
        names = sorted(one.name for one in (device / f"virtfn{number}/net").glob("*"))
        found.append(VirtualFunction(number, names[0] if names else ""))
    return found


def choose(functions: Collection[VirtualFunction], is_up: Collection[str]) -> VirtualFunction | None:
    """The first function with an interface that nobody on the host uses."""
    return next((one for one in functions if one.interface and one.interface not in is_up), None)


def _find_free(parent: str, sys: Path = Path("/sys")) -> VirtualFunction:
    """A free function; where all are taken the card is asked for as many as it can have."""
    device = sys / "class/net" / parent / "device"
    total = read_int(device / "sriov_totalvfs")
    if not total:
        raise NotSupported(f'Parent device "{parent}" doesn\'t support SR-IOV')
    for last in (False, True):
        functions = list_functions(parent, sys)
        is_up = [one.interface for one in functions if one.interface and _is_up(sys, one.interface)]
        chosen = choose(functions, is_up)
        if chosen is not None:
            return chosen
        if last or functions:
            break
        (device / "sriov_numvfs").write_text(str(total))
    raise InvalidRequest(f'All virtual functions of parent device "{parent}" seem to be in use')


def _is_up(sys: Path, interface: str) -> bool:
    text = (sys / "class/net" / interface / "operstate").read_text().strip()
    return text == "up"


class SriovNic:
    """A virtual function; its MAC address and VLAN are set on the card, so that the instance cannot change them."""

    live_keys = frozenset({"boot.priority"})

    def validate(self, config: Mapping[str, str], others: Mapping[str, Mapping[str, str]]) -> None:
        parents.validate(config, others, _CHECKS)

    async def prepare(self, device: DeviceContext) -> Mapping[str, str | None]:
        await parents.resolve(device, NetworkType.SRIOV)
        return await _PHYSICAL.prepare(replace(device, config=_lent(device.config, "")))

    async def attach(self, device: DeviceContext) -> Attachment:
        config = await parents.resolve(device, NetworkType.SRIOV)
        parent = config["parent"]
        try:
            function = await in_thread(_find_free, parent)
        except (InvalidRequest, NotSupported) as error:
            raise type(error)(f'Failed to start device "{device.device}": {error}') from error
        await command.run(plan_function(parent, function.number, config))
        attachment = await _PHYSICAL.attach(replace(device, config=_lent(config, function.interface)))
        volatile = {**attachment.volatile, _ID: str(function.number), _PARENT: parent}
        return replace(attachment, volatile=volatile)

    async def update(self, device: DeviceContext, old: Mapping[str, str]) -> None:
        return

    async def detach(self, device: DeviceContext) -> None:
        await _PHYSICAL.detach(device)
        parent, number = device.volatile.get(_PARENT), device.volatile.get(_ID)
        if parent and number:
            await command.run(plan_function(parent, int(number), {}), ok=(0, 1, 2))

    async def remove(self, device: DeviceContext) -> None:
        return

    async def plug(self, device: DeviceContext) -> Mapping[str, str | None]:
        config = await parents.resolve(device, NetworkType.SRIOV)
        function = await in_thread(_find_free, config["parent"])
        await command.run(plan_function(config["parent"], function.number, config))
        values = await _PHYSICAL.plug(replace(device, config=_lent(config, function.interface)))
        return {**values, _ID: str(function.number), _PARENT: config["parent"]}

    async def unplug(self, device: DeviceContext) -> None:
        await _PHYSICAL.unplug(device)
        await self.detach(device)


def _lent(config: Mapping[str, str], interface: str) -> dict[str, str]:
    """The config of the physical NIC that the function's interface is; its VLAN is the card's business."""
    kept = {key: value for key, value in config.items() if key not in ("network", "vlan", "parent")}
    return {**kept, "parent": interface}


def plan_function(parent: str, number: int, config: Mapping[str, str]) -> list[str]:
    """The command that sets up a function for a config, or with an empty one as it is by default."""
    argv = ["ip", "link", "set", "dev", parent, "vf", str(number), "vlan", config.get("vlan") or "0"]
    checked = units.is_true(config.get("security.mac_filtering"))
    if config.get("hwaddr"):
        argv += ["mac", config["hwaddr"]]
    elif checked:
        raise InvalidRequest('security.mac_filtering needs a "hwaddr" for the virtual function')
    return [*argv, "spoofchk", "on" if checked else "off"]
