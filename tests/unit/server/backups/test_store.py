"""The rows of backups."""

from collections.abc import AsyncIterator

import pytest

from corral.errors import AlreadyExists, NotFound
from corral.server.backups import store
from corral.server.backups.store import INSTANCES, Backup
from corral.server.db import schema
from corral.server.db.database import Database, Tx


@pytest.fixture
async def database() -> AsyncIterator[Database]:
    opened = Database(":memory:")
    await opened.open(schema.cluster)
    await opened.write(_insert_instance)
    yield opened
    await opened.close()


def _insert_instance(tx: Tx) -> None:
    tx.execute(
        "INSERT INTO instances (id, node_id, name, architecture, type, creation_date, project_id)"
        " VALUES (1, 1, 'c1', 2, 0, '', 1)"
    )


async def test_rows(database: Database) -> None:
    new = Backup(0, 1, "foo", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", True, True)
    backup_id = await database.write(store.insert_backup, INSTANCES, new)
    with pytest.raises(NotFound):
        await database.read(store.get_backup, INSTANCES, 1, "foo")
    await database.write(store.finish_backup, INSTANCES, backup_id)
    found = await database.read(store.get_backup, INSTANCES, 1, "foo")
    assert (found.id, found.alone, found.expires_at) == (backup_id, True, "2026-01-02T00:00:00Z")
    with pytest.raises(AlreadyExists):
        await database.write(store.insert_backup, INSTANCES, new)
    assert await database.read(store.list_expired, INSTANCES, "2026-01-01T12:00:00Z") == []
    assert await database.read(store.list_expired, INSTANCES, "2026-01-02T12:00:00Z") == [found]
    await database.write(store.rename_backup, INSTANCES, found, "bar")
    assert await database.read(store.names_by_owner, INSTANCES) == {1: {"bar"}}
    await database.write(lambda tx: tx.execute("DELETE FROM instances"))
    assert await database.read(store.names_by_owner, INSTANCES) == {}
