"""What devices exchange with the instance that has them. A device never sees the instance itself."""

import ipaddress
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from corral.errors import InvalidRequest
from corral.server.context import Context
from corral.server.db.database import Tx
from corral.server.host.isolation.cgroup import Cgroup, Hierarchies, Setting
from corral.server.host.isolation.idmap import IdMap

Check = Callable[[str], object]
"""Raises InvalidRequest or ValueError for a bad value."""


@dataclass(frozen=True, slots=True)
class Nic:
    """An interface for liblxc: its keys below `lxc.net.N.`, in order."""

    settings: tuple[tuple[str, str], ...]
    host_name: str = ""


@dataclass(frozen=True, slots=True)
class Mount:
    """Something of the host that appears in the instance.

    `target` is absolute inside. `shifted` mounts carry the container's id map.
    """

    source: Path
    target: str
    options: tuple[str, ...] = ()
    fstype: str = "none"
    shifted: bool = False


@dataclass(frozen=True, slots=True)
class Attachment:
    """What a device adds to an instance that starts.

    `rules` are the control group's device rules (`c 1:5 rwm`), `settings` its other limits. `volatile` are keys below
    `volatile.DEVICE.` to remember (None forgets), `nvidia_devices` shares of NVIDIA's cards by its names. `release`
    undoes what the attach did outside the instance and is called when the start fails; `after_start` is called once it
    runs, then `start` with the device in the running instance.
    """

    nic: Nic | None = None
    mounts: tuple[Mount, ...] = ()
    rules: tuple[str, ...] = ()
    settings: tuple[Setting, ...] = ()
    volatile: Mapping[str, str | None] = field(default_factory=dict)
    nvidia_devices: tuple[str, ...] = ()
    release: Callable[[], Awaitable[None]] | None = None
    after_start: Callable[[], Awaitable[None]] | None = None
    start: Callable[["DeviceContext"], Awaitable[None]] | None = None


@dataclass(frozen=True, slots=True)
class DeviceContext:
    """The surroundings of one device of one instance.

    `storage_name` is the instance's name on this server, `volatile` the device's remembered values without their
    prefix, `used_names` the interface names that other devices of the instance have, `devices` all of its devices.
    `pid` is 0 while it is stopped; `idmap` is that of the running container or of its next start, None for a
    privileged one, `nvidia_runtime` whether NVIDIA's hook runs at its start. `cgroup` finds the control groups of the
    running container (in a thread: it asks the monitor), and `allow` lets them use a device or not, by a rule (in a
    thread, too). `host_name_of` gives the host's interface of another NIC, `shares_volume` tells whether another
    running instance has the custom volume of a pool.
    """

    context: Context
    project: str
    instance: str
    storage_name: str
    device: str
    config: Mapping[str, str]
    volatile: Mapping[str, str]
    kind: str = "container"
    used_names: frozenset[str] = frozenset()
    devices: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    pid: int = 0
    privileged: bool = False
    nvidia_runtime: bool = False
    idmap: IdMap | None = None
    hierarchies: Hierarchies | None = None
    cgroup: Callable[[], Cgroup] | None = None
    allow: Callable[[str, bool], None] | None = None
    host_name_of: Callable[[str], str] | None = None
    shares_volume: Callable[[str, str], Awaitable[bool]] | None = None

    @property
    def instance_dir(self) -> Path:
        """The top of the instance's volume (beside the root), where a device may keep what belongs to the instance."""
        return self.context.member.containers_dir / self.storage_name

    @property
    def devices_dir(self) -> Path:
        """Where device nodes and mounts for the instance are made."""
        return self.context.member.devices_dir / self.storage_name

    @property
    def log_dir(self) -> Path:
        """Where the instance's logs are."""
        return self.context.member.log_dir / self.storage_name

    @property
    def owner(self) -> tuple[int, int]:
        """The host's ids of the container's root user."""
        if self.idmap is None:
            return 0, 0
        return self.idmap.outside_uid(0) or 0, self.idmap.outside_gid(0) or 0


class Device(Protocol):
    """A kind of device."""

    live_keys: frozenset[str]
    """Keys that change without the device being detached."""

    def validate(self, config: Mapping[str, str], others: Mapping[str, Mapping[str, str]]) -> None:
        """Raise InvalidRequest where the config is unsound; looks at nothing outside."""
        ...

    async def prepare(self, device: DeviceContext) -> Mapping[str, str | None]:
        """Check that what the config names exists, and return volatile keys that live as long as the device does."""
        ...

    async def attach(self, device: DeviceContext) -> Attachment:
        """Make the device ready for a start."""
        ...

    async def update(self, device: DeviceContext, old: Mapping[str, str]) -> None:
        """Apply a change of live keys; the instance may be running."""
        ...

    async def detach(self, device: DeviceContext) -> None:
        """Undo the attach after the instance stopped; does nothing where there is nothing to undo."""
        ...

    async def remove(self, device: DeviceContext) -> None:
        """Forget what belongs to the device beyond a stop (address reservations)."""
        ...


@runtime_checkable
class HotPluggable(Protocol):
    """A device that can come and go while the instance runs."""

    async def plug(self, device: DeviceContext) -> Mapping[str, str | None]:
        """Put the device into the running instance; returns volatile values to remember."""
        ...

    async def unplug(self, device: DeviceContext) -> None:
        """Take the device out of the running instance; does nothing where it is gone."""
        ...


