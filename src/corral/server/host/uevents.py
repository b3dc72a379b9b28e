"""The hardware that has device nodes, by sysfs, and the kernel's news of its coming and going (netlink uevents)."""

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from corral.server.host.sysfs import read_text

_NETLINK_KOBJECT_UEVENT = 15
_GROUP_KERNEL = 1
_ROOT_DEPTH = 12


@dataclass(frozen=True, slots=True)
class Hardware:
    """A device node of a piece of hardware; `vendor` and `product` are four hexadecimal digits, as sysfs has them."""

    path: str
    is_block: bool
    major: int
    minor: int
    subsystem: str
    vendor: str
    product: str


def list_hardware(sys: Path = Path("/sys")) -> list[Hardware]:
    """All device nodes below hardware that has a vendor and a product."""
    found = []
    for kind in ("char", "block"):
        for entry in sorted(_entries(sys / "dev" / kind)):
            one = _read(entry, kind == "block")
            if one is not None:
                found.append(one)
    return found


def list_usb(sys: Path = Path("/sys")) -> list[Hardware]:
    """The USB devices themselves (/dev/bus/usb/BUS/DEVICE)."""
    found = []
    for entry in sorted(_entries(sys / "bus/usb/devices")):
        vendor, product = read_text(entry / "idVendor").strip(), read_text(entry / "idProduct").strip()
        bus, number = read_text(entry / "busnum").strip(), read_text(entry / "devnum").strip()
        major, _, minor = read_text(entry / "dev").strip().partition(":")
        if vendor and bus.isdecimal() and number.isdecimal() and major.isdecimal() and minor.isdecimal():
            path = f"/dev/bus/usb/{int(bus):03}/{int(number):03}"
            found.append(Hardware(path, False, int(major), int(minor), "usb", vendor, product))
    return found


def _entries(directory: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        yield from directory.iterdir()


def _read(entry: Path, is_block: bool) -> Hardware | None:
    values = dict(line.partition("=")[::2] for line in read_text(entry / "uevent").splitlines())
    if not values.get("DEVNAME"):
        return None
    place = Path(os.path.realpath(entry))
    for _ in range(_ROOT_DEPTH):
        vendor, product = read_text(place / "idVendor").strip(), read_text(place / "idProduct").strip()
        if vendor and product:
            break
        place = place.parent
    else:
        return None
    major, _, minor = entry.name.partition(":")
    subsystem = os.path.basename(os.path.realpath(entry / "subsystem"))
    return Hardware(f"/dev/{values['DEVNAME']}", is_block, int(major), int(minor), subsystem, vendor, product)


def open_monitor() -> socket.socket:
    """A socket that becomes readable when hardware comes or goes."""
    monitor = socket.socket(
        socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, _NETLINK_KOBJECT_UEVENT
    )
    try:
        monitor.bind((0, _GROUP_KERNEL))
    except OSError:
        monitor.close()
        raise
    return monitor


def drain_monitor(monitor: socket.socket) -> bool:
    """Take what the monitor has to tell; says whether a device came or went (network interfaces do not count)."""
    is_news = False
    while True:
        try:
            fields = monitor.recv(65536).split(b"\0")
        except BlockingIOError:
            return is_news
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            is_news = True
            continue
        is_news = is_news or (
            (b"ACTION=add" in fields or b"ACTION=remove" in fields) and any(one.startswith(b"MAJOR=") for one in fields)
        )
