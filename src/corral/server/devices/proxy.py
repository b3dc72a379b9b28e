"""Proxy devices: connections carried over the container's border by a process of their own, or by the firewall."""

import contextlib
import ipaddress
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from corral import units
from corral.errors import CommandFailed, InvalidRequest
from corral.server.db.database import Tx
from corral.server.devices import proxy_addresses
from corral.server.devices.model import (
    Attachment,
    Check,
    DeviceContext,
    check_id,
    check_keys,
    check_mode,
    encode_path,
)
from corral.server.devices.nic.filters import label_of
from corral.server.devices.proxy_addresses import ProxyAddress
from corral.server.events.problems import Problem, ProblemSolved
from corral.server.host import sysfs
from corral.server.host.network import nftables
from corral.server.host.programs import helpers
from corral.server.host.threads import in_thread
from corral.server.keys import BOOL

NETFILTER = "Proxy bridge netfilter not enabled"

_BINDS = ("host", "instance", "guest", "container")


def _check_bind(text: str) -> None:
    if text not in _BINDS:
        raise InvalidRequest('Invalid binding side given. Must be "host" or "instance"')


_CHECKS: dict[str, Check] = {
    "listen": proxy_addresses.parse,
    "connect": proxy_addresses.parse,
    "bind": _check_bind,
    "mode": check_mode,
    "nat": BOOL.parse,
    **dict.fromkeys(("uid", "gid", "security.uid", "security.gid"), check_id),
    "proxy_protocol": BOOL.parse,
}


class Proxy:
    """A proxy. It is set up when the container runs, and ends with it."""

    live_keys = frozenset[str]()

    def validate(self, config: Mapping[str, str], others: Mapping[str, Mapping[str, str]]) -> None:
        check_keys(config, _CHECKS, ("listen", "connect"))
        proxy_addresses.check(config)

    async def prepare(self, device: DeviceContext) -> Mapping[str, str | None]:
        return {}

    async def attach(self, device: DeviceContext) -> Attachment:
        return Attachment(start=_set_up, release=partial(self.detach, device))

    async def update(self, device: DeviceContext, old: Mapping[str, str]) -> None:
        return

    async def detach(self, device: DeviceContext) -> None:
        if units.is_true(device.config.get("nat")):
            await _remove_nat(device)
        else:
            await helpers.stop(_pid_file(device))
            await in_thread(_clean_up, device)

    async def remove(self, device: DeviceContext) -> None:
        return

    async def plug(self, device: DeviceContext) -> Mapping[str, str | None]:
        await _set_up(device)
        return {}

    async def unplug(self, device: DeviceContext) -> None:
        await self.detach(device)

    async def restore(self, device: DeviceContext) -> None:
        """Set the translation again that a repaired firewall lost."""
        if units.is_true(device.config.get("nat")):
            await _set_up_nat(device)


async def _set_up(device: DeviceContext) -> None:
    if units.is_true(device.config.get("nat")):
        await _set_up_nat(device)
    else:
        await _start(device)


def _pid_file(device: DeviceContext) -> Path:
    return device.devices_dir / f"proxy.{encode_path(device.device)}"


def _places(address: ProxyAddress, ports: list[int | None], default: str) -> list[dict[str, str | int]]:
    host = address.host or default
    return [{"kind": address.kind, "host": host, "port": port or 0} for port in ports]


