"""GPUs in containers: the nodes of the host's graphics cards. Shares of cards are told apart and refused clearly."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from corral.errors import InvalidRequest
from corral.server.devices import gpu_mig, nodes
from corral.server.devices.followers import NodeDevice
from corral.server.devices.machine_only import MachineDevice
from corral.server.devices.model import Attachment, Check, DeviceContext, anything, check_hardware_id, check_pci_address
from corral.server.devices.nodes import Node
from corral.server.devices.unix import OWNER_CHECKS
from corral.server.host.sysfs import read_text
from corral.server.host.threads import in_thread

_NVIDIA = "10de"
_IDENTITY: dict[str, Check] = {
    "vendorid": check_hardware_id,
    "productid": check_hardware_id,
    "id": anything,
    "pci": check_pci_address,
    "gputype": anything,
}
_PHYSICAL_CHECKS: dict[str, Check] = {**_IDENTITY, **OWNER_CHECKS}
_MDEV_CHECKS: dict[str, Check] = {**_IDENTITY, "mdev": anything}
_MIG_CHECKS: dict[str, Check] = {
    **_IDENTITY,
    "mig.uuid": gpu_mig.check_uuid,
    "mig.gi": gpu_mig.check_share,
    "mig.ci": gpu_mig.check_share,
}


@dataclass(frozen=True, slots=True)
class Card:
    """A graphics card: its place on the bus and its nodes as (name below /dev, major, minor)."""

    pci: str
    vendor: str
    product: str
    id: str
    nodes: tuple[tuple[str, int, int], ...]


def normalise_pci(address: str) -> str:
    """A PCI address with its domain, in lower case."""
    text = address.lower()
    return text if text.count(":") == 2 else f"0000:{text}"


def list_cards(sys: Path = Path("/sys")) -> list[Card]:
    """The graphics cards that have DRM nodes."""
    found: dict[Path, list[Path]] = {}
    root = sys / "class/drm"
    for entry in sorted(root.iterdir()) if root.is_dir() else ():
        if entry.name.startswith(("card", "renderD", "controlD")) and "-" not in entry.name:
            found.setdefault((entry / "device").resolve(), []).append(entry)
    cards = []
    for place, entries in found.items():
        numbers = [(entry.name, *_numbers(read_text(entry / "dev"))) for entry in entries]
        number = next((name.removeprefix("card") for name, _, _ in numbers if name.startswith("card")), "")
        cards.append(
            Card(
                place.name,
                read_text(place / "vendor").strip().removeprefix("0x"),
                read_text(place / "device").strip().removeprefix("0x"),
                number,
                tuple((f"dri/{name}", major, minor) for name, major, minor in numbers),
            )
        )
    return cards


def _numbers(text: str) -> tuple[int, int]:
    major, _, minor = text.strip().partition(":")
    return int(major or 0), int(minor or 0)


def select(cards: list[Card], config: Mapping[str, str]) -> list[Card]:
    """The cards that a config names; all for one that names none."""
    pci = normalise_pci(config["pci"]) if config.get("pci") else ""
    return [
        card
        for card in cards
        if config.get("vendorid", "").lower() in ("", card.vendor)
        and config.get("productid", "").lower() in ("", card.product)
        and config.get("id", "") in ("", card.id)
        and pci in ("", card.pci)
    ]


def _check_identity(config: Mapping[str, str]) -> None:
    for key, others in (("pci", ("id", "productid", "vendorid")), ("id", ("pci", "productid", "vendorid"))):
        for other in others if config.get(key) else ():
            if config.get(other):
                raise InvalidRequest(f'Cannot use "{other}" when when "{key}" is set')


def _find(config: Mapping[str, str], name: str) -> list[Node]:
    found: list[Node] = []
    cards = select(list_cards(), config)
    for card in cards:
        found += [
            nodes.of_numbers(f"/dev/{path}", False, (major, minor), config)
            for path, major, minor in card.nodes
            if Path("/dev", path).exists()
        ]
    if any(card.vendor == _NVIDIA for card in cards):
        extra = [nodes.of_path(str(path), str(path), config) for path in sorted(Path("/dev").glob("nvidia*"))]
        found += [node for node in extra if node is not None and not node.is_block]
    return found


PHYSICAL = NodeDevice(
    _PHYSICAL_CHECKS,
    _find,
    "Failed to detect requested GPU device",
    lambda config: True,
    lambda config: None,
    _check_identity,
)
MACHINE_GPUS = {
    "mdev": MachineDevice(_MDEV_CHECKS, ("mdev",), _check_identity),
    "sriov": MachineDevice(_IDENTITY, (), _check_identity),
}
"""The shares of a card that only virtual machines can have, by `gputype`."""


class Gpu:
    """A graphics card or a share of one, by `gputype`."""

    live_keys = frozenset[str]()

    def validate(self, config: Mapping[str, str], others: Mapping[str, Mapping[str, str]]) -> None:
        kind = config.get("gputype") or "physical"
        if kind == "physical":
            PHYSICAL.validate(config, others)
        elif kind == "mig":
            _check_identity(config)
            gpu_mig.check(config, _MIG_CHECKS)
        else:
            raise InvalidRequest(f'Invalid value for device option "gputype": Invalid value "{kind}"')

    async def prepare(self, device: DeviceContext) -> Mapping[str, str | None]:
        return {}

    async def attach(self, device: DeviceContext) -> Attachment:
        if device.config.get("gputype") != "mig":
            return await PHYSICAL.attach(device)
        places = [card.pci for card in await in_thread(lambda: select(list_cards(), device.config))]
        return await gpu_mig.attach(device, places, device.nvidia_runtime)

    async def update(self, device: DeviceContext, old: Mapping[str, str]) -> None:
        return

    async def detach(self, device: DeviceContext) -> None:
        await nodes.detach(device)

    async def remove(self, device: DeviceContext) -> None:
        return

    async def plug(self, device: DeviceContext) -> Mapping[str, str | None]:
        if device.config.get("gputype") == "mig":
            raise InvalidRequest(f'Device "{device.device}" cannot be added while the container runs: stop it first')
        return await PHYSICAL.plug(device)

    async def unplug(self, device: DeviceContext) -> None:
        await nodes.unplug(device)
