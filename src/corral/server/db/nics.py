"""The NIC devices of instances and profiles, expanded, and who uses a network: SQL over the tables of all nouns."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from corral.api.urls import url
from corral.server.db import rows
from corral.server.db.database import Tx
from corral.server.db.rows import Devices
from corral.units import is_true

_ADDRESS_KEYS = "'hwaddr', 'ipv4.address', 'ipv6.address'"


@dataclass(frozen=True, slots=True)
class InstanceNic:
    """A NIC of an instance as its profiles and its own devices make it.

    `network_project` is the project whose networks it means; `config` has the hwaddr, also a generated one.
    """

    project: str
    network_project: str
    instance: str
    device: str
    config: Mapping[str, str]

    @property
    def network(self) -> str:
        """The network or interface that it is on, or an empty text."""
        return network_of(self.config)


def network_of(device: Mapping[str, str]) -> str:
    """The network, or the parent interface with its VLAN, that a NIC device names."""
    if device.get("network"):
        return device["network"]
    parent, vlan = device.get("parent", ""), device.get("vlan", "")
    return f"{parent}.{vlan}" if parent and vlan else parent


def list_instance_nics(tx: Tx) -> list[InstanceNic]:
    """All NICs of all instances."""
    projects = _network_projects(tx)
    own, of_profiles = rows.read_devices(tx, "instance"), rows.read_devices(tx, "profile")
    profiles: dict[int, list[int]] = {}
    for row in tx.rows("SELECT instance_id, profile_id FROM instances_profiles ORDER BY instance_id, apply_order"):
        profiles.setdefault(row["instance_id"], []).append(row["profile_id"])
    generated: dict[tuple[int, str], str] = {
        (row["instance_id"], row["key"].removeprefix("volatile.").removesuffix(".hwaddr")): row["value"]
        for row in tx.rows("SELECT instance_id, key, value FROM instances_config WHERE key LIKE 'volatile.%.hwaddr'")
    }
    found = []
    for row in tx.rows(
        "SELECT i.id, i.name, p.name AS project FROM instances i JOIN projects p ON p.id = i.project_id ORDER BY i.name"
    ):
        devices: Devices = {}
        for profile in profiles.get(row["id"], []):
            devices.update(of_profiles.get(profile, {}))
        devices.update(own.get(row["id"], {}))
        for name, device in devices.items():
            if device.get("type") == "nic":
                hwaddr = device.get("hwaddr") or generated.get((row["id"], name), "")
                config = {**device, "hwaddr": hwaddr} if hwaddr else device
                found.append(InstanceNic(row["project"], projects[row["project"]], row["name"], name, config))
    return found


def is_claimed(tx: Tx, project: str, instance: str, hwaddr: str, addresses: Collection[str]) -> bool:
    """Whether a NIC of another instance, or a profile, names a MAC address or one of some IP addresses.

    It may be on another network: `list_instance_nics` tells. This costs little however many instances there are.
    """
    own = tx.row(
        "SELECT i.id FROM instances i JOIN projects p ON p.id = i.project_id WHERE p.name = ? AND i.name = ?",
        project,
        instance,
    )
    own_id = own["id"] if own is not None else 0
    if hwaddr and tx.row(
        # Said as the index says it.
        "SELECT 1 FROM instances_config WHERE key LIKE 'volatile.%.hwaddr' AND value = ? COLLATE NOCASE"
        " AND instance_id != ?",
        hwaddr,
        own_id,
    ):
        return True
    named = [address for address in (hwaddr, *addresses) if address]
    marks = ", ".join("?" * len(named))
    return (
        tx.row(
            "SELECT 1 FROM instances_devices_config c JOIN instances_devices d ON d.id = c.instance_device_id"
            f" WHERE c.key IN ({_ADDRESS_KEYS}) AND c.value COLLATE NOCASE IN ({marks}) AND d.instance_id != ?",
            *named,
            own_id,
        )
        or tx.row(
            "SELECT 1 FROM profiles_devices_config"
            f" WHERE key IN ({_ADDRESS_KEYS}) AND value COLLATE NOCASE IN ({marks})",
            *named,
        )
    ) is not None


def list_network_users(tx: Tx) -> dict[tuple[str, str], list[str]]:
    """URLs of the networks, profiles and instances that use each network or interface, by its project and name."""
    users: dict[tuple[str, str], list[str]] = {}

    def note(project: str, network: str, user: str) -> None:
        if network and user not in users.setdefault((project, network), []):
            users[project, network].append(user)

    for row in tx.rows(
        "SELECT n.name, p.name AS project, c.value FROM networks n JOIN projects p ON p.id = n.project_id"
        " JOIN networks_config c ON c.network_id = n.id WHERE c.key IN ('network', 'parent') AND c.value != n.name"
        " ORDER BY n.name"
    ):
        note("default", row["value"], url("/1.0/networks", row["name"], project=row["project"]))
    projects = _network_projects(tx)
    devices = rows.read_devices(tx, "profile")
    for row in tx.rows(
        "SELECT f.id, f.name, p.name AS project FROM profiles f JOIN projects p ON p.id = f.project_id ORDER BY f.name"
    ):
        for device in devices.get(row["id"], {}).values():
            if device.get("type") == "nic":
                user = url("/1.0/profiles", row["name"], project=row["project"])
                note(projects[row["project"]], network_of(device), user)
    for nic in list_instance_nics(tx):
        note(nic.network_project, nic.network, url("/1.0/instances", nic.instance, project=nic.project))
    return users


def _network_projects(tx: Tx) -> dict[str, str]:
    """The project whose networks each project uses: its own or the default one."""
    own = {
        row["name"]
        for row in tx.rows(
            "SELECT p.name, c.value FROM projects p JOIN projects_config c ON c.project_id = p.id"
            " WHERE c.key = 'features.networks'"
        )
        if is_true(row["value"])
    }
    return {
        row["name"]: row["name"] if row["name"] in own or row["name"] == "default" else "default"
        for row in tx.rows("SELECT name FROM projects")
    }
