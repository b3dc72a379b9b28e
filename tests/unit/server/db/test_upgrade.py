"""Opening a database safely: copies before changes, repair files, full disks and damage."""

import sqlite3
from pathlib import Path

import pytest

from corral.errors import InternalError, InvalidRequest, OutOfSpace
from corral.server.db import queries, schema, upgrade
from corral.server.db.database import Database, Tx, explain


async def opened(directory: Path) -> Database:
    (directory / "global").mkdir(exist_ok=True)
    database = Database(directory / "global" / "db.bin")
    try:
        await upgrade.open_database(database, upgrade.of_global(directory))
    except BaseException:
        await database.close()
        raise
    return database


def names(tx: Tx) -> list[str]:
    return [row[0] for row in tx.rows("SELECT name FROM projects ORDER BY id")]


async def test_a_new_database_leaves_no_copy(tmp_path: Path) -> None:
    database = await opened(tmp_path)
    await database.close()
    await (await opened(tmp_path)).close()
    assert not (tmp_path / "global.bak").exists()


async def test_a_repair_file_is_run_once_and_the_state_before_is_kept(tmp_path: Path) -> None:
    await (await opened(tmp_path)).close()
    patch = tmp_path / "patch.global.sql"
    patch.write_text("INSERT INTO projects (name) VALUES ('one; two');\n-- done\n")
    database = await opened(tmp_path)
    assert await database.read(names) == ["default", "one; two"]
    await database.close()
    assert not patch.exists()
    kept = sqlite3.connect(tmp_path / "global.bak" / "db.bin")
    assert kept.execute("SELECT count(*) FROM projects").fetchone() == (1,)
    kept.close()


async def test_a_bad_repair_file_changes_nothing_and_says_why(tmp_path: Path) -> None:
    await (await opened(tmp_path)).close()
    patch = tmp_path / "patch.global.sql"
    patch.write_text("INSERT INTO projects (name) VALUES ('half'); INSERT INTO broken (n) VALUES (1);")
    with pytest.raises(
        InternalError, match=r"Failed to execute queries from .*patch\.global\.sql: no such table: broken"
    ):
        await opened(tmp_path)
    assert patch.exists()
    assert (tmp_path / "global.bak" / "db.bin").exists()
    patch.unlink()
    database = await opened(tmp_path)
    assert await database.read(names) == ["default"]
    await database.close()


async def test_an_older_schema_is_copied_then_brought_up_to_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as past:
        past.setattr(schema, "_migrations", lambda kind: [])
        await (await opened(tmp_path)).close()
    assert not (tmp_path / "global.bak").exists()
    database = await opened(tmp_path)
    assert not await database.read(schema.is_behind, "cluster")
    assert await database.read(lambda tx: tx.rows("SELECT * FROM instances_config_ref")) == []
    await database.close()
    assert (tmp_path / "global.bak" / "db.bin").exists()


async def test_no_copy_no_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await (await opened(tmp_path)).close()
    (tmp_path / "patch.global.sql").write_text("DELETE FROM projects;")

    async def fail(self: Database, target: Path) -> None:
        raise OutOfSpace("no room")

    monkeypatch.setattr(Database, "back_up", fail)
    with pytest.raises(InternalError, match=r"not changed because no copy .* no room"):
        await opened(tmp_path)
    monkeypatch.undo()
    (tmp_path / "patch.global.sql").unlink()
    database = await opened(tmp_path)
    assert await database.read(names) == ["default"]
    await database.close()


