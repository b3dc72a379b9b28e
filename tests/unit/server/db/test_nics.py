"""NICs as profiles and instances make them together, and the users of networks."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from corral.server.db import nics, rows, schema
from corral.server.db.database import Database, Tx


@pytest.fixture
async def database() -> AsyncIterator[Database]:
    opened = Database(":memory:")
    await opened.open(schema.cluster)
    yield opened
    await opened.close()


def fill(tx: Tx) -> None:
    def instance(name: str, project: int, devices: dict[str, dict[str, str]], config: dict[str, str]) -> None:
        found = tx.execute(
            "INSERT INTO instances (node_id, name, architecture, type, creation_date, project_id)"
            " VALUES (1, ?, 2, 0, '', ?)",
            name,
            project,
        )
        rows.write_devices(tx, "instance", found, devices)
        rows.write_config(tx, "instances_config", "instance_id", found, config)
        tx.execute("INSERT INTO instances_profiles (instance_id, profile_id) VALUES (?, 1)", found)

    shared = tx.execute("INSERT INTO projects (name) VALUES ('shared')")
    own = tx.execute("INSERT INTO projects (name) VALUES ('own')")
    tx.execute("INSERT INTO projects_config (project_id, key, value) VALUES (?, 'features.networks', 'true')", own)
    rows.write_devices(tx, "profile", 1, {"eth0": {"type": "nic", "network": "br0"}, "root": {"type": "disk"}})
    instance("c1", 1, {}, {"volatile.eth0.hwaddr": "00:16:3e:00:00:01"})
    instance("c2", shared, {"eth0": {"type": "none"}, "eth1": {"type": "nic", "parent": "eno1", "vlan": "7"}}, {})
    instance("c3", own, {"eth0": {"type": "nic", "network": "br1", "hwaddr": "00:16:3e:00:00:03"}}, {})


def listed(tx: Tx) -> list[tuple[Any, ...]]:
    return [
        (nic.instance, nic.network_project, nic.device, nic.network, nic.config.get("hwaddr"))
        for nic in nics.list_instance_nics(tx)
    ]


async def test_own_devices_win_over_profiles(database: Database) -> None:
    await database.write(fill)
    assert await database.read(listed) == [
        ("c1", "default", "eth0", "br0", "00:16:3e:00:00:01"),
        ("c2", "default", "eth1", "eno1.7", None),
        ("c3", "own", "eth0", "br1", "00:16:3e:00:00:03"),
    ]


async def test_users_by_project_and_name(database: Database) -> None:
    await database.write(fill)
    assert await database.read(nics.list_network_users) == {
        ("default", "br0"): ["/1.0/profiles/default", "/1.0/instances/c1"],
        ("default", "eno1.7"): ["/1.0/instances/c2?project=shared"],
        ("own", "br1"): ["/1.0/instances/c3?project=own"],
    }


@pytest.mark.parametrize(
    ("hwaddr", "addresses", "claimed"),
    [
        ("00:16:3E:00:00:01", [], True),
        ("00:16:3e:00:00:03", [], True),
        ("00:16:3e:00:00:04", [], True),
        ("00:16:3e:00:00:02", [], False),
        ("", ["10.0.0.5"], True),
        ("", ["10.0.0.6"], False),
        ("", [], False),
    ],
)
async def test_addresses_that_others_name(database: Database, hwaddr: str, addresses: list[str], claimed: bool) -> None:
    def fill_more(tx: Tx) -> None:
        fill(tx)
        rows.write_config(tx, "instances_config", "instance_id", 2, {"volatile.eth1.hwaddr": "00:16:3e:00:00:02"})
        rows.write_devices(tx, "profile", 1, {"eth0": {"type": "nic", "network": "br0", "hwaddr": "00:16:3e:00:00:04"}})
        rows.write_devices(tx, "instance", 1, {"eth9": {"type": "nic", "network": "br0", "ipv4.address": "10.0.0.5"}})

    await database.write(fill_more)
    assert await database.read(nics.is_claimed, "shared", "c2", hwaddr, addresses) is claimed


async def test_a_claim_is_found_by_an_index(database: Database) -> None:
    statements: list[str] = []

    def look(tx: Tx) -> list[str]:
        tx._connection.set_trace_callback(statements.append)
        nics.is_claimed(tx, "default", "c1", "00:16:3e:00:00:01", ["10.0.0.5"])
        tx._connection.set_trace_callback(None)
        asked = next(one for one in statements if "volatile" in one)
        return [row["detail"] for row in tx.rows(f"EXPLAIN QUERY PLAN {asked}")]

    assert any("USING INDEX instances_config_hwaddr" in detail for detail in await database.read(look))
