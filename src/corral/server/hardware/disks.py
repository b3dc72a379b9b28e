"""Disks and their partitions."""

from pathlib import Path

from corral.api.resources import Disk, DiskPartition, Storage
from corral.server.hardware.tree import Tree, natural_key, numa_node, or_unset, pci_address, usb_address
from corral.server.host import sysfs

_SECTOR = 512
_SUBSYSTEMS = ("nvme", "usb", "virtio", "mmc", "sata", "scsi")


def read_storage(tree: Tree) -> Storage:
    """The disks that are hardware, by name; loop, ram and mapped devices are none."""
    disks = [_read_disk(tree, path) for path in tree.entries("class", "block") if (path / "device").exists()]
    return Storage(disks=disks, total=len(disks) + sum(len(disk.partitions) for disk in disks))


def _read_disk(tree: Tree, path: Path) -> Disk:
    device = path / "device"
    identifier, device_path = _find_names(tree, path.name)
    return Disk(
        id=path.name,
        device=sysfs.read_text(path / "dev"),
        model=or_unset(sysfs.read_text(device / "model")),
        type=or_unset(_type_of(path)),
        read_only=sysfs.read_int(path / "ro") == 1,
        size=sysfs.read_int(path / "size") * _SECTOR,
        removable=sysfs.read_int(path / "removable") == 1,
        wwn=or_unset(sysfs.read_text(path / "wwid")),
        numa_node=numa_node(device) or numa_node(device / "device"),
        device_path=or_unset(device_path),
        block_size=sysfs.read_int(path / "queue/logical_block_size"),
        firmware_version=or_unset(sysfs.read_text(device / "firmware_rev")),
        rpm=sysfs.read_int(path / "queue/rotational"),
        serial=or_unset(sysfs.read_text(device / "serial")),
        device_id=identifier,
        partitions=_read_partitions(path),
        pci_address=or_unset(pci_address(device)),
        usb_address=or_unset(usb_address(device)),
    )


def _read_partitions(path: Path) -> list[DiskPartition]:
    found = sorted(
        (part for part in path.iterdir() if (part / "partition").exists()), key=lambda p: natural_key(p.name)
    )
    return [
        DiskPartition(
            id=part.name,
            device=sysfs.read_text(part / "dev"),
            read_only=sysfs.read_int(part / "ro") == 1,
            size=sysfs.read_int(part / "size") * _SECTOR,
            partition=sysfs.read_int(part / "partition"),
        )
        for part in found
    ]


def _type_of(path: Path) -> str:
    place = str(path.resolve())
    for word in _SUBSYSTEMS:
        marker = {"sata": "/ata", "scsi": "/host"}.get(word, f"/{word}")
        if marker in place:
            return word
    return ""


def _find_names(tree: Tree, name: str) -> tuple[str, str]:
    """The disk's names below /dev/disk/by-id and /dev/disk/by-path."""
    found = []
    for folder in ("by-id", "by-path"):
        links = sorted((tree.root / "dev/disk" / folder).glob("*"))
        found.append(next((link.name for link in links if link.resolve().name == name), ""))
    return found[0], found[1]