async def test_damage_inside_the_file_is_found_at_the_start(tmp_path: Path) -> None:
    database = await opened(tmp_path)
    await database.close()
    file = tmp_path / "global" / "db.bin"
    data = bytearray(file.read_bytes())
    for page in range(2, len(data) // 4096):
        data[page * 4096 : page * 4096 + 64] = b"\xa5" * 64
    file.write_bytes(data)
    with pytest.raises(InternalError, match="Failed to open the database"):
        await opened(tmp_path)


async def test_a_full_disk_is_a_clear_error_and_passes(tmp_path: Path) -> None:
    database = await opened(tmp_path)

    def fill(tx: Tx) -> None:
        tx.execute("INSERT INTO config (key, value) VALUES ('user.big', ?)", "x" * 4_000_000)

    await database.read(lambda tx: tx.rows("PRAGMA max_page_count = 200"))
    with pytest.raises(OutOfSpace, match=r"is full: free some space there and try again"):
        await database.write(fill)
    await database.read(lambda tx: tx.rows("PRAGMA max_page_count = 100000"))
    await database.write(fill)
    await database.close()


async def test_the_last_of_the_disk_is_kept_for_what_frees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = await opened(tmp_path)

    def insert(tx: Tx) -> None:
        tx.execute("INSERT INTO config (key, value) VALUES ('user.big', ?)", "x" * 1_000_000)

    monkeypatch.setattr("corral.server.db.database.RESERVED_BYTES", 1 << 60)
    with pytest.raises(OutOfSpace, match="is full"):
        await database.write(insert)
    await database.write(lambda tx: tx.execute("INSERT INTO config (key, value) VALUES ('small', 'x')"))
    await database.write(lambda tx: tx.execute("DELETE FROM config"))
    monkeypatch.undo()
    await database.write(insert)
    await database.close()


def test_a_wrong_statement_is_no_fault_of_the_file() -> None:
    connection = sqlite3.connect(":memory:")
    with pytest.raises(sqlite3.OperationalError) as caught:
        connection.execute("SELECT * FROM absent")
    connection.close()
    assert explain("db", caught.value) is None


async def test_statements_and_dump(tmp_path: Path) -> None:
    database = await opened(tmp_path)
    done = await queries.run(
        database, "INSERT INTO config (key, value) VALUES ('a;b', NULL); SELECT key, value FROM config;"
    )
    assert [one.affected for one in done] == [1, 0]
    assert (done[1].columns, done[1].rows) == (["key", "value"], [["a;b", None]])
    with pytest.raises(InvalidRequest, match="no such table: absent"):
        await queries.run(database, "SELECT * FROM absent")
    with pytest.raises(InvalidRequest):
        await queries.run(database, "COMMIT")
    assert await database.read(names) == ["default"]
    copy = sqlite3.connect(":memory:")
    copy.executescript(await database.read(queries.dump))
    assert copy.execute("SELECT key, value FROM config").fetchall() == [("a;b", None)]
    assert copy.execute("SELECT count(*) FROM sqlite_master WHERE type = 'trigger'").fetchone()[0] > 3
    copy.close()
    empty = sqlite3.connect(":memory:")
    empty.executescript(await database.read(queries.dump, schema_only=True))
    assert empty.execute("SELECT count(*) FROM schema").fetchone() == (0,)
    empty.close()
    await database.close()


async def test_a_pool_that_is_deleted_takes_its_volumes_along(tmp_path: Path) -> None:
    database = await opened(tmp_path)

    def make(tx: Tx) -> None:
        tx.execute("INSERT INTO storage_pools (id, name, driver, description, state) VALUES (7, 'p', 'dir', '', 1)")
        tx.execute(
            "INSERT INTO storage_volumes (id, name, storage_pool_id, node_id, type, description, project_id,"
            " content_type, creation_date, pending) VALUES (9, 'v', 7, 1, 2, '', 1, 0, '', '')"
        )
        tx.execute("INSERT INTO storage_volumes_backups (storage_volume_id, name, creation_date) VALUES (9, 'b', '')")

    await database.write(make)

    def count(tx: Tx) -> int:
        volumes, backups = (tx.rows(f"SELECT * FROM storage_volumes{end}") for end in ("", "_backups"))
        return len(volumes) + len(backups)

    assert await database.read(count) == 2
    await database.write(lambda tx: tx.execute("DELETE FROM storage_pools WHERE id = 7"))
    assert await database.read(count) == 0
    await database.close()
