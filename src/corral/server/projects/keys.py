"""The config keys of projects: features, limits and restrictions."""

import ipaddress

from corral import units
from corral.errors import InvalidRequest
from corral.server.keys import (
    ARCHITECTURE,
    BOOL,
    COMPRESSION,
    INTEGER,
    SIZE,
    STRING,
    WORDS,
    Key,
    KeyTable,
    KeyType,
    enum,
)

FEATURES = {
    "features.images": True,
    "features.networks": False,
    "features.profiles": True,
    "features.storage.volumes": True,
}
"""What a project may have of its own, and whether a new project has it unless it says otherwise."""


def _count(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) >= 2**32:
        raise InvalidRequest(f'Invalid value for uint32 "{text}": give a whole number that is not negative')
    return int(text)


def _paths(text: str) -> list[str]:
    for path in WORDS.parse(text):
        if not path.startswith("/"):
            raise InvalidRequest(f'Item "{path}": Must be absolute file path')
    return WORDS.parse(text)


def _id_ranges(text: str) -> list[range]:
    ranges = []
    for word in WORDS.parse(text):
        first, dash, last = word.partition("-")
        low, high = _count(first), _count(last) if dash else _count(first)
        if high < low:
            raise InvalidRequest(f'Item "{word}": the end of the range is before its start')
        ranges.append(range(low, high + 1))
    return ranges


def _subnets(text: str) -> list[tuple[str, str]]:
    subnets = []
    for word in WORDS.parse(text):
        uplink, colon, subnet = word.partition(":")
        if not colon or not uplink:
            raise InvalidRequest(f'Subnet "{word}" invalid, must be in the format of "<uplink network>:<subnet>"')
        try:
            ipaddress.ip_network(subnet)
        except ValueError:
            raise InvalidRequest(f'Not an IP network address "{subnet}"') from None
        subnets.append((uplink, subnet))
    return subnets


SUBNETS: KeyType[list[tuple[str, str]]] = KeyType("subnets", _subnets)
COUNT: KeyType[int] = KeyType("count", _count)
ID_RANGES: KeyType[list[range]] = KeyType("ranges of ids", _id_ranges)
BLOCK = enum("block", "allow")
MANAGED = enum("block", "allow", "managed")

LIMIT_INSTANCES = Key("limits.instances", COUNT, doc="Instances in the project.")
LIMIT_CONTAINERS = Key("limits.containers", COUNT, doc="Containers in the project.")
LIMIT_VIRTUAL_MACHINES = Key("limits.virtual-machines", COUNT, doc="Virtual machines in the project.")
LIMIT_CPU = Key("limits.cpu", COUNT, doc="Sum of the instances' limits.cpu.")
LIMIT_MEMORY = Key("limits.memory", SIZE, doc="Sum of the instances' limits.memory.")
LIMIT_PROCESSES = Key("limits.processes", COUNT, doc="Sum of the instances' limits.processes.")
LIMIT_DISK = Key("limits.disk", SIZE, doc="Sum of the sizes of volumes and images.")
LIMIT_NETWORKS = Key("limits.networks", COUNT, doc="Networks in the project.")
RESTRICTED = Key("restricted", BOOL, "false", doc="Whether the restrictions are in force.")

TABLE = KeyTable(
    *(Key(name, BOOL, doc="Whether the project has its own set.") for name in FEATURES),
    LIMIT_INSTANCES,
    LIMIT_CONTAINERS,
    LIMIT_VIRTUAL_MACHINES,
    LIMIT_CPU,
    LIMIT_MEMORY,
    LIMIT_PROCESSES,
    LIMIT_DISK,
    LIMIT_NETWORKS,
    RESTRICTED,
    Key("backups.compression_algorithm", COMPRESSION, doc="Compression of backups in the project."),
    Key("images.auto_update_cached", BOOL, doc="Whether cached images of the project are kept up to date."),
    Key("images.auto_update_interval", INTEGER, doc="Hours between two looks for newer images."),
    Key("images.compression_algorithm", COMPRESSION, doc="Compression of images made in the project."),
    Key("images.default_architecture", ARCHITECTURE, doc="Architecture that is taken where there is a choice."),
    Key("images.remote_cache_expiry", INTEGER, doc="Days after which an unused cached image goes."),
    Key("restricted.backups", BLOCK, "block", doc="Whether backups may be made."),
    Key("restricted.cluster.groups", WORDS, doc="Groups of members that may be targeted."),
    Key("restricted.cluster.target", BLOCK, "block", doc="Whether a member may be targeted."),
    Key("restricted.containers.interception", enum("allow", "block", "full"), "block", doc="System call interception."),
    Key("restricted.containers.lowlevel", BLOCK, "block", doc="raw.* and volatile.* of containers."),
    Key("restricted.containers.nesting", BLOCK, "block", doc="security.nesting."),
    Key(
        "restricted.containers.privilege",
        enum("allow", "unprivileged", "isolated"),
        "unprivileged",
        doc="Which containers may be privileged.",
    ),
    Key("restricted.devices.disk", MANAGED, "managed", doc="Which disks may be used."),
    Key("restricted.devices.disk.paths", KeyType("paths", _paths), doc="Which host paths a disk may have as source."),
    Key("restricted.devices.gpu", BLOCK, "block", doc="Devices of type gpu."),
    Key("restricted.devices.infiniband", BLOCK, "block", doc="Devices of type infiniband."),
    Key("restricted.devices.nic", MANAGED, "managed", doc="Which network interfaces may be used."),
    Key("restricted.devices.pci", BLOCK, "block", doc="Devices of type pci."),
    Key("restricted.devices.proxy", BLOCK, "block", doc="Devices of type proxy."),
    Key("restricted.devices.unix-block", BLOCK, "block", doc="Devices of type unix-block."),
    Key("restricted.devices.unix-char", BLOCK, "block", doc="Devices of type unix-char."),
    Key("restricted.devices.unix-hotplug", BLOCK, "block", doc="Devices of type unix-hotplug."),
    Key("restricted.devices.usb", BLOCK, "block", doc="Devices of type usb."),
    Key("restricted.idmap.gid", ID_RANGES, doc="Host group ids that raw.idmap may name."),
    Key("restricted.idmap.uid", ID_RANGES, doc="Host user ids that raw.idmap may name."),
    Key("restricted.networks.access", WORDS, doc="Networks that the project may use."),
    Key("restricted.networks.subnets", SUBNETS, doc="Subnets of uplinks, as UPLINK:SUBNET."),
    Key("restricted.networks.uplinks", WORDS, doc="Networks that may be an uplink."),
    Key("restricted.networks.zones", STRING, doc="DNS zones that the project may use."),
    Key("restricted.snapshots", BLOCK, "block", doc="Whether snapshots may be made."),
    Key("restricted.virtual-machines.lowlevel", BLOCK, "block", doc="raw.* and volatile.* of virtual machines."),
)
"""All keys of LXD 5.0's projects."""


def validate(config: dict[str, str]) -> None:
    """Check names, values and what contradicts itself; raises InvalidRequest in LXD's words."""
    TABLE.validate(
        config,
        lambda name: f'Invalid project configuration key "{name}"',
        lambda name: f'Invalid project configuration key "{name}" value',
    )
    own_profiles = units.is_true(config.get("features.profiles")) or not config.get("features.profiles")
    if units.is_true(config.get("restricted")) and not own_profiles:
        raise InvalidRequest("Projects without their own profiles cannot be restricted")
