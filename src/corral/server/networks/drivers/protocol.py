"""What a network driver does: six calls with plain values. It knows no database, no HTTP and no instance."""

import random
from collections.abc import Collection, Mapping
from typing import Protocol, runtime_checkable

from corral.server.keys import KeyTable
from corral.server.networks.addresses import Subnet
from corral.server.networks.model import Network
from corral.server.networks.site import Site


class NetworkDriver(Protocol):
    """One type of network.

    `start` makes the network work and may be called again at any time; `before` is the configuration that was in
    force, where there was another.
    """

    @property
    def keys(self) -> KeyTable: ...

    def check_name(self, name: str) -> None:
        """Raise InvalidRequest for a name that such a network cannot have."""

    def fill(self, config: Mapping[str, str], taken: Collection[Subnet], rng: random.Random) -> dict[str, str]:
        """The configuration of a new network with defaults; `taken` are the subnets in use."""

    def resolve(self, config: Mapping[str, str], taken: Collection[Subnet], rng: random.Random) -> dict[str, str]:
        """The configuration of an existing network with what it asks to be chosen."""

    def check(self, name: str, config: Mapping[str, str]) -> None:
        """Raise InvalidRequest or NotSupported where a configuration contradicts itself or cannot be done."""

    async def check_free(self, name: str, config: Mapping[str, str]) -> None:
        """Raise AlreadyExists or NotFound where the host cannot take this new network."""

    async def start(self, site: Site, network: Network, before: Mapping[str, str] | None = None) -> None:
        """Make the network what its configuration says."""

    async def stop(self, site: Site, network: Network) -> None:
        """Take the network away from the host."""


@runtime_checkable
class Guarded(Protocol):
    """A driver whose networks can come to harm while they run; `start` repairs them."""

    async def find_harm(self, site: Site, network: Network) -> str | None:
        """What is amiss, or None."""

    def open_lifeline(self, site: Site, network: Network) -> int | None:
        """A pidfd of the process that the network needs, to be closed by the caller; None where it needs none."""
