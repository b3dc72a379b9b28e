"""What only some cards have, from files made up."""

import os
import struct
from pathlib import Path

import msgspec

from corral.api.resources import GPUCardSRIOV, NetworkCardSRIOV
from corral.server.hardware import cards, details, names, resources
from corral.server.hardware.tree import Tree
from corral.server.host.network import ethtool

INFORMATION = "Model: \t\t GeForce GT 730\nIRQ:   \t\t 30\nGPU UUID: \t GPU-6dda\nDevice Minor: \t 0\n"
VERSION = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  450.102.04  Tue Dec 29\nGCC version: 9"


def write(root: Path, files: dict[str, str], links: dict[str, str] | None = None) -> Tree:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for name, target in (links or {}).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        os.symlink(target, root / name)
    return Tree(root)


def test_a_graphics_card_with_functions_and_profiles(tmp_path: Path) -> None:
    files = {
        "proc/driver/nvidia/gpus/0000:00:05.0/information": INFORMATION,
        "proc/driver/nvidia/version": VERSION,
        "sys/devices/0000:00:05.0/sriov_totalvfs": "7",
        "sys/devices/0000:00:05.0/sriov_numvfs": "1",
        "sys/devices/0000:00:05.0/drm/card0/dev": "226:0",
        "sys/devices/0000:00:05.1/drm/card1/dev": "226:1",
        "sys/devices/0000:00:05.0/mdev_supported_types/V5_8/device_api": "vfio-pci",
        "sys/devices/0000:00:05.0/mdev_supported_types/V5_8/available_instances": "2",
        "sys/devices/0000:00:05.0/mdev_supported_types/V5_8/description": "fence: 4",
        "sys/devices/0000:00:05.0/mdev_supported_types/V5_8/devices/4220/uuid": "",
    }
    links = {
        "sys/class/drm/card0": "../../devices/0000:00:05.0/drm/card0",
        "sys/class/drm/card1": "../../devices/0000:00:05.1/drm/card1",
        "sys/devices/0000:00:05.0/drm/card0/device": "../..",
        "sys/devices/0000:00:05.1/drm/card1/device": "../..",
        "sys/bus/pci/devices/0000:00:05.0": "../../../devices/0000:00:05.0",
        "sys/bus/pci/devices/0000:00:05.1": "../../../devices/0000:00:05.1",
        "sys/devices/0000:00:05.0/virtfn0": "../0000:00:05.1",
    }
    found = cards.read_gpu(write(tmp_path, files, links))
    (card,) = found.cards
    assert found.total == 1
    assert isinstance(card.sriov, GPUCardSRIOV)
    assert (card.sriov.current_vfs, card.sriov.maximum_vfs) == (1, 7)
    assert card.sriov.vfs is not None
    assert [one.pci_address for one in card.sriov.vfs] == ["0000:00:05.1"]
    plain = msgspec.to_builtins(card)
    assert plain["nvidia"] == {
        "brand": "",
        "card_device": "195:0",
        "card_name": "nvidia0",
        "model": "GeForce GT 730",
        "nvrm_version": "450.102.04",
        "uuid": "GPU-6dda",
    }
    profile = {"api": "vfio-pci", "available": 2, "description": "fence: 4", "devices": ["4220"]}
    assert plain["mdev"] == {"V5_8": profile}


