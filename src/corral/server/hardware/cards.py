"""Network cards, graphics cards, and all devices on the PCI and USB buses."""

import os
from pathlib import Path
from typing import TypeVar

from msgspec import UNSET, UnsetType

from corral.api.resources import (
    GPU,
    PCI,
    USB,
    GPUCard,
    GPUCardDRM,
    GPUCardSRIOV,
    Network,
    NetworkCard,
    NetworkCardPort,
    NetworkCardSRIOV,
    PCIDevice,
    USBDevice,
    USBInterface,
)
from corral.server.hardware import details
from corral.server.hardware.tree import Tree, hex_id, natural_key, numa_node, or_unset, pci_address, usb_address
from corral.server.host import sysfs
from corral.server.host.network import ethtool

_NETWORK_CLASS = "0x02"
_PROTOCOLS = {1: "ethernet", 32: "infiniband"}
"""ARPHRD numbers (linux/if_arp.h) of what a card's port can be."""

CardT = TypeVar("CardT")


def read_network(tree: Tree) -> Network:
    """The network cards: the hardware behind the interfaces, and cards on the PCI bus that have none here."""
    cards: dict[str, NetworkCard] = {}
    for path in tree.entries("class", "net"):
        device = path / "device"
        if not device.exists():
            continue
        address = pci_address(device)
        card = cards.setdefault(address or path.name, _network_card(tree, _hardware_of(tree, device, address)))
        card.usb_address = or_unset(usb_address(device))
        ports = card.ports if isinstance(card.ports, list) else []
        card.ports = [*ports, _read_port(tree, path)]
        if tree.is_live and not card.firmware_version:
            card.firmware_version = or_unset(ethtool.read_firmware(path.name))
    for path in tree.entries("bus", "pci", "devices"):
        if sysfs.read_text(path / "class").startswith(_NETWORK_CLASS) and path.name not in cards:
            cards[path.name] = _network_card(tree, path)
    functions = _take_functions(tree, cards)
    for address, card in cards.items():
        if isinstance(card.sriov, NetworkCardSRIOV):
            card.sriov.vfs = [functions[one] for one in _functions_of(tree, address) if one in functions]
    return Network(cards=[cards[name] for name in sorted(cards)], total=len(cards))


def _functions_of(tree: Tree, address: str) -> list[str]:
    """The PCI addresses of the virtual functions of a card."""
    links = sorted((tree.sys / "bus/pci/devices" / address).glob("virtfn*"), key=lambda path: natural_key(path.name))
    return [os.path.basename(os.readlink(link)) for link in links if link.is_symlink()]


def _take_functions(tree: Tree, cards: dict[str, CardT]) -> dict[str, CardT]:
    """Take the cards that are virtual functions of others out of the list."""
    addresses = [one for address in list(cards) for one in _functions_of(tree, address)]
    return {address: cards.pop(address) for address in addresses if address in cards}


def _hardware_of(tree: Tree, device: Path, address: str) -> Path:
    return tree.sys / "bus/pci/devices" / address if address else device


def _network_card(tree: Tree, path: Path) -> NetworkCard:
    driver, version = tree.driver(path)
    if driver == "virtio-pci":
        driver, version = "virtio_net", version
    maximum = sysfs.read_int(path / "sriov_totalvfs")
    card = NetworkCard(
        driver=or_unset(driver),
        driver_version=or_unset(version),
        numa_node=numa_node(path),
        pci_address=or_unset(pci_address(path)),
        vendor_id=or_unset(hex_id(path / "vendor")),
        product_id=or_unset(hex_id(path / "device")),
        vdpa=details.read_vdpa(path),
    )
    if maximum:
        card.sriov = NetworkCardSRIOV(current_vfs=sysfs.read_int(path / "sriov_numvfs"), maximum_vfs=maximum, vfs=[])
    return card


def _read_port(tree: Tree, path: Path) -> NetworkCardPort:
    speed = sysfs.read_int(path / "speed")
    duplex = sysfs.read_text(path / "duplex")
    protocol = _PROTOCOLS.get(sysfs.read_int(path / "type", 1), "unknown")
    port = NetworkCardPort(
        id=path.name,
        address=or_unset(sysfs.read_text(path / "address")),
        port=sysfs.read_int(path / "dev_port"),
        link_detected=sysfs.read_int(path / "carrier") == 1,
        link_speed=or_unset(max(0, speed)),
        link_duplex=duplex if duplex in ("full", "half") else UNSET,
        protocol=protocol,
    )
    if protocol == "infiniband":
        port.infiniband = details.read_infiniband(path / "device", port.port)
    link = ethtool.read_link(path.name) if tree.is_live else None
    if link is not None:
        port.supported_modes, port.supported_ports = or_unset(list(link.modes)), or_unset(list(link.ports))
        port.port_type, port.transceiver_type = or_unset(link.port_type), or_unset(link.transceiver)
        port.auto_negotiation = link.autoneg
    return port


