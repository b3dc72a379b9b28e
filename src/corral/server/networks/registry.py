"""The network types that this server has."""

from collections.abc import Mapping

from corral.errors import InvalidRequest, NotSupported
from corral.server.networks.drivers import parent
from corral.server.networks.drivers.bridge.driver import Bridge
from corral.server.networks.drivers.protocol import NetworkDriver
from corral.server.networks.model import NetworkType

DRIVERS: Mapping[NetworkType, NetworkDriver] = {
    NetworkType.BRIDGE: Bridge(),
    NetworkType.MACVLAN: parent.MACVLAN,
    NetworkType.SRIOV: parent.SRIOV,
    NetworkType.PHYSICAL: parent.PHYSICAL,
}


def parse_type(text: str) -> NetworkType:
    """A network type by its name in the API."""
    try:
        return NetworkType(text)
    except ValueError:
        raise InvalidRequest(f'Unknown network type "{text}": use one of {", ".join(DRIVERS)}') from None


def driver_of(kind: NetworkType) -> NetworkDriver:
    """The driver of a type, or NotSupported."""
    if kind not in DRIVERS:
        raise NotSupported(
            f'Networks of type "{kind}" are not supported by this server: use one of {", ".join(DRIVERS)}'
        )
    return DRIVERS[kind]
