"""NICs that share the MAC address of an interface of the host and have IP addresses of their own (ipvlan)."""

import contextlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from corral.errors import CommandFailed, InvalidRequest, NotSupported
from corral.server.devices.model import (
    Attachment,
    Check,
    DeviceContext,
    Nic,
    anything,
    check_interface_name,
    check_ipv4,
    check_ipv6,
    check_keys,
    check_mac,
    check_mtu,
)
from corral.server.devices.nic import parents, veth, vlans
from corral.server.host import sysfs
from corral.server.host.programs import command
from corral.server.host.threads import in_thread
from corral.server.keys import BOOL, UNSIGNED32

_MODES = ("l3s", "l2")
_FAMILIES = (("ipv4", 4, 32, 24), ("ipv6", 6, 128, 64))
"""Config prefix, version, and the prefix of an address in the modes l3s and l2."""


def _check_mode(text: str) -> None:
    if text not in _MODES:
        raise InvalidRequest(f"Must be one of: {', '.join(_MODES)}")


_ADDRESS: dict[int, Check] = {4: check_ipv4, 6: check_ipv6}


def _check_addresses(version: int, is_l2: bool, text: str) -> None:
    for one in (part.strip() for part in text.split(",")):
        address, slash, length = one.partition("/")
        _ADDRESS[version](address if is_l2 else one)
        if is_l2 and slash and not (length.isdecimal() and int(length) <= (32 if version == 4 else 128)):
            raise InvalidRequest(f'Not an IPv{version} address "{one}"')


def _check_gateway(text: str) -> None:
    if text not in ("none", "auto"):
        raise InvalidRequest(f"Invalid gateway: {text}")


def _checks(mode: str) -> dict[str, Check]:
    """In the mode l2 the subnets and gateways are those of the parent's network, in l3s the host routes."""
    is_l2 = mode == "l2"
    return {
        **CHECKS,
        **{f"{family}.address": partial(_check_addresses, version, is_l2) for family, version, *_ in _FAMILIES},
        **{f"{family}.gateway": _ADDRESS[version] if is_l2 else _check_gateway for family, version, *_ in _FAMILIES},
    }


CHECKS: dict[str, Check] = {
    "nictype": anything,
    "parent": anything,
    "name": check_interface_name,
    "hwaddr": check_mac,
    "mtu": check_mtu,
    "mode": _check_mode,
    "vlan": vlans.check_id,
    "gvrp": BOOL.parse,
    **{f"{family}.host_table": UNSIGNED32.parse for family, *_ in _FAMILIES},
}


def settings(config: Mapping[str, str], link: str, name: str) -> tuple[tuple[str, str], ...]:
    """The keys by which liblxc makes the interface. In the mode l3s it answers for the addresses on the parent."""
    mode = config.get("mode") or "l3s"
    keys = [
        ("type", "ipvlan"),
        ("ipvlan.mode", mode),
        ("ipvlan.isolation", "bridge"),
        ("flags", "up"),
        ("link", link),
        ("name", name),
    ]
    if config.get("mtu"):
        keys.append(("mtu", config["mtu"]))
    if mode == "l3s":
        keys.append(("l2proxy", "1"))
    for family, _, single, subnet in _FAMILIES:
        addresses = [one.strip() for one in config.get(f"{family}.address", "").split(",") if one.strip()]
        for one in addresses:
            length = single if mode == "l3s" else subnet
            keys.append((f"{family}.address", one if "/" in one else f"{one}/{length}"))
        gateway = config.get(f"{family}.gateway") or "auto"
        if addresses and mode == "l3s" and gateway == "auto":
            keys.append((f"{family}.gateway", "dev"))
        elif addresses and gateway not in ("auto", "none"):
            keys.append((f"{family}.gateway", gateway))
    return tuple(keys)


