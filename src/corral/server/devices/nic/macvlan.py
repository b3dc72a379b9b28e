"""NICs that share an interface of the host under a MAC address of their own, without a bridge."""

import os
from collections.abc import Mapping
from functools import partial

from corral.server.devices.model import Attachment, DeviceContext, Nic
from corral.server.devices.nic import parents, veth
from corral.server.host import sysfs
from corral.server.host.network.netlink import Netlink
from corral.server.host.threads import in_thread
from corral.server.networks.model import NetworkType

_DEFAULT_MTU = 1500


class MacvlanNic:
    """A macvlan interface; it is made with the container and dies with its network namespace."""

    live_keys = frozenset({"boot.priority"})

    def validate(self, config: Mapping[str, str], others: Mapping[str, Mapping[str, str]]) -> None:
        parents.validate(config, others)

    async def prepare(self, device: DeviceContext) -> Mapping[str, str | None]:
        await parents.resolve(device, NetworkType.MACVLAN)
        return veth.prepare_identity(device)

    async def attach(self, device: DeviceContext) -> Attachment:
        config = await parents.resolve(device, NetworkType.MACVLAN)
        link, created = await parents.ensure(device, config)
        inherited = sysfs.read_int(f"/sys/class/net/{link}/mtu", _DEFAULT_MTU)
        mtu = config.get("mtu") or (str(inherited) if inherited != _DEFAULT_MTU else "")
        settings = (
            ("type", "macvlan"),
            ("macvlan.mode", "bridge"),
            ("flags", "up"),
            ("link", link),
            ("name", veth.name_of(device)),
            ("hwaddr", veth.mac_of(device)),
            *((("mtu", mtu),) if mtu else ()),
        )
        return Attachment(
            nic=Nic(settings),
            volatile={parents.CREATED: str(created).lower()} if config.get("vlan") else {},
            release=partial(parents.release, device),
        )

    async def update(self, device: DeviceContext, old: Mapping[str, str]) -> None:
        return

    async def detach(self, device: DeviceContext) -> None:
        await parents.release(device)

    async def remove(self, device: DeviceContext) -> None:
        return

    async def plug(self, device: DeviceContext) -> Mapping[str, str | None]:
        attachment = await self.attach(device)
        assert attachment.nic is not None
        assert attachment.release is not None
        try:
            await in_thread(_plug, dict(attachment.nic.settings), _passing_name(device), device.pid)
        except BaseException:
            await attachment.release()
            raise
        return attachment.volatile

    async def unplug(self, device: DeviceContext) -> None:
        await in_thread(_unplug, veth.name_of(device), _passing_name(device), device.pid)
        await self.detach(device)


def _passing_name(device: DeviceContext) -> str:
    """The interface's name on its way into the container."""
    return (device.volatile.get("host_name") or veth.new_host_name()).replace("veth", "mac", 1)


def _plug(settings: Mapping[str, str], made: str, pid: int) -> None:
    with Netlink() as host:
        host.create_macvlan(made, settings["link"], mac=settings["hwaddr"])
        try:
            if "mtu" in settings:
                host.set_mtu(made, int(settings["mtu"]))
            host.move_link(made, pid=pid, new_name=settings["name"])
        except BaseException:
            host.ensure_link_deleted(made)
            raise
    namespace = os.pidfd_open(pid)
    try:
        with Netlink(namespace) as inside:
            inside.set_up(settings["name"])
    finally:
        os.close(namespace)


def _unplug(name: str, passing_name: str, pid: int) -> None:
    """Delete the interface in the container, or on its way there; does nothing where it is gone or was renamed."""
    with Netlink() as host:
        host.ensure_link_deleted(passing_name)
    try:
        namespace = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        with Netlink(namespace) as inside:
            inside.ensure_link_deleted(name)
    finally:
        os.close(namespace)
