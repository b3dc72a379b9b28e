"""Names of vendors and products from the lists of ids that distributions install (pci.ids, usb.ids)."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from corral.api.resources import Resources
from corral.server.hardware.tree import Tree

_FOLDERS = ("usr/share/misc", "usr/share/hwdata")
Ids = tuple[str, str]


def find_names(path: Path, wanted: Iterable[Ids]) -> dict[Ids, tuple[str, str]]:
    """The names of vendor and product for pairs of ids; "" for what the list does not know."""
    products: dict[str, dict[str, str]] = {vendor: {} for vendor, _ in wanted}
    vendors: dict[str, str] = {}
    current = ""
    try:
        with open(path, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith("C "):
                    break  # classes follow
                if line[:1] not in ("\t", "#", "\n"):
                    current, _, name = line.partition("  ")
                    if current in products:
                        vendors[current] = name.strip()
                elif current in products and line.startswith("\t") and not line.startswith("\t\t"):
                    product, _, name = line.strip().partition("  ")
                    products[current][product] = name.strip()
    except OSError:
        return {}
    return {one: (vendors.get(one[0], ""), products[one[0]].get(one[1], "")) for one in wanted}


def add_names(tree: Tree, found: Resources) -> None:
    """Fill in the names of vendors and products."""
    on_pci: list[Any] = [*found.gpu.cards, *found.network.cards, *found.pci.devices]
    _add(_list_of(tree, "pci.ids"), on_pci)
    _add(_list_of(tree, "usb.ids"), list(found.usb.devices))


def _list_of(tree: Tree, name: str) -> Path:
    paths = [tree.root / folder / name for folder in _FOLDERS]
    return next((path for path in paths if path.exists()), paths[0])


def _add(path: Path, things: list[Any]) -> None:
    wanted = {(thing.vendor_id, thing.product_id) for thing in things if thing.vendor_id and thing.product_id}
    names = find_names(path, wanted)
    for thing in things:
        vendor, product = names.get((thing.vendor_id, thing.product_id), ("", ""))
        thing.vendor = thing.vendor or vendor or thing.vendor
        thing.product = thing.product or product or thing.product
