"""All hardware of the machine for GET /1.0/resources."""

from corral.api.resources import Resources
from corral.server.hardware import cards, cpu, disks, names, system
from corral.server.hardware.tree import Tree


def read_resources(tree: Tree | None = None) -> Resources:
    """Read /proc and /sys; takes some milliseconds for each hundred devices."""
    tree = tree or Tree()
    found = Resources(
        cpu=cpu.read_cpu(tree),
        memory=cpu.read_memory(tree),
        gpu=cards.read_gpu(tree),
        network=cards.read_network(tree),
        storage=disks.read_storage(tree),
        usb=cards.read_usb(tree),
        pci=cards.read_pci(tree),
        system=system.read_system(tree),
    )
    names.add_names(tree, found)
    return found
