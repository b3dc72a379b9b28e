"""What an instance is: its record, its kind, its status and the names and paths that follow from it. No behaviour."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from pathlib import Path

from corral.server.context import Member
from corral.units import is_true

Devices = dict[str, dict[str, str]]

DEFAULT_PROJECT = "default"
NEVER = "1970-01-01T00:00:00Z"
"""`last_used_at` of an instance that was never started."""


class InstanceType(Enum):
    """The kinds of instance; the value is the API's word."""

    CONTAINER = "container"
    VIRTUAL_MACHINE = "virtual-machine"

    @property
    def number(self) -> int:
        """The value of the database's column."""
        return 0 if self is InstanceType.CONTAINER else 1

    @staticmethod
    def of_number(number: int) -> "InstanceType":
        return InstanceType.CONTAINER if number == 0 else InstanceType.VIRTUAL_MACHINE


class Status(IntEnum):
    """The status codes of the API that an instance can have."""

    RUNNING = 103
    STOPPED = 102
    FROZEN = 110
    ERROR = 112

    @property
    def text(self) -> str:
        return _STATUS_TEXTS[self]


_STATUS_TEXTS = {status: status.name.capitalize() for status in Status}


@dataclass(frozen=True, slots=True)
class Profile:
    """What an instance takes from one of its profiles."""

    name: str
    config: Mapping[str, str] = field(default_factory=dict)
    devices: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Instance:
    """One instance as the database has it, with its profiles expanded.

    `config` and `devices` are the instance's own; `expanded_*` are what is in effect. Times are RFC 3339 text.
    """

    id: int
    project: str
    name: str
    type: InstanceType
    architecture: int
    ephemeral: bool
    stateful: bool
    created_at: str
    last_used_at: str
    description: str
    pending: str
    config: dict[str, str]
    devices: Devices
    profiles: tuple[str, ...]
    expanded_config: dict[str, str]
    expanded_devices: Devices

    @property
    def storage_name(self) -> str:
        """The name that is unique on this server: NAME, or PROJECT_NAME outside the default project."""
        return storage_name(self.project, self.name)

    @property
    def is_container(self) -> bool:
        return self.type is InstanceType.CONTAINER

    @property
    def privileged(self) -> bool:
        return is_true(self.expanded_config.get("security.privileged"))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One snapshot of an instance, as its lists show it. `expanded_*` are with the instance's present profiles."""

    id: int
    instance_id: int
    name: str
    created_at: str
    expires_at: str
    stateful: bool
    description: str
    config: dict[str, str]
    devices: Devices
    expanded_config: dict[str, str] = field(default_factory=dict)
    expanded_devices: Devices = field(default_factory=dict)


def storage_name(project: str, name: str) -> str:
    """The name of an instance's volume, directories and container."""
    return name if project in ("", DEFAULT_PROJECT) else f"{project}_{name}"


def log_dir(member: Member, instance: Instance) -> Path:
    """Where the instance's logs are: lxc.log, lxc.conf, console.log."""
    return member.log_dir / instance.storage_name


def backups_dir(member: Member, instance: Instance) -> Path:
    """Where the instance's backups are."""
    return member.state_dir.joinpath("backups", "instances", instance.storage_name)


def link_path(member: Member, instance: Instance) -> Path:
    """The link to the instance's volume: containers/NAME or virtual-machines/NAME."""
    folder = "containers" if instance.is_container else "virtual-machines"
    return member.state_dir.joinpath(folder, instance.storage_name)


def snapshots_link_path(member: Member, instance: Instance) -> Path:
    """The link to the snapshots of the instance's volume."""
    folder = "snapshots" if instance.is_container else "virtual-machines-snapshots"
    return member.state_dir.joinpath(folder, instance.storage_name)


def devices_dir(member: Member, instance: Instance) -> Path:
    """Where device nodes and mounts for the instance are made."""
    return member.devices_dir / instance.storage_name


def seccomp_path(member: Member, instance: Instance) -> Path:
    """The instance's seccomp policy."""
    return member.state_dir.joinpath("security", "seccomp", instance.storage_name)


def target_path(member: Member, instance: Instance) -> Path:
    """Where the container's monitor writes why it ended: `stop` or `reboot`."""
    return member.state_dir / "run" / f"{instance.storage_name}.target"