def test_an_infiniband_card_with_functions(tmp_path: Path) -> None:
    base = "sys/devices/0000:00:06.0"
    files = {
        f"{base}/class": "0x020700",
        f"{base}/sriov_totalvfs": "4",
        f"{base}/sriov_numvfs": "1",
        f"{base}/net/ib0/type": "32",
        f"{base}/net/ib0/dev_port": "1",
        f"{base}/net/ib0/duplex": "unknown",
        f"{base}/infiniband/mlx5_0/x": "",
        f"{base}/infiniband_mad/issm1/port": "2",
        f"{base}/infiniband_mad/issm1/dev": "231:65",
        f"{base}/infiniband_mad/umad0/port": "1",
        f"{base}/infiniband_mad/umad1/port": "2",
        f"{base}/infiniband_mad/umad1/dev": "231:1",
        f"{base}/infiniband_verbs/uverbs0/dev": "231:192",
        "sys/devices/0000:00:06.1/class": "0x020700",
        "sys/devices/0000:00:06.1/vdpa0/vhost-vdpa-0/dev": "",
    }
    links = {
        "sys/class/net/ib0": "../../devices/0000:00:06.0/net/ib0",
        f"{base}/net/ib0/device": "../..",
        f"{base}/virtfn0": "../0000:00:06.1",
        "sys/bus/pci/devices/0000:00:06.0": "../../../devices/0000:00:06.0",
        "sys/bus/pci/devices/0000:00:06.1": "../../../devices/0000:00:06.1",
    }
    (card,) = cards.read_network(write(tmp_path, files, links)).cards
    assert isinstance(card.sriov, NetworkCardSRIOV)
    assert card.sriov.vfs is not None
    (function,) = card.sriov.vfs
    assert msgspec.to_builtins(function.vdpa) == {"name": "vdpa0", "device": "vhost-vdpa-0"}
    assert isinstance(card.ports, list)
    port = msgspec.to_builtins(card.ports[0])
    assert port["protocol"] == "infiniband"
    assert "link_duplex" not in port
    assert port["infiniband"] == {
        "issm_name": "issm1",
        "issm_device": "231:65",
        "mad_name": "umad1",
        "mad_device": "231:1",
        "verb_name": "uverbs0",
        "verb_device": "231:192",
    }


def vpd(*parts: tuple[int, bytes]) -> bytes:
    return b"".join(struct.pack("<BH", tag, len(content)) + content for tag, content in parts) + b"\x78"


def test_vital_product_data() -> None:
    keywords = b"EC\x06A-5545MN\x04103CV0\x03\xff\x00\x01RV\x01\x00"
    found = details.parse_vpd(vpd((0x82, b"HP Ethernet\0"), (0x90, keywords)))
    assert msgspec.to_builtins(found) == {
        "product_name": "HP Ethernet",
        "entries": {"EC": "A-5545", "MN": "103C"},
    }
    for damaged in (b"", b"\xff" * 100, b"\0" * 100, b"\x82\xff\xff", vpd((0x90, b"EC\xff"))):
        assert msgspec.to_builtins(details.parse_vpd(damaged)) in ({}, {"entries": {}})


def test_names_of_vendors_and_products(tmp_path: Path) -> None:
    text = (
        "# list\n1af4  Red Hat, Inc.\n\t1041  Virtio 1.0 network device\n\t\t1af4 0001  Sub\n8086  Intel\nC 02  Net\n"
    )
    path = tmp_path / "usr/share/misc/pci.ids"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    found = names.find_names(path, [("1af4", "1041"), ("8086", "ffff"), ("0000", "0000")])
    assert found == {
        ("1af4", "1041"): ("Red Hat, Inc.", "Virtio 1.0 network device"),
        ("8086", "ffff"): ("Intel", ""),
        ("0000", "0000"): ("", ""),
    }
    assert names.find_names(tmp_path / "none", [("1af4", "1041")]) == {}
    device = "sys/devices/0000:00:03.0"
    files = {f"{device}/vendor": "0x1af4", f"{device}/device": "0x1041", f"{device}/class": "0x020000"}
    links = {"sys/bus/pci/devices/0000:00:03.0": "../../../devices/0000:00:03.0"}
    machine = resources.read_resources(write(tmp_path, files, links))
    assert [one.vendor for one in machine.pci.devices] == ["Red Hat, Inc."]
    assert [one.product for one in machine.network.cards] == ["Virtio 1.0 network device"]


def test_what_drivers_say() -> None:
    data = struct.pack("=IIIHBBBBBBIIHBBIII", 1, 1 << 5 | 1 << 7, 0, 1000, 1, 0, 0, 1, 1, 0, *[0] * 8)
    link = ethtool.parse_settings(data)
    assert link == ethtool.Link(("1000baseT/Full",), ("twisted pair",), "twisted pair", "external", "full", True)
    answer = struct.pack("=I32s32s32s32s32s12sIIIII", 3, b"e1000", b"1", b"1.63, 0x8\0x", b"", b"", b"", *[0] * 5)
    assert ethtool.parse_driver(answer) == "1.63, 0x8"
    assert ethtool.read_link("nonesuch0") is None
    assert ethtool.read_firmware("nonesuch0") == ""
    assert ethtool.read_firmware("lo") == ""
