"""The hardware of a made-up machine, and of this one."""

import os
from pathlib import Path

import msgspec
import pytest

from corral.server.hardware import cards, cpu, disks, resources, system
from corral.server.hardware.tree import Tree, natural_key

FILES = {
    "proc/cpuinfo": "processor\t: 0\nvendor_id\t: V\nmodel name\t: M\n\nprocessor\t: 1\nvendor_id\t: V\n"
    "model name\t: M",
    "proc/meminfo": "MemTotal: 1000 kB\nMemAvailable: 600 kB\nHugepagesize: 2048 kB\nHugePages_Total: 3\n"
    "HugePages_Free: 1\n",
    "proc/sys/kernel/osrelease": "6.1",
    "proc/1/environ": "container=lxc\0",
    "sys/devices/system/cpu/isolated": "1",
    "sys/devices/system/cpu/cpu0/topology/core_id": "0",
    "sys/devices/system/cpu/cpu0/topology/physical_package_id": "0",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "2000000",
    "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "3000000",
    "sys/devices/system/cpu/cpu0/cache/index0/level": "1",
    "sys/devices/system/cpu/cpu0/cache/index0/type": "Data",
    "sys/devices/system/cpu/cpu0/cache/index0/size": "32K",
    "sys/devices/system/cpu/cpu1/online": "0",
    "sys/devices/system/cpu/cpu1/topology/core_id": "0",
    "sys/devices/system/cpu/cpu1/topology/physical_package_id": "0",
    "sys/devices/system/cpu/cpufreq/x": "",
    "sys/devices/system/node/node0/cpulist": "0-1",
    "sys/devices/system/node/node0/meminfo": "Node 0 MemTotal: 1000 kB\nNode 0 MemUsed: 400 kB\n",
    "sys/devices/system/memory/block_size_bytes": "100000",
    "sys/devices/system/memory/memory0/online": "1",
    "sys/devices/system/memory/memory1/online": "0",
    "sys/devices/pci0/0000:00:03.0/vendor": "0x1af4",
    "sys/devices/pci0/0000:00:03.0/device": "0x1041",
    "sys/devices/pci0/0000:00:03.0/class": "0x020000",
    "sys/devices/pci0/0000:00:03.0/net/eth0/address": "00:11:22:33:44:55",
    "sys/devices/pci0/0000:00:03.0/net/eth0/carrier": "1",
    "sys/devices/pci0/0000:00:03.0/net/eth0/speed": "1000",
    "sys/devices/pci0/0000:00:03.0/net/eth0/duplex": "full",
    "sys/devices/pci0/0000:00:04.0/vendor": "0x8086",
    "sys/devices/pci0/0000:00:04.0/device": "0x1572",
    "sys/devices/pci0/0000:00:04.0/class": "0x020000",
    "sys/devices/pci0/0000:00:04.0/sriov_totalvfs": "8",
    "sys/devices/pci0/0000:00:04.0/sriov_numvfs": "2",
    "sys/devices/pci0/0000:00:05.0/vendor": "0x10de",
    "sys/devices/pci0/0000:00:05.0/device": "0x1eb8",
    "sys/devices/pci0/0000:00:05.0/class": "0x030000",
    "sys/devices/pci0/0000:00:05.0/drm/card0/dev": "226:0",
    "sys/devices/pci0/0000:00:05.0/drm/renderD128/dev": "226:128",
    "sys/devices/pci0/0000:00:02.0/virtio0/block/vda/dev": "254:0",
    "sys/devices/pci0/0000:00:02.0/virtio0/block/vda/size": "2048",
    "sys/devices/pci0/0000:00:02.0/virtio0/block/vda/ro": "1",
    "sys/devices/pci0/0000:00:02.0/virtio0/block/vda/queue/logical_block_size": "512",
    "sys/devices/pci0/0000:00:02.0/virtio0/block/vda/vda1/partition": "1",
    "sys/devices/pci0/0000:00:02.0/virtio0/block/vda/vda1/size": "1024",
    "sys/devices/pci0/0000:00:02.0/virtio0/block/vda/vda1/dev": "254:1",
    "sys/bus/usb/devices/1-2/idVendor": "1d6b",
    "sys/bus/usb/devices/1-2/idProduct": "0002",
    "sys/bus/usb/devices/1-2/busnum": "1",
    "sys/bus/usb/devices/1-2/devnum": "4",
    "sys/bus/usb/devices/1-2/product": "Stick",
    "sys/bus/usb/devices/1-2/speed": "480",
    "sys/bus/usb/devices/1-2/1-2:1.0/bInterfaceClass": "08",
    "sys/bus/usb/devices/1-2/1-2:1.0/bInterfaceNumber": "00",
    "sys/bus/usb/devices/usb1/idVendor": "1d6b",
    "sys/class/dmi/id/sys_vendor": "ACME",
    "sys/class/dmi/id/chassis_type": "23",
}
LINKS = {
    "sys/class/net/eth0": "../../devices/pci0/0000:00:03.0/net/eth0",
    "sys/devices/pci0/0000:00:03.0/net/eth0/device": "../..",
    "sys/devices/pci0/0000:00:03.0/driver": "../../../bus/virtio-pci",
    "sys/bus/pci/devices/0000:00:03.0": "../../../devices/pci0/0000:00:03.0",
    "sys/bus/pci/devices/0000:00:04.0": "../../../devices/pci0/0000:00:04.0",
    "sys/devices/pci0/0000:00:04.0/iommu_group": "../groups/7",
    "sys/class/drm/card0": "../../devices/pci0/0000:00:05.0/drm/card0",
    "sys/devices/pci0/0000:00:05.0/drm/card0/device": "../..",
    "sys/class/block/vda": "../../devices/pci0/0000:00:02.0/virtio0/block/vda",
    "sys/devices/pci0/0000:00:02.0/virtio0/block/vda/device": "../..",
    "dev/disk/by-id/virtio-x": "../../vda",
}


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for name, target in LINKS.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        os.symlink(target, path)
    (tmp_path / "sys/class/block/loop0").mkdir()
    return Tree(tmp_path)


