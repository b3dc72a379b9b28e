"""The machine as a whole: maker, firmware, chassis, and whether it is a container or a virtual machine."""

from pathlib import Path

from corral.api.resources import System, SystemChassis, SystemFirmware, SystemMotherboard
from corral.server.hardware.tree import Tree
from corral.server.host import sysfs

_CHASSIS = {
    "1": "Other",
    "3": "Desktop",
    "4": "Low Profile Desktop",
    "5": "Pizza Box",
    "6": "Mini Tower",
    "7": "Tower",
    "8": "Portable",
    "9": "Laptop",
    "10": "Notebook",
    "13": "All in One",
    "17": "Main Server Chassis",
    "22": "RAID Chassis",
    "23": "Rack Mount Chassis",
    "28": "Blade",
    "29": "Blade Enclosure",
    "30": "Tablet",
    "35": "Mini PC",
}
"""Types of the SMBIOS specification, section 7.4.1."""


def read_system(tree: Tree) -> System:
    """Maker, product and kind of the machine, from its DMI tables where it has them."""
    dmi = tree.sys / "class/dmi/id"

    def field(name: str) -> str:
        return sysfs.read_text(dmi / name)

    system = System(
        uuid=field("product_uuid"),
        vendor=field("sys_vendor"),
        product=field("product_name"),
        family=field("product_family"),
        version=field("product_version"),
        sku=field("product_sku"),
        serial=field("product_serial"),
        type=_type_of(tree, dmi),
    )
    if dmi.is_dir():
        system.firmware = SystemFirmware(
            vendor=field("bios_vendor"), date=field("bios_date"), version=field("bios_version")
        )
        kind = field("chassis_type")
        system.chassis = SystemChassis(
            vendor=field("chassis_vendor"),
            type=_CHASSIS.get(kind, kind),
            serial=field("chassis_serial"),
            version=field("chassis_version"),
        )
        system.motherboard = SystemMotherboard(
            vendor=field("board_vendor"),
            product=field("board_name"),
            serial=field("board_serial"),
            version=field("board_version"),
        )
    return system


def _type_of(tree: Tree, dmi: Path) -> str:
    environment = sysfs.read_text(tree.proc / "1/environ")
    if "container=" in environment or (tree.root / "run/systemd/container").exists():
        return "container"
    if " hypervisor" in sysfs.read_text(tree.proc / "cpuinfo"):
        return "virtual-machine"
    return "physical" if dmi.is_dir() else "unknown"