def read_gpu(tree: Tree) -> GPU:
    """The graphics cards that have a DRM device."""
    cards: dict[str, GPUCard] = {}
    for path in tree.entries("class", "drm"):
        if not path.name.startswith("card") or not path.name[4:].isdecimal() or not (path / "device").exists():
            continue
        device = path / "device"
        driver, version = tree.driver(device)
        render = next((entry.name for entry in sorted((device / "drm").glob("renderD*"))), "")
        drm = GPUCardDRM(
            id=int(path.name[4:]),
            card_name=path.name,
            card_device=sysfs.read_text(path / "dev"),
            render_name=or_unset(render),
            render_device=or_unset(sysfs.read_text(device / "drm" / render / "dev") if render else ""),
        )
        address = pci_address(device)
        cards[address or path.name] = GPUCard(
            driver=or_unset(driver),
            driver_version=or_unset(version),
            drm=drm,
            sriov=_gpu_functions(device),
            nvidia=details.read_nvidia(tree, address),
            mdev=details.read_mdev(device),
            numa_node=numa_node(device),
            pci_address=or_unset(address),
            vendor_id=or_unset(hex_id(device / "vendor")),
            product_id=or_unset(hex_id(device / "device")),
            usb_address=or_unset(usb_address(device)),
        )
    functions = _take_functions(tree, cards)
    for address, card in cards.items():
        if isinstance(card.sriov, GPUCardSRIOV):
            card.sriov.vfs = [functions[one] for one in _functions_of(tree, address) if one in functions]
    return GPU(cards=list(cards.values()), total=len(cards))


def _gpu_functions(device: Path) -> GPUCardSRIOV | UnsetType:
    maximum = sysfs.read_int(device / "sriov_totalvfs")
    if not maximum:
        return UNSET
    return GPUCardSRIOV(current_vfs=sysfs.read_int(device / "sriov_numvfs"), maximum_vfs=maximum, vfs=[])


def read_pci(tree: Tree) -> PCI:
    """All devices on the PCI bus."""
    devices = []
    for path in tree.entries("bus", "pci", "devices"):
        driver, version = tree.driver(path)
        group = path / "iommu_group"
        devices.append(
            PCIDevice(
                driver=driver,
                driver_version=version,
                numa_node=numa_node(path),
                pci_address=path.name,
                vendor_id=hex_id(path / "vendor"),
                product_id=hex_id(path / "device"),
                iommu_group=int(os.path.basename(os.readlink(group))) if group.is_symlink() else 0,
                vpd=details.read_vpd(path),
            )
        )
    return PCI(devices=devices, total=len(devices))


def read_usb(tree: Tree) -> USB:
    """All devices on the USB buses but the hubs of the machine itself."""
    devices = []
    for path in tree.entries("bus", "usb", "devices"):
        if ":" in path.name or path.name.startswith("usb") or not (path / "idVendor").exists():
            continue
        devices.append(
            USBDevice(
                bus_address=sysfs.read_int(path / "busnum"),
                device_address=sysfs.read_int(path / "devnum"),
                interfaces=[_read_interface(tree, inner) for inner in sorted(path.glob(f"{path.name}:*"))],
                vendor=sysfs.read_text(path / "manufacturer"),
                vendor_id=sysfs.read_text(path / "idVendor"),
                product=sysfs.read_text(path / "product"),
                product_id=sysfs.read_text(path / "idProduct"),
                speed=_decimal(sysfs.read_text(path / "speed")),
            )
        )
    return USB(devices=devices, total=len(devices))


def _decimal(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _read_interface(tree: Tree, path: Path) -> USBInterface:
    driver, version = tree.driver(path)
    return USBInterface(
        class_id=_hexadecimal(path / "bInterfaceClass"),
        subclass_id=_hexadecimal(path / "bInterfaceSubClass"),
        number=_hexadecimal(path / "bInterfaceNumber"),
        driver=driver,
        driver_version=version,
    )


def _hexadecimal(path: Path) -> int:
    try:
        return int(sysfs.read_text(path), 16)
    except ValueError:
        return 0
