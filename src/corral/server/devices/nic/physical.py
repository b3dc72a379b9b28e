"""NICs that are an interface of the host: lent to the instance, and given back as it was."""

import contextlib
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from corral.errors import InvalidRequest
from corral.server.devices.model import Attachment, DeviceContext, Nic, encode_path
from corral.server.devices.nic import parents, veth, vlans
from corral.server.host.filesystems import mount
from corral.server.host.network.netlink import Netlink
from corral.server.host.threads import in_thread
from corral.server.networks.model import NetworkType

_HWADDR, _MTU = "last_state.hwaddr", "last_state.mtu"


class PhysicalNic:
    """An interface of the host. Its network namespace is held while it is lent, so that it never dies with it."""

    live_keys = frozenset({"boot.priority"})

    def validate(self, config: Mapping[str, str], others: Mapping[str, Mapping[str, str]]) -> None:
        parents.validate(config, others)

    async def prepare(self, device: DeviceContext) -> Mapping[str, str | None]:
        await parents.resolve(device, NetworkType.PHYSICAL)
        made = veth.prepare_identity(device)
        # The interface has a MAC address: none is made up.
        made.pop("hwaddr", None)
        return made

    async def attach(self, device: DeviceContext) -> Attachment:
        config = await parents.resolve(device, NetworkType.PHYSICAL)
        link, created = await parents.ensure(device, config)
        volatile: dict[str, str | None] = {"host_name": link, parents.CREATED: str(created).lower()}
        try:
            volatile.update(await in_thread(_lend, link, config, created))
        except OSError as error:
            await parents.release(device, config, created=created)
            raise InvalidRequest(
                f'Failed to start device "{device.device}": Failed to set up "{link}": {error.strerror}'
            ) from error
        settings = (("type", "phys"), ("flags", "up"), ("link", link), ("name", veth.name_of(device)))
        return Attachment(
            nic=Nic(settings, link),
            volatile=volatile,
            start=_hold_namespace,
            release=partial(self._give_back, device, volatile),
        )

    async def _give_back(self, device: DeviceContext, volatile: Mapping[str, str | None]) -> None:
        link = volatile.get("host_name")
        if not link:
            return
        await in_thread(_take_back, _namespace_file(device), veth.name_of(device), link, volatile)
        await in_thread(_release_namespace, device)
        if volatile.get(parents.CREATED) == "true":
            with contextlib.suppress(OSError):
                parent, _, vlan = link.rpartition(".")
                await in_thread(vlans.remove_interface, parent, vlan)

    async def update(self, device: DeviceContext, old: Mapping[str, str]) -> None:
        return

    async def detach(self, device: DeviceContext) -> None:
        await self._give_back(device, device.volatile)

    async def remove(self, device: DeviceContext) -> None:
        return

    async def plug(self, device: DeviceContext) -> Mapping[str, str | None]:
        attachment = await self.attach(device)
        assert attachment.nic is not None
        try:
            await _hold_namespace(device)
            await in_thread(_plug, attachment.nic.host_name, veth.name_of(device), device.pid)
        except BaseException:
            await self._give_back(device, attachment.volatile)
            raise
        return attachment.volatile

    async def unplug(self, device: DeviceContext) -> None:
        await _hold_namespace(device)
        volatile = device.volatile
        if parents.CREATED not in volatile:
            # A daemon died before it remembered what it plugs in.
            config = await parents.resolve(device, NetworkType.PHYSICAL)
            volatile = {"host_name": vlans.interface_of(config["parent"], config.get("vlan", ""))}
        await self._give_back(device, volatile)


def _namespace_file(device: DeviceContext) -> Path:
    return device.devices_dir / f"netns.{encode_path(device.device)}"


async def _hold_namespace(device: DeviceContext) -> None:
    await in_thread(_hold, _namespace_file(device), device.pid)


def _hold(file: Path, pid: int) -> None:
    file.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    mount.ensure_unmounted(file)
    file.touch(0o600)
    mount.bind(f"/proc/{pid}/ns/net", file)


def _release_namespace(device: DeviceContext) -> None:
    file = _namespace_file(device)
    mount.ensure_unmounted(file)
    file.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        file.parent.rmdir()


def _lend(link: str, config: Mapping[str, str], created: bool) -> dict[str, str | None]:
    """Give the interface the config's addresses; returns what it had before."""
    with Netlink() as host:
        before = host.get_link(link)
        if config.get("hwaddr"):
            host.set_mac(link, config["hwaddr"])
        if config.get("mtu"):
            host.set_mtu(link, int(config["mtu"]))
    return {} if created else {_HWADDR: before.mac, _MTU: str(before.mtu)}


def _plug(link: str, name: str, pid: int) -> None:
    with Netlink() as host:
        host.set_up(link, False)
        host.move_link(link, pid=pid, new_name=name)
    namespace = os.pidfd_open(pid)
    try:
        with Netlink(namespace) as inside:
            inside.set_up(name)
    finally:
        os.close(namespace)


def _take_back(namespace_file: Path, name: str, link: str, volatile: Mapping[str, str | None]) -> None:
    """Move the interface back under its name, unless liblxc did so, and give it what it had."""
    with Netlink() as host:
        if host.find_link(link) is None:
            _move_back(host, namespace_file, name, link)
        if host.find_link(link) is None:
            return
        mac, mtu = volatile.get(_HWADDR), volatile.get(_MTU)
        if mac:
            with contextlib.suppress(OSError):
                host.set_mac(link, mac)
        if mtu:
            host.set_mtu(link, int(mtu))


def _move_back(host: Netlink, namespace_file: Path, name: str, link: str) -> None:
    here = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        namespace = os.open(namespace_file, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        os.close(here)
        return
    try:
        with Netlink(namespace) as inside:
            if inside.find_link(name) is not None:
                inside.set_up(name, False)
                inside.move_link(name, namespace=here, new_name=link)
    except OSError:
        # Nothing was held there: the namespace is gone and the kernel gave the interface back.
        return
    finally:
        os.close(namespace)
        os.close(here)
