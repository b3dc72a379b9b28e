"""All kinds of device by type, and what holds for devices of any kind."""

import re
from collections.abc import Mapping

from corral.errors import InvalidRequest
from corral.server.devices.disk import Disk, is_root_disk
from corral.server.devices.gpu import MACHINE_GPUS, Gpu
from corral.server.devices.infiniband import Infiniband
from corral.server.devices.machine_only import PCI_CHECKS, MachineDevice
from corral.server.devices.model import Device
from corral.server.devices.nic.bridged import BridgedNic
from corral.server.devices.nic.ipvlan import IpvlanNic
from corral.server.devices.nic.macvlan import MacvlanNic
from corral.server.devices.nic.networked import NetworkedNic
from corral.server.devices.nic.p2p import P2pNic
from corral.server.devices.nic.physical import PhysicalNic
from corral.server.devices.nic.routed import RoutedNic
from corral.server.devices.nic.sriov import SriovNic
from corral.server.devices.none import NoDevice
from corral.server.devices.proxy import Proxy
from corral.server.devices.tpm import Tpm
from corral.server.devices.unix import UNIX_BLOCK, UNIX_CHAR, UNIX_HOTPLUG, USB

DEVICES: dict[str, Device] = {
    "disk": Disk(),
    "gpu": Gpu(),
    "none": NoDevice(),
    "tpm": Tpm(),
    "unix-block": UNIX_BLOCK,
    "unix-char": UNIX_CHAR,
    "unix-hotplug": UNIX_HOTPLUG,
    "usb": USB,
    "proxy": Proxy(),
    "infiniband": Infiniband(),
    "pci": MachineDevice(PCI_CHECKS, ("address",)),
}
NETWORKED = NetworkedNic()
NICS: dict[str, Device] = {
    "bridged": BridgedNic(),
    "p2p": P2pNic(),
    "macvlan": MacvlanNic(),
    "physical": PhysicalNic(),
    "routed": RoutedNic(),
    "ipvlan": IpvlanNic(),
    "sriov": SriovNic(),
}


def find(config: Mapping[str, str]) -> Device | None:
    """The kind of a device, None for a type that is unknown."""
    kind = config.get("type", "")
    if kind == "nic":
        return NETWORKED if config.get("network") else NICS.get(config.get("nictype", ""))
    if kind == "gpu" and config.get("gputype") in MACHINE_GPUS:
        return MACHINE_GPUS[config["gputype"]]
    return DEVICES.get(kind)


def get(config: Mapping[str, str]) -> Device:
    """The kind of a device, InvalidRequest for an unknown type."""
    found = find(config)
    if found is None:
        raise InvalidRequest("Unsupported device type")
    return found


def validate(
    name: str, config: Mapping[str, str], others: Mapping[str, Mapping[str, str]], *, of_container: bool = False
) -> None:
    """Check a device, with all devices of the same owner as `others`; `of_container` is one of a container's own."""
    if len(name) > 64:
        raise InvalidRequest("The maximum device name length is 64 characters")
    check_device_name(name)
    if not config.get("type"):
        raise InvalidRequest(f'Failed loading device "{name}": Missing device type in config')
    try:
        device = get(config)
    except InvalidRequest as error:
        raise InvalidRequest(f'Failed loading device "{name}": {error}') from error
    if of_container and isinstance(device, MachineDevice):
        raise InvalidRequest("Unsupported device type")
    device.validate(config, others)


def check_device_name(name: str) -> None:
    """Raise InvalidRequest for a name that no device can have."""
    if not 1 <= len(name) <= 63:
        raise InvalidRequest("Name must be 1-63 characters long")
    if name.startswith("."):
        raise InvalidRequest('Name must not start with "." character')
    if re.fullmatch(r"[A-Za-z0-9/:_.-]+", name) is None:
        raise InvalidRequest(
            "Name can only contain alphanumeric, forward slash, hyphen, colon, underscore and full stop characters"
        )


def find_root_disk(devices: Mapping[str, Mapping[str, str]]) -> tuple[str, Mapping[str, str]]:
    """The name and config of the only root disk; InvalidRequest where there is none or more than one."""
    found = [(name, config) for name, config in devices.items() if is_root_disk(config)]
    if not found:
        raise InvalidRequest(
            "No root device could be found: neither the instance nor its profiles have a disk with path=/ and pool=POOL"
        )
    if len(found) > 1:
        raise InvalidRequest("More than one root device found")
    return found[0]


def sort_key(item: tuple[str, Mapping[str, str]]) -> tuple[int, str, str]:
    """Order of attaching: NICs and the rest by name, then disks by path, so that mounts come after their parents."""
    name, config = item
    is_disk = config.get("type") == "disk"
    return (1 if is_disk else 0, "/" + config.get("path", "").lstrip("/") if is_disk else "", name)
