"""NICs whose addresses are routed to: the host answers for them on the parent, and is the next hop of the instance."""

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from corral import units
from corral.errors import InvalidRequest
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
    check_networks,
)
from corral.server.devices.nic import limits, parents, veth, vlans
from corral.server.devices.nic.filters import label_of
from corral.server.host import sysfs
from corral.server.host.network import neighbours, nftables
from corral.server.host.network.netlink import Netlink
from corral.server.host.network.rtnetlink import SCOPE_LINK, Route
from corral.server.host.programs import command, pidfd
from corral.server.host.threads import in_thread
from corral.server.keys import BOOL, UNSIGNED32

_FAMILIES = (("ipv4", 4, 32, "169.254.0.1"), ("ipv6", 6, 128, "fe80::1"))
"""Config prefix, version, length of an address, and what the instance sees as its gateway."""
_DEFAULT_MTU = 1500


def _check_addresses(version: int, text: str) -> None:
    seen: set[str] = set()
    for one in _split(text):
        (check_ipv4 if version == 4 else check_ipv6)(one)
        if one in seen:
            raise InvalidRequest(f'Duplicate address "{one}"')
        seen.add(one)


def check_gateway(text: str) -> None:
    """Whether the instance gets a default route."""
    if text not in ("none", "auto"):
        raise InvalidRequest(f"Invalid gateway: {text}")


CHECKS: dict[str, Check] = {
    "nictype": anything,
    "parent": anything,
    "name": check_interface_name,
    "host_name": check_interface_name,
    "hwaddr": check_mac,
    "mtu": check_mtu,
    "vlan": vlans.check_id,
    "gvrp": BOOL.parse,
    **limits.CHECKS,
    **{f"{family}.gateway": check_gateway for family, *_ in _FAMILIES},
    **{f"{family}.routes": check_networks(version) for family, version, *_ in _FAMILIES},
    **{f"{family}.address": partial(_check_addresses, version) for family, version, *_ in _FAMILIES},
    "ipv4.host_address": check_ipv4,
    "ipv6.host_address": check_ipv6,
    **{f"{family}.host_table": UNSIGNED32.parse for family, *_ in _FAMILIES},
    **{f"{family}.neighbor_probe": BOOL.parse for family, *_ in _FAMILIES},
}


def _split(text: str) -> list[str]:
    return [one.strip() for one in text.split(",") if one.strip()]


def addresses_of(config: Mapping[str, str], family: str) -> list[str]:
    """The instance's own addresses of a family."""
    return _split(config.get(f"{family}.address", ""))


def _gateway(config: Mapping[str, str], family: str, default: str) -> str:
    return config.get(f"{family}.host_address") or default


