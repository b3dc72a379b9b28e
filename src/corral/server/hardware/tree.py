"""The machine as /sys and /proc show it, below a root that tests can choose."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from msgspec import UNSET, UnsetType

from corral.server.host import sysfs

T = TypeVar("T")

_PCI_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_USB_DEVICE = re.compile(r"[0-9]+-[0-9.]+")


def or_unset(value: T) -> T | UnsetType:
    """The value, or UNSET (left out of the answer) where it is empty."""
    return value or UNSET


@dataclass(frozen=True, slots=True)
class Tree:
    """Reads below a root directory."""

    root: Path = Path("/")

    @property
    def is_live(self) -> bool:
        """Whether this is the machine that runs, whose kernel can be asked more."""
        return self.root == Path("/")

    @property
    def sys(self) -> Path:
        return self.root / "sys"

    @property
    def proc(self) -> Path:
        return self.root / "proc"

    def entries(self, *parts: str) -> list[Path]:
        """The entries of a directory of /sys by natural order; none where it is not there."""
        folder = self.sys.joinpath(*parts)
        try:
            return sorted(folder.iterdir(), key=lambda path: natural_key(path.name))
        except OSError:
            return []

    def driver(self, device: Path) -> tuple[str, str]:
        """Name and version of a device's driver; a driver without a version has the kernel's."""
        link = device / "driver"
        if not link.is_symlink():
            return "", ""
        name = os.path.basename(os.readlink(link))
        version = sysfs.read_text(link / "module/version") or sysfs.read_text(self.proc / "sys/kernel/osrelease")
        return name, version


def natural_key(name: str) -> list[tuple[int, str]]:
    """Orders cpu2 before cpu10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", name)]


def numa_node(device: Path) -> int:
    """The NUMA node of a device; 0 where there is none."""
    return max(0, sysfs.read_int(device / "numa_node"))


def pci_address(device: Path) -> str:
    """The PCI address of the nearest PCI device above a device, or ""."""
    found = [part for part in device.resolve().parts if _PCI_ADDRESS.fullmatch(part)]
    return found[-1] if found else ""


def usb_address(device: Path) -> str:
    """`bus:device` of the nearest USB device above a device, or ""."""
    resolved = device.resolve()
    for place in (resolved, *resolved.parents):
        if _USB_DEVICE.fullmatch(place.name) and (place / "busnum").exists():
            return f"{sysfs.read_int(place / 'busnum')}:{sysfs.read_int(place / 'devnum')}"
    return ""


def hex_id(path: Path) -> str:
    """`1af4` from a file that says 0x1af4."""
    return sysfs.read_text(path).removeprefix("0x")