def _namespaces(device: DeviceContext, address: ProxyAddress) -> dict[str, int]:
    """Descriptors of what must be entered to reach an address on the container's side; the caller closes them."""
    fds: dict[str, int] = {}
    names = [*(() if device.privileged else ("user",)), "net", *(("mnt",) if address.is_file else ())]
    try:
        for name in names:
            fds[name] = os.open(f"/proc/{device.pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        for fd in fds.values():
            os.close(fd)
        raise
    return fds


async def _start(device: DeviceContext) -> None:
    config = device.config
    listen, connect = proxy_addresses.parse(config["listen"]), proxy_addresses.parse(config["connect"])
    ports = proxy_addresses.pairs(listen, connect)
    binds_host = config.get("bind") in (None, "", "host")
    await helpers.stop(_pid_file(device))
    await in_thread(device.log_dir.mkdir, parents=True, exist_ok=True)
    fds = await in_thread(_namespaces, device, connect if binds_host else listen)
    setup = {
        "listen": _places(listen, [source for source, _ in ports], "0.0.0.0"),
        "connect": _places(connect, [target for _, target in ports], "127.0.0.1"),
        "enter_listen": {} if binds_host else fds,
        "enter_connect": fds if binds_host else {},
        "owner": {
            "uid": int(config.get("uid") or 0),
            "gid": int(config.get("gid") or 0),
            "mode": int(config.get("mode") or "0644", 8),
        },
        "security_uid": int(config.get("security.uid") or 0),
        "security_gid": int(config.get("security.gid") or 0),
        "proxy_protocol": units.is_true(config.get("proxy_protocol")),
        "log": str(device.log_dir / f"proxy.{device.device.replace('/', '-')}.log"),
    }
    try:
        await helpers.start("proxy", setup, list(fds.values()), _pid_file(device))
    except CommandFailed as error:
        reason = error.stderr.strip().rpartition("\n")[2] or str(error)
        raise InvalidRequest(
            f'Failed to start device "{device.device}": Error occurred when starting proxy device: {reason}'
        ) from error
    finally:
        for fd in fds.values():
            os.close(fd)


def _clean_up(device: DeviceContext) -> None:
    with contextlib.suppress(InvalidRequest, OSError):
        listen = proxy_addresses.parse(device.config["listen"])
        if listen.is_file and device.config.get("bind") in (None, "", "host"):
            os.unlink(listen.host)
    with contextlib.suppress(OSError):
        device.devices_dir.rmdir()


def find_target(device: DeviceContext, connect: ProxyAddress) -> tuple[str, str]:
    """The instance's static address that NAT leads to, and the device that has it. Raises InvalidRequest."""
    family = "ipv6" if ":" in connect.host else "ipv4"
    any_address = not connect.host or ipaddress.ip_address(connect.host).is_unspecified
    for name, config in sorted(device.devices.items()):
        is_bridged = config.get("type") == "nic" and (config.get("network") or config.get("nictype") == "bridged")
        address = config.get(f"{family}.address", "")
        if is_bridged and address not in ("", "none") and (any_address or address == connect.host):
            return address, name
    number = family.removeprefix("ip")
    if any_address:
        raise InvalidRequest(f"Instance has no static IP{number} address assigned to be used as the connect IP")
    raise InvalidRequest(f'Connect IP "{connect.host}" must be one of the instance\'s static IP{number} addresses')


async def _set_up_nat(device: DeviceContext) -> None:
    listen, connect = proxy_addresses.parse(device.config["listen"]), proxy_addresses.parse(device.config["connect"])
    try:
        target, nic = find_target(device, connect)
    except InvalidRequest as error:
        raise InvalidRequest(f'Failed to start device "{device.device}": {error}') from error
    family = "ip6tables" if ":" in target else "iptables"
    filtered = sysfs.read_sysctl(f"net/bridge/bridge-nf-call-{family}") == "1"
    await report_netfilter(device, 6 if ":" in target else 4, enabled=filtered)
    if filtered and device.host_name_of is not None:
        # Traffic between ports of the bridge passes the firewall: an instance may reach itself through the proxy.
        port = Path(f"/sys/class/net/{device.host_name_of(nic)}/brport/hairpin_mode")
        with contextlib.suppress(OSError):
            await in_thread(port.write_text, "1")
    label = label_of(device.project, device.instance, device.device)
    table = device.context.member.product.name
    await nftables.apply(proxy_addresses.render_nat(label, table, listen, connect, target))


async def report_netfilter(device: DeviceContext, version: int, *, enabled: bool) -> None:
    """Warn, for as long as it is so, where the traffic between ports of a bridge does not pass the firewall."""
    context = device.context
    found = await context.db.read(_find_instance, device.project, device.instance)
    if found is None:
        return
    if enabled:
        await context.events.react(ProblemSolved(NETFILTER, device.project, ("instance", found)))
        return
    message = (
        f"IPv{version} bridge netfilter not enabled. Instances using the bridge will not be able to connect to the"
        f" proxy listen IP of device {device.device}: load the kernel module br_netfilter"
    )
    await context.events.react(Problem(NETFILTER, message, device.project, ("instance", found)))


def _find_instance(tx: Tx, project: str, name: str) -> int | None:
    row = tx.row(
        "SELECT i.id FROM instances i JOIN projects p ON p.id = i.project_id WHERE p.name = ? AND i.name = ?",
        project,
        name,
    )
    return None if row is None else int(row["id"])


async def _remove_nat(device: DeviceContext) -> None:
    label = label_of(device.project, device.instance, device.device)
    await nftables.apply(proxy_addresses.render_nat_removal(label, device.context.member.product.name))
