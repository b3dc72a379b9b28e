"""Instances in the database."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from corral.errors import AlreadyExists, InvalidRequest, NotFound
from corral.server.db import schema
from corral.server.db.database import Database, Tx
from corral.server.instances import store
from corral.server.instances.model import NEVER, InstanceType
from corral.server.instances.store import Change, NewInstance

ROOT = {"type": "disk", "path": "/", "pool": "default"}
NEW = NewInstance(
    project="default",
    name="c1",
    type=InstanceType.CONTAINER,
    architecture=2,
    created_at="2026-01-02T03:04:05Z",
    config={"user.a": "b", "user.empty": ""},
    devices={"root": ROOT},
    profiles=("default",),
)


@pytest.fixture
async def db() -> AsyncIterator[Database]:
    database = Database(":memory:")
    await database.open(schema.cluster)
    await database.write(_profiles)
    yield database
    await database.close()


def _profiles(tx: Tx) -> None:
    tx.execute("INSERT INTO profiles_config (profile_id, key, value) VALUES (1, 'user.p', 'default')")
    second = tx.execute("INSERT INTO profiles (name, project_id) VALUES ('second', 1)")
    tx.execute("INSERT INTO profiles_config (profile_id, key, value) VALUES (?, 'user.p', 'second')", second)
    tx.execute("INSERT INTO profiles_config (profile_id, key, value) VALUES (?, 'limits.cpu', '2')", second)
    device = tx.execute("INSERT INTO profiles_devices (profile_id, name) VALUES (?, 'eth0')", second)
    tx.execute("INSERT INTO profiles_devices_config (profile_device_id, key, value) VALUES (?, 'type', 'nic')", device)


async def test_an_instance_is_kept_as_given_and_expanded(db: Database) -> None:
    await db.write(store.insert_instance, replace(NEW, profiles=("second", "default"), ephemeral=True))
    instance = await db.read(store.get_instance, "default", "c1")
    assert instance.pending == "create"
    assert instance.ephemeral
    assert instance.config == {"user.a": "b"}
    assert instance.devices == {"root": ROOT}
    assert instance.profiles == ("second", "default")
    assert instance.expanded_config == {"user.a": "b", "user.p": "default", "limits.cpu": "2"}
    assert instance.expanded_devices == {"eth0": {"type": "nic"}, "root": ROOT}
    assert (instance.created_at, instance.last_used_at) == ("2026-01-02T03:04:05Z", NEVER)
    assert (await db.write(store.finish_instance, instance.id)).pending == ""
    assert await db.read(store.list_pending) == []


async def test_a_name_is_taken_once_in_a_project(db: Database) -> None:
    await db.write(store.insert_instance, NEW)
    with pytest.raises(AlreadyExists, match='Instance "c1" already exists'):
        await db.write(store.insert_instance, NEW)
    await db.write(lambda tx: tx.execute("INSERT INTO projects (name) VALUES ('blue')"))
    await db.write(store.insert_instance, replace(NEW, project="blue", profiles=()))
    found = await db.read(store.get_instance, "blue", "c1")
    assert found.storage_name == "blue_c1"
    assert [one.project for one in await db.read(store.list_instances)] == ["blue", "default"]
    assert await db.read(store.list_names, "blue") == {"c1"}


async def test_what_is_not_there(db: Database) -> None:
    with pytest.raises(NotFound, match="Instance not found"):
        await db.read(store.get_instance, "default", "c1")
    with pytest.raises(InvalidRequest, match='Requested profile "x" doesn\'t exist'):
        await db.read(store.get_profiles, "default", ["default", "x"])
    with pytest.raises(InvalidRequest, match="Duplicate profile"):
        await db.read(store.get_profiles, "default", ["default", "default"])


async def test_a_project_without_profiles_of_its_own_uses_the_default_ones(db: Database) -> None:
    await db.write(lambda tx: tx.execute("INSERT INTO projects (name) VALUES ('blue')"))
    assert [one.name for one in await db.read(store.get_profiles, "blue", ["second"])] == ["second"]
    await db.write(store.insert_instance, replace(NEW, project="blue", profiles=("second",)))
    assert [one.project for one in await db.read(store.list_by_profile, "default", "second")] == ["blue"]


async def test_single_keys_are_set_and_removed(db: Database) -> None:
    instance_id = await db.write(store.insert_instance, NEW)
    values = {"user.a": None, "user.b": "1", "volatile.last_state.power": "RUNNING"}
    await db.write(store.set_config, instance_id, values, used_at="2026-05-05T00:00:00Z")
    await db.write(store.set_config, instance_id, {"user.b": "2"})
    found = await db.read(store.reload, instance_id)
    assert found.config == {"user.b": "2", "volatile.last_state.power": "RUNNING"}
    assert found.last_used_at == "2026-05-05T00:00:00Z"


async def test_update_and_rename(db: Database) -> None:
    instance = await db.write(store.finish_instance, await db.write(store.insert_instance, NEW))
    change = Change(2, "words", True, {"user.c": "d"}, {}, ("second",))
    updated = await db.write(store.update_instance, instance, change)
    assert (updated.description, updated.ephemeral, updated.config) == ("words", True, {"user.c": "d"})
    assert (updated.devices, updated.profiles) == ({}, ("second",))
    await db.write(store.insert_instance, replace(NEW, name="c2"))
    with pytest.raises(AlreadyExists, match="already in use"):
        await db.write(store.rename_instance, updated, "c2")
    assert (await db.write(store.rename_instance, updated, "c3")).name == "c3"
    await db.write(store.delete_instance, instance.id)
    assert [one.name for one in await db.read(store.list_instances)] == ["c2"]
    assert await db.read(lambda tx: tx.rows("SELECT * FROM instances_config WHERE instance_id = ?", instance.id)) == []


async def test_limits_of_cpus_by_instance(db: Database) -> None:
    first = await db.write(store.insert_instance, replace(NEW, profiles=("second",)))
    second = await db.write(
        store.insert_instance, replace(NEW, name="c2", config={"limits.cpu": "0-1", "limits.cpu.nodes": "0"})
    )
    await db.write(store.insert_instance, replace(NEW, name="c3"))
    expected = {first: {"limits.cpu": "2"}, second: {"limits.cpu": "0-1", "limits.cpu.nodes": "0"}}
    assert await db.read(store.list_effective, "limits.cpu", "limits.cpu.nodes") == expected


async def test_a_list_takes_the_same_few_queries_at_any_length(db: Database) -> None:
    def fill(tx: Tx) -> None:
        for number in range(600):
            store.insert_instance(tx, replace(NEW, name=f"c{number}", profiles=("default", "second")))

    await db.write(fill)
    statements: list[str] = []

    def count(tx: Tx) -> int:
        tx._connection.set_trace_callback(statements.append)
        try:
            return len(store.list_instances(tx, "default"))
        finally:
            tx._connection.set_trace_callback(None)

    assert await db.read(count) == 600
    assert len([one for one in statements if one.startswith("SELECT")]) <= 8