@runtime_checkable
class Reserving(Protocol):
    """A device that holds something for its instance while that is stopped, too: addresses of a network."""

    async def reserve(self, device: DeviceContext) -> None:
        """Reserve it. Raises Conflict where another instance has it."""
        ...


@runtime_checkable
class Placed(Protocol):
    """A device whose config must fit something that the database knows, before any instance has it."""

    def check_place(self, tx: Tx, config: Mapping[str, str]) -> None:
        """Raise InvalidRequest or NotFound where it does not."""
        ...


@runtime_checkable
class Restorable(Protocol):
    """A device with a share in what others may reset: the firewall, routes."""

    async def restore(self, device: DeviceContext) -> None:
        """Set again what the running instance needs. Repeatable."""
        ...


@runtime_checkable
class Watching(Protocol):
    """A device that follows what comes and goes on the host while the instance runs."""

    def watched_paths(self, config: Mapping[str, str]) -> tuple[str, ...] | None:
        """Paths of the host whose coming and going matter; None where this device follows nothing."""
        ...

    async def refresh(self, device: DeviceContext) -> None:
        """Bring the running instance in line with what the host has now. Repeatable."""
        ...


def check_keys(config: Mapping[str, str], checks: Mapping[str, Check], required: tuple[str, ...] = ()) -> None:
    """Check all keys of a device by a table; `type` is always allowed."""
    for name in required:
        if not config.get(name):
            raise InvalidRequest(f'Invalid value for device option "{name}": Required value')
    for name, value in config.items():
        if name == "type" or name.startswith("user."):
            continue
        check = checks.get(name)
        if check is None:
            raise InvalidRequest(f'Invalid device option "{name}"')
        if value == "":
            continue
        try:
            check(value)
        except (InvalidRequest, ValueError) as error:
            raise InvalidRequest(f'Invalid value for device option "{name}": {error}') from error


def anything(text: str) -> None:
    """Any value."""


def check_mac(text: str) -> None:
    """Six bytes in hexadecimal digits."""
    if re.fullmatch(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}", text) is None:
        raise InvalidRequest("Invalid MAC address, must be 6 bytes of hex separated by colons")


def check_interface_name(text: str) -> None:
    """A name that the kernel takes for an interface."""
    if len(text) < 2:
        raise InvalidRequest("Network interface is too short (minimum 2 characters)")
    if len(text) > 15:
        raise InvalidRequest("Network interface is too long (maximum 15 characters)")
    if re.fullmatch(r"[-_a-zA-Z0-9.]+", text) is None:
        raise InvalidRequest("Network interface contains invalid characters")


def check_mtu(text: str) -> None:
    """Bytes of the longest packet."""
    if not text.isdecimal() or not 1280 <= int(text) <= 16384:
        raise InvalidRequest("Out of MTU range (1280-16384)" if text.isdecimal() else f"Invalid MTU {text!r}")


def check_ipv4(text: str) -> None:
    """An IPv4 address."""
    try:
        ipaddress.IPv4Address(text)
    except ValueError as error:
        raise InvalidRequest(f'Not an IPv4 address "{text}"') from error


def check_ipv6(text: str) -> None:
    """An IPv6 address, and none of IPv4 in another dress."""
    try:
        mapped = ipaddress.IPv6Address(text).ipv4_mapped
    except ValueError as error:
        raise InvalidRequest(f'Not an IPv6 address "{text}"') from error
    if mapped is not None:
        raise InvalidRequest(f'Not an IPv6 address "{text}"')


def or_none(check: Check) -> Check:
    """Also the word `none`."""
    return lambda text: None if text == "none" else check(text)


def check_networks(version: int) -> Check:
    """A list of networks of an IP version, as in `10.0.0.0/24, 10.1.0.0/16`."""

    def check(text: str) -> None:
        for part in (one.strip() for one in text.split(",")):
            if "/" not in part or ipaddress.ip_network(part).version != version:
                raise InvalidRequest(f'Not an IPv{version} network "{part}"')

    return check


def check_pci_address(text: str) -> None:
    """A place on the PCI bus; the domain may be left out."""
    if re.fullmatch(r"([0-9a-fA-F]{4}:)?[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-9a-fA-F]", text) is None:
        raise InvalidRequest("Invalid PCI address")


def check_device_number(text: str) -> None:
    """A major or minor number."""
    if not text.isdecimal() or int(text) > 2**32 - 1:
        raise InvalidRequest("Invalid value for a UNIX device number")


def check_id(text: str) -> None:
    """A user or group id."""
    if not text.isdecimal() or int(text) > 2**32 - 1:
        raise InvalidRequest("Invalid value for a UNIX ID")


def check_mode(text: str) -> None:
    """Permission bits in octal digits."""
    if re.fullmatch(r"0*[0-7]{1,4}", text) is None:
        raise InvalidRequest("Invalid value for an octal file mode")


def encode_path(text: str) -> str:
    """A path as one file name: slashes become dashes and dashes are doubled."""
    return text.replace("-", "--").replace("/", "-")


def check_hardware_id(text: str) -> None:
    """A vendor or product number of four hexadecimal digits."""
    if re.fullmatch(r"[0-9a-f]{4}", text) is None:
        raise InvalidRequest("Invalid value, must be four lower case hex characters")
