"""What a network is inside the server: plain values, no behaviour beyond names."""

import enum
from dataclasses import dataclass, field


class NetworkType(enum.StrEnum):
    """The types of managed networks; `code` is the number in the database."""

    BRIDGE = "bridge"
    MACVLAN = "macvlan"
    SRIOV = "sriov"
    OVN = "ovn"
    PHYSICAL = "physical"

    @property
    def code(self) -> int:
        return list(NetworkType).index(self)


class NetworkStatus(enum.StrEnum):
    """How far a network has come; `code` is the number in the database."""

    PENDING = "Pending"
    CREATED = "Created"
    ERRORED = "Errored"
    UNKNOWN = "Unknown"
    UNAVAILABLE = "Unavailable"

    @property
    def code(self) -> int:
        return list(NetworkStatus).index(self)


@dataclass(frozen=True, slots=True)
class Network:
    """A managed network as the database has it. `config` holds strings, never `auto`."""

    id: int
    project: str
    name: str
    type: NetworkType
    description: str = ""
    status: NetworkStatus = NetworkStatus.CREATED
    config: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NetworkChanged:
    """A network has a new configuration and works by it; `keys` are those that differ (reactions: instances)."""

    network: Network
    keys: frozenset[str]


@dataclass(frozen=True, slots=True)
class NetworkRepaired:
    """A network was put right after somebody else harmed it, for example flushed the firewall (reactions: NICs)."""

    network: Network
    harm: str
