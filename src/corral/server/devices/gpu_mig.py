"""MIG devices: isolated shares of an NVIDIA card, passed in by NVIDIA's container tools at the start."""

import csv
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from corral.errors import InvalidRequest, NotSupported
from corral.server.devices.model import Attachment, Check, DeviceContext, check_keys
from corral.server.host.programs import command
from corral.server.host.threads import in_thread

_TOOL = "nvidia-container-cli"
_COLUMNS = 6
"""Index, minor, model, brand, UUID and place on the bus come first in a card's line."""


@dataclass(frozen=True, slots=True)
class NvidiaCard:
    """A card as NVIDIA's tools tell it. `pci` has the domain, in four digits and lower case."""

    minor: str
    uuid: str
    pci: str


def parse_cards(text: str) -> list[NvidiaCard]:
    """The cards in the output of `nvidia-container-cli info --csv`: two tables, of the driver and of the cards."""
    found, in_cards = [], False
    for row in csv.reader(text.splitlines()):
        if row and row[0].strip() == "Device Index":
            in_cards = True
        elif in_cards and len(row) >= _COLUMNS:
            _, minor, _, _, uuid, pci = (value.strip() for value in row[:_COLUMNS])
            # The tool writes domains of eight digits, the kernel of four.
            found.append(NvidiaCard(minor, uuid, pci.lower()[-len("0000:00:00.0") :]))
    return found


def check_combination(config: Mapping[str, str]) -> None:
    """Raise InvalidRequest where the keys name a share twice, or none."""
    if config.get("mig.uuid"):
        for field in ("mig.gi", "mig.ci"):
            if config.get(field):
                raise InvalidRequest(f'Cannot use "{field}" when "mig.uuid" is set')
    elif not config.get("mig.gi") or not config.get("mig.ci"):
        raise InvalidRequest('Either "mig.uuid" or both "mig.gi" and "mig.ci" must be set')


def share_name(config: Mapping[str, str], card: NvidiaCard) -> str:
    """NVIDIA's name of the share."""
    uuid = config.get("mig.uuid", "")
    if uuid:
        return uuid if uuid.startswith("MIG-") else f"MIG-{uuid}"
    return f"MIG-{card.uuid}/{config['mig.gi']}/{config['mig.ci']}"


def choose(cards: Sequence[NvidiaCard], places: Sequence[str], proc: Path, config: Mapping[str, str]) -> str:
    """The name of the share on the one card of `places` (PCI addresses). Raises InvalidRequest."""
    if not places:
        raise InvalidRequest("Failed to detect requested GPU device")
    if len(places) > 1:
        raise InvalidRequest("More than one GPU matched the MIG device")
    card = next((one for one in cards if one.pci == places[0]), None)
    if card is None:
        raise InvalidRequest("Card isn't a NVIDIA GPU or driver isn't properly setup")
    if not config.get("mig.uuid"):
        share = f"mig/gi{config['mig.gi']}/ci{config['mig.ci']}"
        if not (proc / f"driver/nvidia/capabilities/gpu{card.minor}" / share / "access").exists():
            raise InvalidRequest(
                f"MIG device gi={config['mig.gi']} ci={config['mig.ci']} doesn't exist on GPU {card.minor}"
            )
    return share_name(config, card)


async def attach(device: DeviceContext, places: Sequence[str], runtime: bool) -> Attachment:
    """Name the share for NVIDIA's hook; `runtime` is whether the instance has `nvidia.runtime`."""
    try:
        if not runtime:
            raise InvalidRequest("nvidia.runtime must be set to true for MIG GPUs to work")
        if shutil.which(_TOOL) is None:
            raise NotSupported(f"MIG devices need NVIDIA's container tools, and this server has no {_TOOL}")
        ended = await command.run([_TOOL, "info", "--csv"])
        name = await in_thread(choose, parse_cards(ended.stdout), places, Path("/proc"), device.config)
    except (InvalidRequest, NotSupported) as error:
        raise type(error)(f'Failed to start device "{device.device}": {error}') from error
    return Attachment(nvidia_devices=(name,))


def check_uuid(text: str) -> None:
    """NVIDIA's identity of a share, with or without its prefix."""
    try:
        UUID(text.removeprefix("MIG-"))
    except ValueError as error:
        raise InvalidRequest("Invalid UUID") from error


def check_share(text: str) -> None:
    """The number of a share."""
    if re.fullmatch(r"[0-9]+", text) is None or int(text) > 255:
        raise InvalidRequest(f'Invalid value for an integer "{text}". Must be between 0 and 255')


def check(config: Mapping[str, str], checks: Mapping[str, Check]) -> None:
    """Check a device's keys, each and together."""
    check_keys(config, checks)
    check_combination(config)
