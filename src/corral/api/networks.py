"""Networks on the wire: /1.0/networks."""

import msgspec


class NetworkPut(msgspec.Struct, kw_only=True):
    """What a client may change."""

    config: dict[str, str] | None = None
    description: str = ""


class NetworksPost(msgspec.Struct, kw_only=True):
    """A network to create. Without `type` it is a bridge."""

    name: str = ""
    type: str = ""
    config: dict[str, str] | None = None
    description: str = ""


class NetworkPost(msgspec.Struct, kw_only=True):
    """A new name."""

    name: str = ""


class Network(msgspec.Struct, kw_only=True):
    """A network, or an interface of the host (`managed` false)."""

    config: dict[str, str] = {}
    description: str = ""
    name: str
    type: str
    used_by: list[str] = []
    managed: bool = False
    status: str = ""
    locations: list[str] | None = None


class NetworkLease(msgspec.Struct, kw_only=True):
    """An address that somebody has on a network; `type` is gateway, static or dynamic."""

    hostname: str
    hwaddr: str = ""
    address: str
    type: str
    location: str = ""


class NetworkStateAddress(msgspec.Struct, kw_only=True):
    """An address of an interface; `netmask` is the length of its prefix."""

    family: str
    address: str
    netmask: str
    scope: str


class NetworkStateCounters(msgspec.Struct, kw_only=True):
    """What went through an interface since it is there."""

    bytes_received: int = 0
    bytes_sent: int = 0
    packets_received: int = 0
    packets_sent: int = 0


class NetworkStateBond(msgspec.Struct, kw_only=True):
    """What a bond is set to, with the interfaces below it; delays and frequency are milliseconds."""

    mode: str = ""
    transmit_policy: str = ""
    up_delay: int = 0
    down_delay: int = 0
    mii_frequency: int = 0
    mii_state: str = ""
    lower_devices: list[str] = []


class NetworkStateBridge(msgspec.Struct, kw_only=True):
    """What a bridge is set to, with its ports; the delay is in hundredths of a second."""

    id: str = ""
    stp: bool = False
    forward_delay: int = 0
    vlan_default: int = 0
    vlan_filtering: bool = False
    upper_devices: list[str] = []


class NetworkStateVLAN(msgspec.Struct, kw_only=True):
    """Where a VLAN interface leads."""

    lower_device: str
    vid: int


class NetworkState(msgspec.Struct, kw_only=True):
    """An interface of the host as it is now."""

    addresses: list[NetworkStateAddress]
    counters: NetworkStateCounters
    hwaddr: str
    mtu: int
    state: str
    type: str
    bond: NetworkStateBond | None = None
    bridge: NetworkStateBridge | None = None
    vlan: NetworkStateVLAN | None = None
    ovn: None = None


class NetworkAllocations(msgspec.Struct, kw_only=True):
    """An address that is in use, with its prefix length."""

    addresses: str
    used_by: str
    type: str
    nat: bool
    hwaddr: str
