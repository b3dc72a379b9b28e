"""NICs of a managed network (`network=`): the type of the network says which kind of NIC that is."""

from collections.abc import Mapping

from corral.errors import NotFound, NotSupported
from corral.server.db.database import Tx
from corral.server.devices.model import Attachment, DeviceContext, HotPluggable
from corral.server.devices.nic.bridged import BridgedNic, read_network
from corral.server.devices.nic.macvlan import MacvlanNic
from corral.server.devices.nic.physical import PhysicalNic
from corral.server.devices.nic.sriov import SriovNic
from corral.server.networks.model import Network, NetworkType

_BRIDGED = BridgedNic()
_KINDS: Mapping[NetworkType, BridgedNic | MacvlanNic | PhysicalNic | SriovNic] = {
    NetworkType.BRIDGE: _BRIDGED,
    NetworkType.MACVLAN: MacvlanNic(),
    NetworkType.PHYSICAL: PhysicalNic(),
    NetworkType.SRIOV: SriovNic(),
}


async def _kind_of(device: DeviceContext) -> BridgedNic | MacvlanNic | PhysicalNic | SriovNic:
    kind, _ = await _look_up(device)
    return kind


async def _look_up(device: DeviceContext) -> tuple[BridgedNic | MacvlanNic | PhysicalNic | SriovNic, Network]:
    network = await device.context.db.read(read_network, device.config["network"])
    if network.type not in _KINDS:
        raise NotSupported(
            f'Failed to start device "{device.device}": NICs on networks of type {network.type.value} are not '
            "supported by this server"
        )
    return _KINDS[network.type], network


class NetworkedNic:
    """Hands everything to the kind of NIC that the network asks for; what only bridges have is left to bridges."""

    live_keys = _BRIDGED.live_keys

    def validate(self, config: Mapping[str, str], others: Mapping[str, Mapping[str, str]]) -> None:
        _BRIDGED.validate(config, others)

    def check_place(self, tx: Tx, config: Mapping[str, str]) -> None:
        read_network(tx, config["network"])
        _BRIDGED.check_place(tx, config)

    async def prepare(self, device: DeviceContext) -> Mapping[str, str | None]:
        kind, network = await _look_up(device)
        return _BRIDGED.prepare_on(device, network) if kind is _BRIDGED else await kind.prepare(device)

    async def attach(self, device: DeviceContext) -> Attachment:
        kind, network = await _look_up(device)
        return await (_BRIDGED.attach_on(device, network) if kind is _BRIDGED else kind.attach(device))

    async def update(self, device: DeviceContext, old: Mapping[str, str]) -> None:
        await (await _kind_of(device)).update(device, old)

    async def detach(self, device: DeviceContext) -> None:
        await (await _kind_of(device)).detach(device)

    async def remove(self, device: DeviceContext) -> None:
        try:
            kind = await _kind_of(device)
        except NotFound:
            return
        await kind.remove(device)

    async def plug(self, device: DeviceContext) -> Mapping[str, str | None]:
        kind = await _kind_of(device)
        assert isinstance(kind, HotPluggable)
        return await kind.plug(device)

    async def unplug(self, device: DeviceContext) -> None:
        kind = await _kind_of(device)
        assert isinstance(kind, HotPluggable)
        await kind.unplug(device)

    async def reserve(self, device: DeviceContext) -> None:
        await _BRIDGED.reserve(device)

    async def restore(self, device: DeviceContext) -> None:
        kind = await _kind_of(device)
        if isinstance(kind, BridgedNic):
            await kind.restore(device)
