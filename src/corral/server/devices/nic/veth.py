"""What NICs made of a veth pair share: names, MAC addresses, the host's end, plugging into a running instance."""

import contextlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from corral.errors import InvalidRequest
from corral.server.devices.model import Attachment, DeviceContext
from corral.server.host import sysfs
from corral.server.host.network.netlink import Netlink
from corral.server.host.programs import pidfd
from corral.server.host.threads import in_thread


def generate_mac() -> str:
    """A random address in the block that LXD uses."""
    return "00:16:3e:" + ":".join(f"{byte:02x}" for byte in secrets.token_bytes(3))


def new_host_name() -> str:
    """A random name for the host's end."""
    return f"veth{secrets.token_hex(4)}"


def check_unique_name(config: Mapping[str, str], others: Mapping[str, Mapping[str, str]]) -> None:
    """Raise InvalidRequest where two NICs would have one name inside."""
    name = config.get("name")
    if name and sum(one.get("type") == "nic" and one.get("name") == name for one in others.values()) > 1:
        raise InvalidRequest(f'Duplicate NIC name detected "{name}"')


def prepare_identity(device: DeviceContext) -> dict[str, str | None]:
    """Volatile keys for the MAC address and the name inside, where the config gives none."""
    made: dict[str, str | None] = {}
    if not device.config.get("hwaddr") and not device.volatile.get("hwaddr"):
        made["hwaddr"] = generate_mac()
    if not device.config.get("name") and not device.volatile.get("name"):
        made["name"] = next(f"eth{n}" for n in range(1000) if f"eth{n}" not in device.used_names)
    return made


def choose_host_name(device: DeviceContext) -> str:
    """A name for the host's end that is to be made: the config's, the one chosen for a running instance, or any."""
    return device.config.get("host_name") or (device.volatile.get("host_name") if device.pid else "") or new_host_name()


def name_of(device: DeviceContext) -> str:
    """The interface's name inside."""
    return device.config.get("name") or device.volatile.get("name", "eth0")


def host_name_of(device: DeviceContext) -> str:
    """The host's end of the pair, or an empty text where there is none yet."""
    return device.config.get("host_name") or device.volatile.get("host_name", "")


def mac_of(device: DeviceContext) -> str:
    """The address that the instance's end has."""
    return device.config.get("hwaddr") or device.volatile.get("hwaddr", "")


def settings_of(device: DeviceContext, host_name: str, bridge: str = "", mtu: str = "") -> tuple[tuple[str, str], ...]:
    """The keys by which liblxc makes the pair."""
    name = name_of(device)
    optional = (("link", bridge), ("mtu", mtu))
    return (
        ("type", "veth"),
        ("flags", "up"),
        ("veth.pair", host_name),
        ("name", name),
        ("hwaddr", mac_of(device)),
        *((key, value) for key, value in optional if value),
    )


def tune_host_side(host_name: str, isolated: bool) -> None:
    """The host's end of the pair is a bridge port: it must not take part in IPv6 itself."""
    with contextlib.suppress(OSError):
        Path(f"/proc/sys/net/ipv6/conf/{host_name}/disable_ipv6").write_text("1")
    if isolated:
        Path(f"/sys/class/net/{host_name}/brport/isolated").write_text("1")


async def plug_attachment(device: DeviceContext, attachment: Attachment) -> Mapping[str, str | None]:
    """Put the pair of an attachment into the running container; returns the volatile values to remember."""
    assert attachment.nic is not None
    await in_thread(plug, dict(attachment.nic.settings), device.pid)
    try:
        if attachment.after_start is not None:
            await attachment.after_start()
    except BaseException:
        await in_thread(unplug, attachment.nic.host_name)
        raise
    return attachment.volatile


def plug(settings: Mapping[str, str], pid: int) -> None:
    """Make the pair, put one end on the bridge and the other, with its name, into the container."""
    host_name, peer = settings["veth.pair"], f"veth{secrets.token_hex(4)}"
    namespace = pidfd.open_pidfd(pid)
    try:
        with Netlink() as host:
            host.create_veth(host_name, peer, peer_mac=settings["hwaddr"], mtu=int(settings.get("mtu", 0)))
            try:
                if "link" in settings:
                    host.set_master(host_name, settings["link"])
                host.set_up(host_name)
                host.move_link(peer, pid=pid, new_name=settings["name"])
                with Netlink(namespace) as inside:
                    inside.set_up(settings["name"])
            except BaseException:
                host.ensure_link_deleted(host_name)
                raise
    finally:
        os.close(namespace)


def unplug(host_name: str) -> None:
    """Remove the pair of a running instance; does nothing where it is gone."""
    with Netlink() as host:
        host.ensure_link_deleted(host_name)


async def remove_rest(device: DeviceContext) -> None:
    """Remove the host's end after a stop: a pair that was plugged in goes only when the kernel gets round to it."""
    host_name = host_name_of(device)
    if host_name and sysfs.interface_exists(host_name):
        await in_thread(unplug, host_name)
