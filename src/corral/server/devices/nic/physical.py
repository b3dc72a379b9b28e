"""NICs that are an interface of the host: lent to the instance, and given back as it was."""

import contextlib
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from corral.errors import InvalidRequest
from corral.server.devices.model import Attachment, DeviceContext, Nic
from corral.server.devices.nic import loans, parents, veth
from corral.server.devices.nic.loans import Loan
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
        # Of a start that a daemon began before it died.
        await self._give_back(device, {})
        link, created = await parents.ensure(device, config)
        volatile: dict[str, str | None] = {"host_name": link, parents.CREATED: str(created).lower()}
        try:
            loan = await in_thread(_lend, device, link, config)
        except OSError as error:
            await self._give_back(device, {})
            raise InvalidRequest(
                f'Failed to start device "{device.device}": Failed to set up "{link}": {error.strerror}'
            ) from error
        if not created:
            volatile |= {_HWADDR: loan.mac, _MTU: str(loan.mtu)}
        settings = (("type", "phys"), ("flags", "up"), ("link", link), ("name", veth.name_of(device)))
        return Attachment(
            nic=Nic(settings, link),
            volatile=volatile,
            start=_hold_namespace,
            release=partial(self._give_back, device, volatile),
        )

    async def _give_back(self, device: DeviceContext, volatile: Mapping[str, str | None]) -> None:
        """Give the host what was taken of it; nothing where nothing was. Repeatable."""
        loan = await in_thread(loans.find, device, volatile)
        if loan is not None:
            await in_thread(loans.take_back, device, veth.name_of(device), loan)
        await in_thread(_release_namespace, device)
        made = loan is not None and volatile.get(parents.CREATED) == "true"
        await parents.release(device, loan.link if loan is not None and made else "")
        await in_thread(loans.forget, device)

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
        await self._give_back(device, device.volatile)


async def _hold_namespace(device: DeviceContext) -> None:
    await in_thread(_hold, loans.namespace_file(device), device.pid)


def _hold(file: Path, pid: int) -> None:
    file.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    mount.ensure_unmounted(file)
    file.touch(0o600)
    mount.bind(f"/proc/{pid}/ns/net", file)


def _release_namespace(device: DeviceContext) -> None:
    file = loans.namespace_file(device)
    mount.ensure_unmounted(file)
    file.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        file.parent.rmdir()


def _lend(device: DeviceContext, link: str, config: Mapping[str, str]) -> Loan:
    """Give the interface the config's addresses; returns what it had before."""
    loan = loans.note(device, link)
    with Netlink() as host:
        if config.get("hwaddr"):
            host.set_mac(link, config["hwaddr"])
        if config.get("mtu"):
            host.set_mtu(link, int(config["mtu"]))
    return loan


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
