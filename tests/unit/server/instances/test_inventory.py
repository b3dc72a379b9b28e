"""The records that are kept in memory: after each kind of write what is read is what the database has."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import pytest

from corral.errors import NotFound
from corral.server.db import queries, schema
from corral.server.db.database import Database, Tx, Value
from corral.server.instances import store
from corral.server.instances.inventory import TABLES, Inventory
from corral.server.instances.model import InstanceType
from corral.server.instances.store import NewInstance

P = ParamSpec("P")
R = TypeVar("R")

NEW = NewInstance(
    project="default",
    name="c1",
    type=InstanceType.CONTAINER,
    architecture=2,
    created_at="2026-01-02T03:04:05Z",
    config={"user.a": "b"},
    devices={"root": {"type": "disk", "path": "/"}},
    profiles=("default",),
)


class CountingDatabase(Database):
    """Counts its read transactions."""

    reads = 0

    async def read(self, fn: Callable[Concatenate[Tx, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        self.reads += 1
        return await super().read(fn, *args, **kwargs)


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[CountingDatabase]:
    database = CountingDatabase(tmp_path / "db.bin")
    await database.open(schema.cluster)
    yield database
    await database.close()


@pytest.fixture
async def inventory(db: CountingDatabase) -> Inventory:
    opened = await Inventory.open(db)
    for name in ("c3", "c1", "c2"):
        await db.write(store.insert_instance, replace(NEW, name=name))
    await opened.list()
    db.reads = 0
    return opened


async def check(db: Database, inventory: Inventory) -> None:
    """What is kept is what is there."""
    assert await inventory.list() == await db.read(store.list_instances)


def _set(sql: str) -> Callable[[Tx], object]:
    return lambda tx: tx.execute(sql)


WRITES = {
    "a new instance": lambda tx: store.insert_instance(tx, replace(NEW, name="c0")),
    "a finished instance": lambda tx: store.finish_instance(tx, 1),
    "a key": lambda tx: store.set_config(tx, 1, {"user.a": "c", "user.new": "x"}),
    "a removed key": lambda tx: store.set_config(tx, 1, {"user.a": None}),
    "the time of its use": lambda tx: store.set_config(tx, 2, {}, used_at="2026-02-02T00:00:00Z"),
    "a new name": lambda tx: store.rename_instance(tx, store.get_instance(tx, "default", "c1"), "z1"),
    "a removed instance": lambda tx: store.delete_instance(tx, 2),
    "no instance": _set("DELETE FROM instances"),
    "no profiles": lambda tx: store.write_profiles(tx, 3, "default", []),
    "no devices": _set("DELETE FROM instances_devices WHERE instance_id = 2"),
    "a device's key": _set("UPDATE instances_devices_config SET value = '/srv' WHERE key = 'path'"),
    "a device of another": _set("UPDATE instances_devices SET instance_id = 3, name = 'disk' WHERE instance_id = 1"),
    "a replaced row of another": _set(
        "INSERT OR REPLACE INTO instances_config (id, instance_id, key, value) VALUES (1, 3, 'user.stolen', 'x')"
    ),
    "a key for all": _set("UPDATE instances_config SET value = upper(value)"),
    "a key of the profile": _set("INSERT INTO profiles_config (profile_id, key, value) VALUES (1, 'limits.cpu', '2')"),
    "a device of the profile": _set("INSERT INTO profiles_devices (profile_id, name) VALUES (1, 'eth0')"),
    "a profile's new name": _set("UPDATE profiles SET name = 'base'"),
    "a project's new name": _set("UPDATE projects SET name = 'renamed'"),
}


@pytest.mark.parametrize("what", WRITES)
async def test_a_write_shows_at_once(db: CountingDatabase, inventory: Inventory, what: str) -> None:
    before = await inventory.list()
    await db.write(WRITES[what])
    after = await inventory.list()
    assert after != before
    await check(db, inventory)


async def test_what_did_not_change_is_not_read_again(db: CountingDatabase, inventory: Inventory) -> None:
    first = await inventory.list()
    assert await inventory.get("default", "c2") is first[1]
    assert db.reads == 0
    await db.write(store.set_config, first[0].id, {"user.a": "c"})
    second = await inventory.list()
    assert db.reads == 1
    assert second[0].config == {"user.a": "c"}
    assert second[1:] == first[1:]
    assert second[1] is first[1]


async def test_rows_of_other_tables_change_nothing(db: CountingDatabase, inventory: Inventory) -> None:
    await db.write(_set("INSERT INTO config (key, value) VALUES ('user.x', 'y')"))
    await inventory.list()
    assert db.reads == 0


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE instances SET description = 'typed' WHERE name = 'c2'",
        "DELETE FROM instances WHERE name = 'c2'",
        "INSERT INTO instances_config (instance_id, key, value) VALUES (2, 'user.typed', '1')",
        "UPDATE profiles SET name = 'typed'",
    ],
)
async def test_statements_of_an_administrator_show(db: CountingDatabase, inventory: Inventory, statement: str) -> None:
    before = await inventory.list()
    await queries.run(db, statement)
    assert await inventory.list() != before
    await check(db, inventory)


async def test_a_write_that_is_undone_changes_nothing(db: CountingDatabase, inventory: Inventory) -> None:
    before = await inventory.list()

    def fail(tx: Tx) -> None:
        store.delete_instance(tx, 1)
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        await db.write(fail)
    assert await inventory.list() == before


async def test_a_read_that_fails_is_made_up_for(
    db: CountingDatabase, inventory: Inventory, monkeypatch: pytest.MonkeyPatch
) -> None:
    await db.write(store.set_config, 1, {"user.a": "c"})

    def fail(tx: Tx, ids: object) -> None:
        raise ValueError("no")

    with monkeypatch.context() as patch:
        patch.setattr(store, "list_by_ids", fail)
        with pytest.raises(ValueError, match="no"):
            await inventory.list()
    await check(db, inventory)


async def test_writers_read_what_they_wrote(db: CountingDatabase, inventory: Inventory) -> None:
    async def work(name: str) -> None:
        for number in range(30):
            (one,) = (each for each in await inventory.list() if each.name == name)
            await db.write(store.set_config, one.id, {"user.number": str(number)})
            assert (await inventory.get("default", name)).config["user.number"] == str(number)

    await asyncio.gather(*(work(name) for name in ("c1", "c2", "c3")))


async def test_what_is_deleted_is_not_found(db: CountingDatabase, inventory: Inventory) -> None:
    await db.write(store.delete_instance, (await inventory.get("default", "c1")).id)
    with pytest.raises(NotFound):
        await inventory.get("default", "c1")


async def test_lists_are_of_a_project_and_a_kind(db: CountingDatabase, inventory: Inventory) -> None:
    await db.write(_set("INSERT INTO projects (name) VALUES ('blue')"))
    await db.write(store.insert_instance, replace(NEW, project="blue", name="v1", type=InstanceType.VIRTUAL_MACHINE))
    assert [one.name for one in await inventory.list("blue")] == ["v1"]
    assert [one.name for one in await inventory.list("default", InstanceType.VIRTUAL_MACHINE)] == []
    assert [one.name for one in await inventory.list(None, InstanceType.VIRTUAL_MACHINE)] == ["v1"]


async def test_every_table_that_records_are_read_from_is_watched(db: CountingDatabase) -> None:
    seen: set[str] = set()

    class Watching(Tx):
        def rows(self, sql: str, *values: Value) -> list[sqlite3.Row]:
            seen.update(after for word, after in pairwise(sql.split()) if word in ("FROM", "JOIN"))
            return super().rows(sql, *values)

    def read(tx: Tx) -> None:
        store.list_instances(Watching(tx._connection))

    await db.write(store.insert_instance, NEW)
    await db.read(read)
    assert seen == set(TABLES)
