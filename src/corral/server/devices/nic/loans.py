"""What NICs take of the host: interfaces that are lent, VLANs that are made. Noted before it is done, so that a daemon
that dies in the middle takes nothing away: the next one gives back what the notes tell."""

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from corral.server.devices import notes
from corral.server.devices.model import DeviceContext, encode_path
from corral.server.host import sysfs
from corral.server.host.network.netlink import Netlink
from corral.server.host.network.rtnetlink import Link

log = logging.getLogger(__name__)

_FORMER = "last_state."


@dataclass(frozen=True, slots=True)
class Loan:
    """An interface of the host that an instance has, and what it was before: `card` is its device in /sys, if any."""

    link: str
    index: int = 0
    mac: str = ""
    mtu: int = 0
    card: str = ""


def _loan_file(device: DeviceContext) -> Path:
    return device.devices_dir / f"lent.{encode_path(device.device)}"


def _vlan_file(device: DeviceContext) -> Path:
    return device.devices_dir / f"vlan.{encode_path(device.device)}"


def namespace_file(device: DeviceContext) -> Path:
    """Where the instance's network namespace is held while it has an interface of the host."""
    return device.devices_dir / f"netns.{encode_path(device.device)}"


def note(device: DeviceContext, link: str) -> Loan:
    """Note how an interface is before it is lent. Raises OSError ENODEV."""
    with Netlink() as host:
        found = host.get_link(link)
    loan = Loan(link, found.index, found.mac, found.mtu, _card_of(link))
    notes.write(_loan_file(device), json.dumps(asdict(loan)))
    return loan


def find(device: DeviceContext, volatile: Mapping[str, str | None]) -> Loan | None:
    """What is lent to a device: by its note, or by what its instance remembers of a run that began without one."""
    try:
        return Loan(**json.loads(_loan_file(device).read_text()))
    except FileNotFoundError:
        link = volatile.get("host_name")
    except (OSError, ValueError, TypeError) as error:
        log.warning("The note of the interface that is lent to %s cannot be read: %s", device.storage_name, error)
        link = volatile.get("host_name")
    if not link or f"{_FORMER}created" not in volatile:
        return None
    mtu = volatile.get(f"{_FORMER}mtu") or "0"
    return Loan(link, mac=volatile.get(f"{_FORMER}hwaddr") or "", mtu=int(mtu))


def forget(device: DeviceContext) -> None:
    """The interface is back."""
    notes.remove(_loan_file(device))


def note_vlan(device: DeviceContext, interface: str) -> None:
    """Note that the interface of a VLAN is about to be made."""
    notes.write(_vlan_file(device), interface)


def find_vlan(device: DeviceContext) -> str:
    """The interface of a VLAN that was made for a device, or ""."""
    return sysfs.read_text(_vlan_file(device))


def forget_vlan(device: DeviceContext) -> None:
    """The interface of the VLAN is gone."""
    notes.remove(_vlan_file(device))


def take_back(device: DeviceContext, name: str, loan: Loan) -> None:
    """Give the host its interface back as it was: from the namespace that is held, or from where it came by itself."""
    with Netlink() as host:
        if host.find_link(loan.link) is None:
            _move_back(host, namespace_file(device), name, loan)
        if host.find_link(loan.link) is None:
            _name_again(host, loan)
        found = host.find_link(loan.link)
        if found is None:
            log.warning("The interface %s that was lent to %s is gone", loan.link, device.storage_name)
            return
        if loan.mtu and found.mtu != loan.mtu:
            host.set_mtu(loan.link, loan.mtu)
        if loan.mac and found.mac != loan.mac:
            _set_mac(host, loan)


def _set_mac(host: Netlink, loan: Loan) -> None:
    try:
        host.set_mac(loan.link, loan.mac)
    except OSError:
        # Some cards take another address only while they are down.
        host.set_up(loan.link, False)
        host.set_mac(loan.link, loan.mac)


def _move_back(host: Netlink, namespace_file: Path, name: str, loan: Loan) -> None:
    here = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        namespace = os.open(namespace_file, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        os.close(here)
        return
    try:
        with Netlink(namespace) as inside:
            found = choose(inside.list_links(), name, loan)
            if found is not None:
                inside.set_up(found.name, False)
                inside.move_link(found.name, namespace=here, new_name=loan.link)
    except OSError:
        # Nothing was held there: the namespace is gone and the kernel gave the interface back.
        return
    finally:
        os.close(namespace)
        os.close(here)


def choose(links: list[Link], name: str, loan: Loan) -> Link | None:
    """The interface that was lent, among those of a namespace: its user may have renamed it. Pure."""
    named = next((one for one in links if one.name == name), None)
    same = [one for one in links if loan.index and one.index == loan.index and one.type != "loopback"]
    return named or (same[0] if same else None)


def _name_again(host: Netlink, loan: Loan) -> None:
    """A card whose namespace ended without the daemon came back by itself, under the name that it had there."""
    if not loan.card:
        return
    for one in host.list_links():
        if one.name != loan.link and _card_of(one.name) == loan.card:
            host.set_up(one.name, False)
            host.rename_link(one.name, loan.link)
            return


def _card_of(link: str) -> str:
    """What tells a port of a card from all others: its device in /sys and the port's number; "" for what has none."""
    place = Path("/sys/class/net", link)
    if not (place / "device").exists():
        return ""
    port = sysfs.read_text(place / "dev_port").strip()
    return f"{(place / 'device').resolve()} {port}"
