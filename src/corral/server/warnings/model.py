"""Warnings: conditions that an administrator should know of. Numbers are those that LXD keeps in its database."""

from dataclasses import dataclass

TYPES = {
    0: "Undefined warning",
    1: "Couldn't find the CGroup blkio",
    2: "Couldn't find the CGroup blkio.weight",
    3: "Couldn't find the CGroup CPU controller",
    4: "Couldn't find the CGroup CPUset controller",
    5: "Couldn't find the CGroup CPUacct controller",
    6: "Couldn't find the CGroup devices controller",
    7: "Couldn't find the CGroup freezer controller",
    8: "Couldn't find the CGroup hugetlb controller",
    9: "Couldn't find the CGroup memory controller",
    10: "Couldn't find the CGroup network priority controller",
    11: "Couldn't find the CGroup pids controller",
    12: "Couldn't find the CGroup memory swap accounting",
    13: "Time skew detected between leader and local",
    14: "AppArmor support has been disabled",
    15: "Missing virtiofsd",
    16: "Unable to connect to MAAS",
    17: "Skipping AppArmor for dnsmasq due to raw.dnsmasq being set",
    18: "IPv6 networks with a prefix larger than 64 aren't properly supported by dnsmasq",
    19: "Proxy bridge netfilter not enabled",
    20: "Network unavailable",
    21: "Offline cluster member",
    22: "Failed to autostart instance",
    23: "Instance type not operational",
    24: "Storage pool unavailable",
    1001: "Failed to take scheduled snapshot",
}
"""What is wrong, by number; from 1001 on what LXD has no number for."""

CODES = {name: code for code, name in TYPES.items()}
HIGH = frozenset({20, 24})
STATUSES = {1: "new", 2: "acknowledged", 3: "resolved"}
NEW, ACKNOWLEDGED, RESOLVED = 1, 2, 3

ENTITIES = {
    "container": 0,
    "image": 1,
    "profile": 2,
    "project": 3,
    "certificate": 4,
    "instance": 5,
    "instance_backup": 6,
    "instance_snapshot": 7,
    "network": 8,
    "network_acl": 9,
    "node": 10,
    "operation": 11,
    "storage_pool": 12,
    "storage_volume": 13,
    "storage_volume_backup": 14,
    "storage_volume_snapshot": 15,
    "warning": 16,
    "cluster_group": 17,
}
"""Kinds of things that a warning can be about."""

ENTITY_TABLES = {
    0: ("instances", "/1.0/instances", "name"),
    1: ("images", "/1.0/images", "fingerprint"),
    2: ("profiles", "/1.0/profiles", "name"),
    3: ("projects", "/1.0/projects", "name"),
    4: ("certificates", "/1.0/certificates", "fingerprint"),
    5: ("instances", "/1.0/instances", "name"),
    8: ("networks", "/1.0/networks", "name"),
    12: ("storage_pools", "/1.0/storage-pools", "name"),
}
"""Where a thing is: its table, its URL, and the column that names it."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A warning as stored; times are RFC 3339."""

    uuid: str
    type_code: int
    status: int
    project: str
    first_seen_date: str
    last_seen_date: str
    last_message: str
    count: int
    entity_url: str = ""

    @property
    def severity(self) -> str:
        """How bad it is."""
        return "high" if self.type_code in HIGH else "low"
