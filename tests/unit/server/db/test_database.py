"""Transactions, schema and the key-value tables."""

import errno
import os
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from corral.errors import InternalError, OutOfSpace
from corral.server.db import rows, schema
from corral.server.db.database import Database, Tx


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = Database(tmp_path / "db.bin")
    await opened.open(schema.cluster)
    yield opened
    await opened.close()


def insert_project(tx: Tx, name: str) -> int:
    return tx.execute("INSERT INTO projects (name) VALUES (?)", name)


def count_projects(tx: Tx) -> int:
    return int(tx.rows("SELECT count(*) FROM projects")[0][0])


async def test_a_failed_write_keeps_nothing(database: Database) -> None:
    def half(tx: Tx) -> None:
        insert_project(tx, "half")
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        await database.write(half)
    assert await database.read(count_projects) == 1
    await database.write(insert_project, "whole")
    assert await database.read(count_projects) == 2


async def test_open_is_idempotent_and_refuses_a_newer_schema(tmp_path: Path) -> None:
    first = Database(tmp_path / "db")
    await first.open(schema.cluster)
    await first.write(lambda tx: tx.execute("INSERT INTO schema (version, updated_at) VALUES (999, 'x')"))
    await first.close()
    second = Database(tmp_path / "db")
    with pytest.raises(InternalError, match="schema version 999"):
        await second.open(schema.cluster)
    await second.close()


async def test_a_damaged_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "db").write_bytes(b"no database" * 1000)
    database = Database(tmp_path / "db")
    with pytest.raises(InternalError, match="Failed to open the database"):
        await database.open(schema.cluster)
    await database.close()


async def test_a_closed_database_says_so(tmp_path: Path) -> None:
    database = Database(tmp_path / "db")
    with pytest.raises(InternalError, match="closed"):
        await database.read(count_projects)
    await database.close()


async def test_both_schemas_start(tmp_path: Path) -> None:
    database = Database(tmp_path / "local")
    await database.open(schema.local)
    assert await database.read(lambda tx: tx.row("SELECT * FROM config")) is None
    await database.close()


async def test_foreign_keys_hold(database: Database) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        await database.write(lambda tx: tx.execute("INSERT INTO profiles (name, project_id) VALUES ('x', 99)"))


async def test_configs_and_devices_of_many_owners_in_one_query(database: Database) -> None:
    def fill(tx: Tx) -> None:
        tx.execute("INSERT INTO profiles (id, name, project_id) VALUES (2, 'p2', 1)")
        rows.write_config(tx, "profiles_config", "profile_id", 1, {"a": "1", "b": "", "c": "3"})
        rows.write_config(tx, "profiles_config", "profile_id", 2, {"a": "2"})
        rows.write_devices(tx, "profile", 2, {"eth0": {"type": "nic", "name": ""}, "empty": {}})

    await database.write(fill)
    read = database.read
    assert await read(rows.read_configs, "profiles_config", "profile_id") == {1: {"a": "1", "c": "3"}, 2: {"a": "2"}}
    assert await read(rows.read_configs, "profiles_config", "profile_id", [2]) == {2: {"a": "2"}}
    assert await read(rows.read_configs, "profiles_config", "profile_id", []) == {}
    assert await read(rows.read_configs, "profiles_config", "profile_id", range(2, 900)) == {2: {"a": "2"}}
    assert await read(rows.read_devices, "profile", None) == {2: {"eth0": {"type": "nic"}, "empty": {}}}
    assert await read(rows.read_devices, "profile", [1]) == {}
    assert await read(rows.read_devices, "profile", []) == {}
    assert 2 in await read(rows.read_devices, "profile", range(900))

    await database.write(rows.write_devices, "profile", 2, {})
    assert await read(rows.read_devices, "profile", None) == {}


@dataclass(frozen=True)
class Named:
    id: int
    name: str
    extra: str


async def test_rows_become_dataclasses(database: Database) -> None:
    def read(tx: Tx) -> Named:
        row = tx.row("SELECT id, name, description FROM projects")
        assert row is not None
        return rows.to(Named, row, extra="more")

    assert await database.read(read) == Named(1, "default", "more")


async def test_change_counts_rows(database: Database) -> None:
    assert await database.write(lambda tx: tx.change("UPDATE projects SET description = 'x'")) == 1


async def test_devices_of_snapshots(database: Database) -> None:
    def fill(tx: Tx) -> None:
        tx.execute(
            "INSERT INTO instances (id, node_id, name, architecture, type, creation_date, project_id)"
            " VALUES (1, 1, 'c1', 2, 0, 'now', 1)"
        )
        tx.execute("INSERT INTO instances_snapshots (id, instance_id, name, creation_date) VALUES (5, 1, 's', 'now')")
        rows.write_devices(tx, "instances_snapshot", 5, {"root": {"type": "disk"}})

    await database.write(fill)
    assert await database.read(rows.read_devices, "instances_snapshot", [5]) == {5: {"root": {"type": "disk"}}}


async def test_what_is_written_behind_is_there_and_goes_to_the_disk_with_the_next_write(tmp_path: Path) -> None:
    modes: list[int] = []

    def insert(tx: Tx, name: str) -> None:
        insert_project(tx, name)
        modes.append(tx.rows("PRAGMA synchronous")[0][0])

    database = Database(tmp_path / "db.bin")
    await database.open(schema.cluster)
    await database.write_behind(insert, "first")
    with pytest.raises(sqlite3.IntegrityError):
        await database.write_behind(insert, "first")
    await database.write(insert, "second")
    assert await database.read(count_projects) == 3
    normal, full = 1, 2
    assert modes == [normal, full]
    await database.close()


async def test_what_was_written_behind_is_brought_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(tmp_path / "db.bin")
    await database.open(schema.cluster)
    await database.write_behind(insert_project, "first")
    synced: list[str] = []
    monkeypatch.setattr(os, "fdatasync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    await database.flush()
    assert synced == [str(tmp_path / "db.bin-wal")]

    for number, expected in ((errno.ENOSPC, OutOfSpace), (errno.EIO, InternalError)):

        def fail(fd: int, number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fdatasync", fail)
        with pytest.raises(expected, match=r"db\.bin"):
            await database.flush()
    await database.close()
