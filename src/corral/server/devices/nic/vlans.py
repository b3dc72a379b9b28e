"""VLANs of NICs: the memberships of a bridge port, and interfaces of a parent that are made when they are missing."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from corral.errors import InvalidRequest, NotSupported
from corral.server.host.network.netlink import Netlink
from corral.server.host.programs import command

_HIGHEST = 4094


def check_id(text: str) -> None:
    """The number of a VLAN."""
    if not text.isdecimal() or not 0 <= int(text) <= _HIGHEST:
        raise InvalidRequest(f"Out of VLAN ID range (0-{_HIGHEST})" if text.isdecimal() else f"Invalid VLAN ID: {text}")


def check_untagged(text: str) -> None:
    """The VLAN whose frames lose their tag on the way to the instance, or `none`."""
    if text != "none":
        check_id(text)
        if text == "0":
            raise InvalidRequest("VLAN ID 0 is not allowed for native Linux bridges")


def expand(text: str) -> Iterator[int]:
    """The numbers of a list such as `1,10-12`."""
    for part in (one.strip() for one in text.split(",") if one.strip()):
        first, dash, last = part.partition("-")
        for number in (first, last) if dash else (first,):
            check_id(number)
        if dash and int(last) < int(first):
            raise InvalidRequest(f"Invalid VLAN range boundary {part!r}: the start is greater than the end")
        yield from range(int(first), int(last or first) + 1)


def check_tagged(text: str) -> None:
    """The VLANs whose frames reach the instance with their tags."""
    if 0 in expand(text):
        raise InvalidRequest("VLAN tagged ID 0 is not allowed for native Linux bridges")


def check_together(config: Mapping[str, str]) -> None:
    """Raise InvalidRequest where one VLAN is both tagged and untagged."""
    untagged = config.get("vlan", "")
    if untagged.isdecimal() and int(untagged) in expand(config.get("vlan.tagged", "")):
        raise InvalidRequest(f'Tagged VLAN ID "{untagged}" cannot be the same as untagged VLAN ID')


def plan_port(config: Mapping[str, str], default: int) -> list[str]:
    """The lines for `bridge -batch` after `vlan add|del dev PORT`: memberships besides the bridge's default VLAN."""
    lines = []
    untagged = config.get("vlan", "")
    if untagged and default and untagged != str(default):
        lines.append(f"del vid {default}")
    if untagged and untagged != "none":
        lines.append(f"add vid {untagged} pvid untagged")
    lines += [f"add vid {number}" for number in expand(config.get("vlan.tagged", ""))]
    return lines


async def apply(port: str, bridge: str, config: Mapping[str, str]) -> None:
    """Make a bridge port a member of the VLANs of a config."""
    if not config.get("vlan") and not config.get("vlan.tagged"):
        return
    place = Path(f"/sys/class/net/{bridge}/bridge")
    if not (place / "vlan_filtering").exists():
        raise NotSupported(f'The parent "{bridge}" is no bridge with VLAN filtering, which "vlan" needs')
    if (place / "vlan_filtering").read_text().strip() != "1":
        (place / "vlan_filtering").write_text("1")
    default = int((place / "default_pvid").read_text())
    lines = []
    for line in plan_port(config, default):
        verb, _, rest = line.partition(" ")
        lines.append(f"vlan {verb} dev {port} {rest}\n")
    await command.run(["bridge", "-batch", "-"], stdin="".join(lines))


def interface_of(parent: str, vlan: str) -> str:
    """The interface of a VLAN on a parent; the parent itself for none."""
    return f"{parent}.{vlan}" if vlan else parent


def ensure_interface(parent: str, vlan: str, *, gvrp: bool = False) -> bool:
    """Make the interface of a VLAN where it is missing; tells whether it was made now."""
    name = interface_of(parent, vlan)
    with Netlink() as host:
        if not vlan or host.find_link(name) is not None:
            return False
        host.set_up(parent)
        try:
            host.create_vlan(name, parent, int(vlan), gvrp=gvrp)
        except OSError as error:
            raise NotSupported(f'Failed to create VLAN interface "{name}" on "{parent}": {error.strerror}') from error
        host.set_up(name)
    return True


def remove_interface(name: str) -> None:
    """Delete the interface of a VLAN that was made for a NIC."""
    with Netlink() as host:
        host.ensure_link_deleted(name)