class IpvlanNic:
    """An ipvlan interface; it is made with the container and cannot be plugged into a running one."""

    live_keys = frozenset[str]()

    def validate(self, config: Mapping[str, str], others: Mapping[str, Mapping[str, str]]) -> None:
        check_keys(config, _checks(config.get("mode", "")), ("parent",))
        veth.check_unique_name(config, others)

    async def prepare(self, device: DeviceContext) -> Mapping[str, str | None]:
        made = veth.prepare_identity(device)
        made.pop("hwaddr", None)
        return made

    async def attach(self, device: DeviceContext) -> Attachment:
        config = {key: value for key, value in device.config.items() if value}
        link, created = await parents.ensure(device, config)
        try:
            await _check_kernel(device.device, link)
            await in_thread(_check_sysctls, device.device, link, config, created)
        except BaseException:
            await parents.release(device)
            raise
        return Attachment(
            nic=Nic(settings(config, link, veth.name_of(device))),
            volatile={parents.CREATED: str(created).lower()} if config.get("vlan") else {},
            release=partial(_release, device, config, link),
            after_start=partial(_route, "replace", config),
        )

    async def update(self, device: DeviceContext, old: Mapping[str, str]) -> None:
        return

    async def detach(self, device: DeviceContext) -> None:
        link = vlans.interface_of(device.config["parent"], device.config.get("vlan", ""))
        await _withdraw(link, device.config)
        await parents.release(device)

    async def remove(self, device: DeviceContext) -> None:
        return


async def _release(device: DeviceContext, config: Mapping[str, str], link: str) -> None:
    await _withdraw(link, config)
    await parents.release(device)


def announced(config: Mapping[str, str]) -> list[tuple[str, str, int]]:
    """What the host answers for in the mode l3s: flag of ip(8), address and prefix."""
    if config.get("mode") == "l2":
        return []
    return [
        (f"-{version}", one.strip().partition("/")[0], single)
        for family, version, single, _ in _FAMILIES
        for one in config.get(f"{family}.address", "").split(",")
        if one.strip()
    ]


def tables(config: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """The routes in tables of the user's: flag of ip(8), address with its length, table."""
    return [
        (flag, f"{address}/{length}", table)
        for flag, address, length in announced(config)
        if (table := config.get(f"ipv{flag[1]}.host_table", ""))
    ]


async def _route(verb: str, config: Mapping[str, str]) -> None:
    """Routes to the addresses in the tables of the user's, beside those that liblxc sets in the main one."""
    for flag, address, table in tables(config):
        await command.run(["ip", flag, "route", verb, address, "dev", "lo", "table", table])


async def _withdraw(link: str, config: Mapping[str, str]) -> None:
    """Take back what liblxc told the host of the addresses: it leaves that, and the next start would fail by it."""
    with contextlib.suppress(CommandFailed):
        await _route("delete", config)
    for flag, address, prefix in announced(config):
        with contextlib.suppress(CommandFailed):
            await command.run(["ip", flag, "route", "delete", f"{address}/{prefix}", "dev", "lo"])
        with contextlib.suppress(CommandFailed):
            await command.run(["ip", flag, "neigh", "delete", "proxy", address, "dev", link])


async def _check_kernel(name: str, link: str) -> None:
    """Raise NotSupported where the kernel makes no such interface on the parent."""
    probe = veth.new_host_name()
    try:
        await command.run(["ip", "link", "add", "link", link, "name", probe, "type", "ipvlan", "mode", "l3s"])
    except CommandFailed as error:
        raise NotSupported(
            f'Failed to start device "{name}": this kernel cannot make an ipvlan interface on "{link}": '
            f"{error.stderr.strip()}"
        ) from error
    await command.run(["ip", "link", "delete", probe])


def _check_sysctls(name: str, link: str, config: Mapping[str, str], created: bool) -> None:
    """The parent must forward and answer for others; one that was made here is made to. Raises InvalidRequest."""
    if config.get("mode") == "l2":
        return
    wanted = [("ipv4", "forwarding")] if config.get("ipv4.address") else []
    wanted += [("ipv6", "forwarding"), ("ipv6", "proxy_ndp")] if config.get("ipv6.address") else []
    for family, key in wanted:
        if created:
            Path(f"/proc/sys/net/{family}/conf/{link}/{key}").write_text("1")
        elif sysfs.read_text(f"/proc/sys/net/{family}/conf/{link}/{key}").strip() != "1":
            raise InvalidRequest(
                f'Failed to start device "{name}": IPVLAN in L3S mode requires sysctl net.{family}.conf.{link}.{key}=1'
            )
