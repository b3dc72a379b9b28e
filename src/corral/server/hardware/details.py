"""What only some cards have: mediated devices, NVIDIA's driver, Infiniband, vDPA, vital product data."""

import os
from pathlib import Path

from msgspec import UNSET, UnsetType

from corral.api.resources import (
    PCIVPD,
    GPUCardMdev,
    GPUCardNvidia,
    NetworkCardPortInfiniband,
    NetworkCardVDPA,
)
from corral.server.hardware.tree import Tree, or_unset
from corral.server.host import sysfs

_VPD_LIMIT = 32 * 1024
_VPD_NAME, _VPD_READ, _VPD_END = 0x82, 0x90, 0x78
_NVIDIA_MAJOR = 195


def read_mdev(device: Path) -> dict[str, GPUCardMdev] | UnsetType:
    """The types of mediated devices that a card can be split into, by name."""
    found = {}
    for path in sorted((device / "mdev_supported_types").glob("*")):
        active = sorted(entry.name for entry in (path / "devices").glob("*"))
        found[path.name] = GPUCardMdev(
            api=sysfs.read_text(path / "device_api"),
            available=sysfs.read_int(path / "available_instances"),
            name=or_unset(sysfs.read_text(path / "name")),
            description=or_unset(sysfs.read_text(path / "description")),
            devices=active,
        )
    return or_unset(found)


def read_nvidia(tree: Tree, address: str) -> GPUCardNvidia | UnsetType:
    """What NVIDIA's driver says of a card in /proc."""
    text = sysfs.read_text(tree.proc / "driver/nvidia/gpus" / address / "information") if address else ""
    if not text:
        return UNSET
    facts = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        facts[name.strip()] = value.strip()
    minor = facts.get("Device Minor", "")
    version = sysfs.read_text(tree.proc / "driver/nvidia/version").partition("Kernel Module")[2].split()
    return GPUCardNvidia(
        nvrm_version=or_unset(version[0] if version else ""),
        model=facts.get("Model", ""),
        uuid=or_unset(facts.get("GPU UUID", "")),
        card_name=or_unset(f"nvidia{minor}" if minor else ""),
        card_device=or_unset(f"{_NVIDIA_MAJOR}:{minor}" if minor else ""),
    )


def read_infiniband(device: Path, port: int) -> NetworkCardPortInfiniband | UnsetType:
    """The devices by which programs use a port (counted from 0) of an Infiniband card."""
    if not (device / "infiniband").is_dir():
        return UNSET
    found = NetworkCardPortInfiniband()
    for path in sorted((device / "infiniband_mad").glob("*")):
        if sysfs.read_int(path / "port") != port + 1:
            continue
        number = or_unset(sysfs.read_text(path / "dev"))
        if path.name.startswith("issm"):
            found.issm_name, found.issm_device = path.name, number
        elif path.name.startswith("umad"):
            found.mad_name, found.mad_device = path.name, number
    verbs = sorted((device / "infiniband_verbs").glob("*"))
    if len(verbs) == 1:
        found.verb_name, found.verb_device = verbs[0].name, or_unset(sysfs.read_text(verbs[0] / "dev"))
    return found


def read_vdpa(device: Path) -> NetworkCardVDPA | UnsetType:
    """The vDPA device that a card's function has been given to."""
    for path in sorted(device.glob("vdpa*")):
        names = [entry.name for entry in sorted(path.glob("vhost-vdpa-*"))]
        return NetworkCardVDPA(name=path.name, device=names[0] if names else "")
    return UNSET


def read_vpd(device: Path) -> PCIVPD:
    """The vital product data of a device, which only root may read."""
    try:
        fd = os.open(device / "vpd", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return PCIVPD()
    try:
        return parse_vpd(os.read(fd, _VPD_LIMIT))
    except OSError:
        return PCIVPD()
    finally:
        os.close(fd)


def parse_vpd(data: bytes) -> PCIVPD:
    """The name and the readable keywords (PCI Local Bus Specification 3.0, appendix I); damage ends the reading."""
    found, entries, place = PCIVPD(), {}, 0
    while place + 3 <= len(data) and data[place] not in (0, _VPD_END):
        tag, size = data[place], int.from_bytes(data[place + 1 : place + 3], "little")
        content = data[place + 3 : place + 3 + size]
        if not tag & 0x80 or len(content) < size:
            break
        if tag == _VPD_NAME:
            found.product_name = or_unset(_printable(content))
        elif tag == _VPD_READ:
            entries.update(_keywords(content))
        place += 3 + size
    found.entries = or_unset(entries)
    return found


def _keywords(content: bytes) -> dict[str, str]:
    found, place = {}, 0
    while place + 3 <= len(content):
        name, size = content[place : place + 2], content[place + 2]
        value = _printable(content[place + 3 : place + 3 + size])
        if name.isalnum() and name != b"RV" and value:
            found[name.decode()] = value
        place += 3 + size
    return found


def _printable(content: bytes) -> str:
    text = content.rstrip(b"\0 ").decode("ascii", "replace").strip()
    return text if text.isprintable() and "\ufffd" not in text else ""
