"""Networks that are no more than an existing interface of the host: macvlan, sriov and physical."""

import errno
import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from corral import units
from corral.errors import InternalError, InvalidRequest, NotFound
from corral.server.host.network.netlink import Netlink
from corral.server.host.threads import in_thread
from corral.server.keys import Config, KeyTable
from corral.server.networks import keys
from corral.server.networks.addresses import Subnet
from corral.server.networks.model import Network
from corral.server.networks.site import Site

CREATED = "created"
"""The file that says that a network's VLAN interface was made here and goes with the network."""


@dataclass(frozen=True, slots=True)
class ParentInterface:
    """A network on a parent interface; NICs are made on it when instances start.

    `owned` networks have the interface to themselves: they make its VLAN interface and set its MTU.
    """

    keys: KeyTable
    owned: bool = False

    def check_name(self, name: str) -> None:
        """The name stands in URLs only."""
        if not name:
            raise InvalidRequest("No name provided")
        keys.check_segment(name)

    def fill(self, config: Mapping[str, str], taken: Collection[Subnet], rng: random.Random) -> dict[str, str]:
        """There are no defaults."""
        return {key: value for key, value in config.items() if value != ""}

    def resolve(self, config: Mapping[str, str], taken: Collection[Subnet], rng: random.Random) -> dict[str, str]:
        """There is nothing to choose."""
        return dict(config)

    def check(self, name: str, config: Mapping[str, str]) -> None:
        """A parent is required."""
        if not config.get("parent"):
            raise InvalidRequest(f'Invalid value for network "{name}" option "parent": Required value')

    async def check_free(self, name: str, config: Mapping[str, str]) -> None:
        """The parent must be there."""
        await in_thread(_check_parent, config["parent"])

    async def start(self, site: Site, network: Network, before: Mapping[str, str] | None = None) -> None:
        """Find the parent and, where the network owns it, make its VLAN interface and set the MTU."""
        record = site.directory(network.name) / CREATED
        if before is not None and self.owned and _interface_of(before) != _interface_of(network.config):
            await in_thread(_release, dict(before), record)
        await in_thread(_prepare, network.config, record if self.owned else None)

    async def stop(self, site: Site, network: Network) -> None:
        """Undo what `start` did to the parent."""
        if self.owned:
            await in_thread(_release, network.config, site.directory(network.name) / CREATED)


MACVLAN = ParentInterface(keys.MACVLAN_KEYS)
SRIOV = ParentInterface(keys.SRIOV_KEYS)
PHYSICAL = ParentInterface(keys.PHYSICAL_KEYS, owned=True)


def _interface_of(config: Mapping[str, str]) -> str:
    vlan = Config(config)[keys.VLAN]
    return f"{config['parent']}.{vlan}" if vlan else config["parent"]


def _check_parent(parent: str) -> None:
    with Netlink() as host:
        if host.find_link(parent) is None:
            raise NotFound(f'Parent interface "{parent}" not found')


def _prepare(config: Mapping[str, str], record: Path | None) -> None:
    _check_parent(config["parent"])
    if record is None:
        return
    interface, typed = _interface_of(config), Config(config)
    vlan, mtu = typed[keys.VLAN], typed[keys.MTU_KEY]
    with Netlink() as host:
        try:
            if vlan and host.find_link(interface) is None:
                host.set_up(config["parent"])
                host.create_vlan(interface, config["parent"], vlan, gvrp=units.is_true(config.get("gvrp")))
                record.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
                record.touch()
                host.set_up(interface)
            if mtu:
                host.set_mtu(interface, mtu)
        except OSError as error:
            raise InternalError(f'Failed to prepare interface "{interface}": {error.strerror or error}') from error


def _release(config: Mapping[str, str], record: Path) -> None:
    """Delete the VLAN interface that was made here, or give an interface its usual MTU again."""
    interface, typed = _interface_of(config), Config(config)
    with Netlink() as host:
        link = host.find_link(interface)
        if link is None:
            return
        try:
            if record.exists() and link.kind == "vlan":
                host.delete_link(interface)
                record.unlink(missing_ok=True)
            elif typed[keys.MTU_KEY]:
                host.set_mtu(interface, 1500)
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise InternalError(f'Failed to release interface "{interface}": {error.strerror or error}') from error