def settings(config: Mapping[str, str], base: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """The keys for liblxc: a pair with the addresses and next hops that a router would announce."""
    keys = list(base)
    for family, _, length, gateway in _FAMILIES:
        addresses = addresses_of(config, family)
        # A broadcast address of zeros: liblxc would make one up, and it would be a neighbour's.
        keys += [(f"{family}.address", f"{one}/{length}" + (" 0.0.0.0" if length == 32 else "")) for one in addresses]
        if addresses and config.get(f"{family}.gateway", "auto") == "auto":
            keys.append((f"{family}.gateway", _gateway(config, family, gateway)))
    return tuple(keys)


class RoutedNic:
    """A veth pair with routes to it on the host, and proxied neighbours on the parent."""

    live_keys = frozenset({"boot.priority"}) | limits.KEYS

    def validate(self, config: Mapping[str, str], others: Mapping[str, Mapping[str, str]]) -> None:
        check_keys(config, CHECKS)
        veth.check_unique_name(config, others)
        for family, *_ in _FAMILIES:
            if config.get(f"{family}.routes") and not config.get(f"{family}.address"):
                raise InvalidRequest(f"{family}.routes requires {family}.address to be set")
            automatic = [
                one
                for one in others.values()
                if one.get("type") == "nic"
                and one.get("nictype") in ("routed", "ipvlan")
                and one.get(f"{family}.address")
                and one.get(f"{family}.gateway", "auto") in ("", "auto")
            ]
            if len(automatic) > 1:
                raise InvalidRequest(f"Existing NIC already uses {family}.gateway in auto mode: set it to none on one")
        if config.get("vlan") and not config.get("parent"):
            raise InvalidRequest("The vlan setting can only be used when combined with a parent interface")

    async def prepare(self, device: DeviceContext) -> Mapping[str, str | None]:
        return veth.prepare_identity(device)

    async def attach(self, device: DeviceContext) -> Attachment:
        config = {key: value for key, value in device.config.items() if value}
        link, created = await parents.ensure(device, config) if config.get("parent") else ("", False)
        host_name = veth.choose_host_name(device)
        volatile: dict[str, str | None] = {"host_name": host_name}
        if config.get("vlan"):
            volatile[parents.CREATED] = str(created).lower()
        try:
            await in_thread(_check_parent, device.device, link, config, created)
            await _probe(device.device, link, config)
        except BaseException:
            await parents.release(device)
            raise
        mtu = config.get("mtu") or str(sysfs.read_int(f"/sys/class/net/{link}/mtu", _DEFAULT_MTU) if link else "")
        base = veth.settings_of(device, host_name, mtu=mtu)
        return Attachment(
            nic=Nic(settings(config, base), host_name),
            volatile=volatile,
            release=partial(self._undo, device, config, link),
            after_start=partial(self._set_up, device, config, host_name, link),
        )

    async def _set_up(self, device: DeviceContext, config: Mapping[str, str], host_name: str, link: str) -> None:
        await in_thread(_configure, device.device, config, host_name)
        await nftables.apply(render_filter(_label(device), device.context.member.product.name, host_name))
        if link:
            await _proxy_neighbours("replace", config, link)
        await limits.set_up(device, host_name)

    async def _undo(self, device: DeviceContext, config: Mapping[str, str], link: str) -> None:
        await nftables.apply(render_filter_removal(_label(device), device.context.member.product.name))
        await limits.take_back(device)
        if link and sysfs.interface_exists(link):
            await _proxy_neighbours("del", config, link)
        if link:
            await parents.release(device)

    async def update(self, device: DeviceContext, old: Mapping[str, str]) -> None:
        host_name = veth.host_name_of(device)
        if device.pid and host_name:
            await limits.change(device, host_name, old)

    async def detach(self, device: DeviceContext) -> None:
        config = device.config
        link = vlans.interface_of(config["parent"], config.get("vlan", "")) if config.get("parent") else ""
        await veth.remove_rest(device)
        await self._undo(device, config, link)

    async def remove(self, device: DeviceContext) -> None:
        return

    async def plug(self, device: DeviceContext) -> Mapping[str, str | None]:
        attachment = await self.attach(device)
        assert attachment.nic is not None
        assert attachment.release is not None
        try:
            volatile = await veth.plug_attachment(device, attachment)
            await in_thread(_configure_inside, device, attachment.nic.settings)
        except BaseException:
            await in_thread(veth.unplug, attachment.nic.host_name)
            await attachment.release()
            raise
        return volatile

    async def unplug(self, device: DeviceContext) -> None:
        host_name = veth.host_name_of(device)
        if host_name:
            await in_thread(veth.unplug, host_name)
        await self.detach(device)

    async def restore(self, device: DeviceContext) -> None:
        """Set the reverse path filter again that a repaired firewall lost."""
        host_name = veth.host_name_of(device)
        if host_name:
            await nftables.apply(render_filter(_label(device), device.context.member.product.name, host_name))


def _label(device: DeviceContext) -> str:
    return label_of(device.project, device.instance, device.device)


def _check_parent(name: str, link: str, config: Mapping[str, str], created: bool) -> None:
    """The parent must forward and answer for others; one that was made here is made to."""
    if not link:
        return
    for family, version, *_ in _FAMILIES:
        if not addresses_of(config, family):
            continue
        for key in ["forwarding"] if version == 4 else ["forwarding", "proxy_ndp"]:
            # Without those of "all" the kernel forwards no IPv6, and answers for others now and then only.
            for place in (link,) if version == 4 or created else ("all", link):
                path = Path(f"/proc/sys/net/{family}/conf/{place}/{key}")
                if created:
                    path.write_text("1")
                elif path.read_text().strip() != "1":
                    setting = f"net.{family}.conf.{place.replace('.', '/')}.{key}=1"
                    raise InvalidRequest(f'Failed to start device "{name}": Routed mode requires sysctl {setting}')


async def _probe(name: str, link: str, config: Mapping[str, str]) -> None:
    """Raise InvalidRequest where somebody on the parent already answers for an address."""
    if not link:
        return
    wanted = [
        one
        for family, *_ in _FAMILIES
        if config.get(f"{family}.neighbor_probe", "") == "" or units.is_true(config[f"{family}.neighbor_probe"])
        for one in addresses_of(config, family)
    ]
    for address in await neighbours.find_answering(link, wanted):
        raise InvalidRequest(
            f'Failed to start device "{name}": IP address "{address}" in use on parent network "{link}"'
        )


def _add_route(host: Netlink, name: str, route: Route) -> None:
    try:
        host.add_route(route)
    except FileExistsError as error:
        raise InvalidRequest(
            f'Failed to start device "{name}": The host has a route to "{route.destination}" already, to another '
            "instance or interface"
        ) from error


def _configure(name: str, config: Mapping[str, str], host_name: str) -> None:
    """The host's end: next hop of the instance, with routes to its addresses. Raises InvalidRequest."""
    for path, value in (("ipv6/conf/{}/accept_ra", "0"), ("ipv4/conf/{}/rp_filter", "1")):
        target = Path("/proc/sys/net", path.format(host_name))
        if target.exists():
            target.write_text(value)
    with Netlink() as host:
        index = host.get_link(host_name).index
        for family, _, length, default in _FAMILIES:
            addresses = addresses_of(config, family)
            if not addresses:
                continue
            host.ensure_address(host_name, f"{_gateway(config, family, default)}/{length}")
            Path(f"/proc/sys/net/{family}/conf/{host_name}/forwarding").write_text("1")
            for one in addresses:
                route = Route(f"{one}/{length}", interface=index, protocol=3, scope=SCOPE_LINK)
                _add_route(host, name, route)
                table = config.get(f"{family}.host_table")
                if table and int(table) != route.table:
                    _add_route(host, name, replace(route, table=int(table)))
            for network in _split(config.get(f"{family}.routes", "")):
                _add_route(host, name, Route(network, gateway=addresses[0], interface=index, protocol=3))


def _configure_inside(device: DeviceContext, keys: tuple[tuple[str, str], ...]) -> None:
    """Give the interface of a running instance the addresses and next hops that liblxc gives it at a start."""
    name = veth.name_of(device)
    namespace = pidfd.open_pidfd(device.pid)
    try:
        with Netlink(namespace) as inside:
            index = inside.get_link(name).index
            for key, value in keys:
                family, _, what = key.partition(".")
                if what == "address":
                    inside.ensure_address(name, value.split()[0])
                elif what == "gateway":
                    length, anywhere = (32, "0.0.0.0/0") if family == "ipv4" else (128, "::/0")
                    inside.ensure_route(Route(f"{value}/{length}", interface=index, scope=SCOPE_LINK))
                    inside.ensure_route(Route(anywhere, gateway=value, interface=index))
    finally:
        os.close(namespace)


async def _proxy_neighbours(verb: str, config: Mapping[str, str], link: str) -> None:
    lines = [
        f"neigh {verb} proxy {one} dev {link}\n" for family, *_ in _FAMILIES for one in addresses_of(config, family)
    ]
    if lines:
        await command.run(
            ["ip", "-force", "-batch", "-"], stdin="".join(lines), ok=(0, 1, 2) if verb == "del" else (0,)
        )


def render_filter(label: str, table: str, host_name: str) -> str:
    """One transaction for the chain that drops what comes from an instance under an address not its own."""
    lines = [
        render_filter_removal(label, table).rstrip("\n"),
        f"table inet {table} {{",
        f"\tchain prert.{label} {{",
        "\t\ttype filter hook prerouting priority -300; policy accept;",
        f'\t\tiif "{host_name}" fib saddr . iif oif missing drop',
        "\t}",
        "}",
    ]
    return "\n".join(lines) + "\n"


def render_filter_removal(label: str, table: str) -> str:
    """A transaction that removes the chain, whether it exists or not."""
    chain = f"inet {table} prert.{label}"
    return f"add table inet {table}\nadd chain {chain}\nflush chain {chain}\ndelete chain {chain}\n"