def test_processors(tree: Tree) -> None:
    found = cpu.read_cpu(tree)
    (socket,) = found.sockets
    assert (found.total, socket.name, socket.vendor) == (2, "M", "V")
    assert (socket.frequency, socket.frequency_turbo, socket.frequency_minimum) == (2000, 3000, msgspec.UNSET)
    assert isinstance(socket.cache, list)
    assert [(cache.level, cache.type, cache.size) for cache in socket.cache] == [(1, "Data", 32768)]
    (core,) = socket.cores
    assert [(one.id, one.thread, one.online, one.isolated) for one in core.threads] == [
        (0, 0, True, False),
        (1, 1, False, True),
    ]


def test_memory(tree: Tree) -> None:
    found = cpu.read_memory(tree)
    assert (found.total, found.used) == (0x100000, 400 * 1024)
    assert (found.hugepages_size, found.hugepages_total, found.hugepages_used) == (2**21, 3 * 2**21, 2 * 2**21)
    assert isinstance(found.nodes, list)
    assert (found.nodes[0].total, found.nodes[0].used) == (1000 * 1024, 400 * 1024)


def test_disks(tree: Tree) -> None:
    found = disks.read_storage(tree)
    (disk,) = found.disks
    assert (disk.id, disk.device, disk.type, disk.size, disk.read_only) == ("vda", "254:0", "virtio", 2**20, True)
    assert (disk.device_id, disk.pci_address) == ("virtio-x", "0000:00:02.0")
    assert [(part.id, part.partition, part.size) for part in disk.partitions] == [("vda1", 1, 2**19)]
    assert found.total == 2


def test_network_cards(tree: Tree) -> None:
    first, second = cards.read_network(tree).cards
    assert (first.driver, first.vendor_id, first.product_id, first.pci_address) == (
        "virtio_net",
        "1af4",
        "1041",
        "0000:00:03.0",
    )
    assert isinstance(first.ports, list)
    port = first.ports[0]
    assert (port.id, port.link_detected, port.link_speed, port.link_duplex) == ("eth0", True, 1000, "full")
    assert isinstance(second.sriov, object)
    assert not isinstance(second.sriov, msgspec.UnsetType)
    assert (second.sriov.current_vfs, second.sriov.maximum_vfs) == (2, 8)


def test_graphics_and_buses(tree: Tree) -> None:
    (card,) = cards.read_gpu(tree).cards
    assert not isinstance(card.drm, msgspec.UnsetType)
    assert (card.drm.card_device, card.drm.render_device) == ("226:0", "226:128")
    assert [(one.pci_address, one.iommu_group) for one in cards.read_pci(tree).devices] == [
        ("0000:00:03.0", 0),
        ("0000:00:04.0", 7),
    ]
    (stick,) = cards.read_usb(tree).devices
    assert (stick.product, stick.speed, stick.device_address) == ("Stick", 480.0, 4)
    assert [(one.class_id, one.number) for one in stick.interfaces] == [(8, 0)]


def test_system(tree: Tree) -> None:
    found = system.read_system(tree)
    assert (found.vendor, found.type) == ("ACME", "container")
    assert found.chassis is not None
    assert found.chassis.type == "Rack Mount Chassis"


def test_an_empty_machine(tmp_path: Path) -> None:
    found = resources.read_resources(Tree(tmp_path))
    assert (found.cpu.total, found.storage.total, found.network.total, found.system.type) == (0, 0, 0, "unknown")


def test_this_machine() -> None:
    found = msgspec.to_builtins(resources.read_resources())
    assert found["cpu"]["total"] >= 1
    assert found["memory"]["total"] > found["memory"]["used"] > 0


def test_natural_order() -> None:
    assert sorted(["cpu10", "cpu2", "cpu"], key=natural_key) == ["cpu", "cpu2", "cpu10"]
