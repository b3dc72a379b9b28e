"""Pools, volumes and their users in the database."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from corral.errors import AlreadyExists, NotFound
from corral.server.db import references, schema
from corral.server.db.database import Database, Tx
from corral.server.storage import scope, snapshot_store, store
from corral.server.storage.model import CREATED, PENDING, ContentType, Pool, Volume, VolumeType


@pytest.fixture
async def db() -> AsyncIterator[Database]:
    database = Database(":memory:")
    await database.open(schema.cluster)
    yield database
    await database.close()


async def insert_pool(db: Database, name: str = "p1") -> Pool:
    pool = await db.write(store.insert_pool, name, "btrfs", "words", {"size": "5GiB", "volume.size": "1GiB"})
    await db.write(store.finish_pool, pool.id, pool.config)
    return await db.read(store.get_pool, name)


async def insert_volume(db: Database, pool: Pool, name: str, kind: VolumeType, project: str = "default") -> Volume:
    return await db.write(store.insert_volume, Volume(0, pool, project, name, kind, config={"user.a": "b"}))


async def test_a_pool_is_pending_until_it_is_finished(db: Database) -> None:
    pool = await db.write(store.insert_pool, "p1", "dir", "", {})
    assert (pool.status, pool.config) == (PENDING, {})
    await db.write(store.finish_pool, pool.id, {"source": "/x", "user.empty": ""})
    pool = await db.read(store.get_pool, "p1")
    assert (pool.status, pool.config) == (CREATED, {"source": "/x"})
    with pytest.raises(AlreadyExists, match="The storage pool already exists"):
        await db.write(store.insert_pool, "p1", "dir", "", {})


async def test_keys_of_one_member_carry_its_id(db: Database) -> None:
    await insert_pool(db)
    rows = await db.read(lambda tx: tx.rows("SELECT key, node_id FROM storage_pools_config ORDER BY key"))
    assert [tuple(row) for row in rows] == [("size", 1), ("volume.size", None)]


async def test_what_is_not_there(db: Database) -> None:
    pool = await insert_pool(db)
    assert await db.read(store.find_pool, "p2") is None
    with pytest.raises(NotFound, match="Storage pool not found"):
        await db.read(store.get_pool, "p2")
    with pytest.raises(NotFound, match="Storage pool volume not found"):
        await db.read(store.get_volume, pool, "default", "v", VolumeType.CUSTOM)
    with pytest.raises(NotFound, match="Project not found"):
        await insert_volume(db, pool, "v", VolumeType.CUSTOM, "nowhere")


async def test_volumes_are_kept_as_given(db: Database) -> None:
    pool = await insert_pool(db)
    draft = Volume(0, pool, "default", "v", VolumeType.CUSTOM, ContentType.BLOCK, {"size": "1GiB"}, "words")
    volume = await db.write(store.insert_volume, draft)
    assert volume == replace(draft, id=volume.id, created_at=volume.created_at)
    assert volume.created_at.endswith("Z")
    assert await db.read(store.get_volume, pool, "default", "v", VolumeType.CUSTOM) == volume
    await db.write(store.update_volume, volume.id, "other", {"size": "2GiB"})
    changed = await db.read(store.get_volume, pool, "default", "v", VolumeType.CUSTOM)
    assert (changed.description, changed.config) == ("other", {"size": "2GiB"})


async def test_volumes_in_the_making_are_not_shown(db: Database) -> None:
    pool = await insert_pool(db)
    volume = await insert_volume(db, pool, "v", VolumeType.CUSTOM)
    await db.write(store.mark_volume, volume.id, "create")
    assert await db.read(store.list_volumes, pool) == []
    assert [found.id for found in await db.read(store.list_pending, pool)] == [volume.id]
    with pytest.raises(NotFound):
        await db.read(store.get_volume, pool, "default", "v", VolumeType.CUSTOM)
    with pytest.raises(AlreadyExists, match="Volume by that name already exists"):
        await insert_volume(db, pool, "v", VolumeType.CUSTOM)


async def test_a_pool_that_is_removed_takes_no_volume(db: Database) -> None:
    pool = await insert_pool(db)
    await db.write(store.mark_pool, pool.id, PENDING)
    with pytest.raises(NotFound, match="Storage pool not found"):
        await insert_volume(db, pool, "v", VolumeType.CUSTOM)


async def test_volumes_of_types_projects_and_pools(db: Database) -> None:
    await db.write(lambda tx: tx.execute("INSERT INTO projects (name) VALUES ('other')"))
    first, second = await insert_pool(db), await insert_pool(db, "p2")
    await insert_volume(db, first, "a", VolumeType.CUSTOM)
    await insert_volume(db, first, "a", VolumeType.CONTAINER)
    await insert_volume(db, first, "b", VolumeType.CONTAINER, "other")
    await insert_volume(db, second, "c", VolumeType.CONTAINER)

    async def names(*args: object) -> list[str]:
        return [volume.name for volume in await db.read(store.list_volumes, *args)]  # type: ignore[arg-type]

    assert await names() == ["a", "a", "b", "c"]
    assert await names(first) == ["a", "a", "b"]
    assert await names(first, "other") == ["b"]
    assert await names(first, None, [VolumeType.CUSTOM]) == ["a"]
    found = await db.read(store.find_instance_volume, "default", "c", VolumeType.CONTAINER)
    assert found is not None
    assert found.pool == second


async def test_a_rename_finds_the_name_taken(db: Database) -> None:
    pool = await insert_pool(db)
    volume = await insert_volume(db, pool, "a", VolumeType.CUSTOM)
    await insert_volume(db, pool, "b", VolumeType.CUSTOM)
    with pytest.raises(AlreadyExists):
        await db.write(store.rename_volume, volume, "b")
    await db.write(store.rename_volume, volume, "c")
    assert (await db.read(store.get_volume, pool, "default", "c", VolumeType.CUSTOM)).id == volume.id


async def test_snapshots_of_a_volume(db: Database) -> None:
    pool = await insert_pool(db)
    volume = await insert_volume(db, pool, "v", VolumeType.CUSTOM)
    await db.write(store.mark_volume, volume.id, "")
    first = await db.write(snapshot_store.insert_snapshot, volume, "", None)
    assert (first.name, first.config, first.pending) == ("snap0", {"user.a": "b"}, "create")
    assert await db.read(snapshot_store.list_snapshots, [volume]) == []
    assert await db.read(snapshot_store.list_pending, [volume]) == [first]
    with pytest.raises(AlreadyExists, match='Snapshot "snap0" already in use'):
        await db.write(snapshot_store.insert_snapshot, volume, "snap0", None)
    await db.write(snapshot_store.mark_snapshot, first.id, "")
    second = await db.write(snapshot_store.insert_snapshot, volume, "", "2020-01-01T00:00:00Z")
    await db.write(snapshot_store.mark_snapshot, second.id, "")
    assert second.name == "snap1"
    expired = await db.read(snapshot_store.list_expired, "2020-01-02T00:00:00Z")
    assert [one.name for one in expired] == ["snap1"]
    await db.write(snapshot_store.rename_snapshot, second, "other")
    with pytest.raises(NotFound):
        await db.read(snapshot_store.get_snapshot, volume, "snap1")
    await db.write(snapshot_store.update_snapshot, second.id, "words", None)
    changed = await db.read(snapshot_store.get_snapshot, volume, "other")
    assert (changed.description, changed.expires_at) == ("words", None)
    listed = await db.read(scope.list_volumes, "p1", "default", [VolumeType.CUSTOM])
    assert [one.name for one, _ in listed] == ["v", "v/other", "v/snap0"]
    assert await db.read(references.list_pool_users, pool.id, "p1") == [
        "/1.0/storage-pools/p1/volumes/custom/v",
        "/1.0/storage-pools/p1/volumes/custom/v/snapshots/other",
        "/1.0/storage-pools/p1/volumes/custom/v/snapshots/snap0",
    ]
    await db.write(snapshot_store.delete_snapshot, changed.id)
    assert [one.name for one in await db.read(snapshot_store.list_snapshots, [volume])] == ["snap0"]


async def test_a_project_sees_its_volumes_and_the_shared_ones(db: Database) -> None:
    def prepare(tx: Tx) -> None:
        for name, own in (("own", "true"), ("shares", "false")):
            project = tx.execute("INSERT INTO projects (name) VALUES (?)", name)
            for feature in ("features.storage.volumes", "features.images"):
                tx.execute(
                    "INSERT INTO projects_config (project_id, key, value) VALUES (?, ?, ?)", project, feature, own
                )
        tx.execute("INSERT INTO images (fingerprint, upload_date, project_id) VALUES ('i1', '', 1)")

    await db.write(prepare)
    pool = await insert_pool(db)
    for name, kind, project in (
        ("v", VolumeType.CUSTOM, "default"),
        ("w", VolumeType.CUSTOM, "own"),
        ("i1", VolumeType.IMAGE, "default"),
        ("c", VolumeType.CONTAINER, "shares"),
    ):
        await insert_volume(db, pool, name, kind, project)

    async def names(project: str | None) -> list[str]:
        return [one.name for one, _ in await db.read(scope.list_volumes, "p1", project, list(VolumeType))]

    assert await names("default") == ["v", "i1"]
    assert await names("own") == ["w"]
    assert await names("shares") == ["c", "v", "i1"]
    assert await names(None) == ["c", "v", "w", "i1"]
    assert (await db.read(scope.get_volume, "p1", "shares", VolumeType.CUSTOM, "v")).project == "default"
    with pytest.raises(NotFound):
        await db.read(scope.get_volume, "p1", "own", VolumeType.CUSTOM, "v")


def _add_profile_device(tx: Tx, profile: int, name: str, config: dict[str, str]) -> None:
    device = tx.execute("INSERT INTO profiles_devices (profile_id, name, type) VALUES (?, ?, 2)", profile, name)
    tx.many(
        "INSERT INTO profiles_devices_config (profile_device_id, key, value) VALUES (?, ?, ?)",
        [(device, key, value) for key, value in config.items()],
    )


async def test_users_of_a_pool(db: Database) -> None:
    pool = await insert_pool(db)
    assert await db.read(references.list_pool_users, pool.id, "p1") == []
    assert not await db.read(references.has_pool_users, pool.id, "p1")
    await insert_volume(db, pool, "f" * 64, VolumeType.IMAGE)
    assert await db.read(references.list_pool_users, pool.id, "p1") == [
        f"/1.0/storage-pools/p1/volumes/image/{'f' * 64}"
    ]
    assert not await db.read(references.has_pool_users, pool.id, "p1")
    await db.write(_add_profile_device, 1, "root", {"path": "/", "pool": "p1"})
    await db.write(lambda tx: tx.execute("INSERT INTO projects (name) VALUES ('other')"))
    await insert_volume(db, pool, "c1", VolumeType.CONTAINER, "other")
    await insert_volume(db, pool, "a/b", VolumeType.CUSTOM)
    assert await db.read(references.has_pool_users, pool.id, "p1")
    assert await db.read(references.list_pool_users, pool.id, "p1") == [
        "/1.0/instances/c1?project=other",
        "/1.0/profiles/default",
        "/1.0/storage-pools/p1/volumes/custom/a%2Fb",
        f"/1.0/storage-pools/p1/volumes/image/{'f' * 64}",
    ]


async def test_users_of_a_custom_volume(db: Database) -> None:
    def prepare(tx: Tx) -> None:
        for name in ("own", "shares"):
            project = tx.execute("INSERT INTO projects (name) VALUES (?)", name)
            profile = tx.execute("INSERT INTO profiles (name, project_id) VALUES ('extra', ?)", project)
            _add_profile_device(tx, profile, "data", {"pool": "p1", "source": "v", "path": "/srv"})
        tx.execute(
            "INSERT INTO projects_config (project_id, key, value)"
            " SELECT id, 'features.storage.volumes', 'true' FROM projects WHERE name = 'own'"
        )
        _add_profile_device(tx, 1, "data", {"pool": "p1", "source": "v", "path": "/srv"})
        _add_profile_device(tx, 1, "else", {"pool": "p1", "source": "w", "path": "/mnt"})

    await db.write(prepare)
    assert await db.read(references.list_custom_volume_users, "p1", "default", "v") == [
        "/1.0/profiles/default",
        "/1.0/profiles/extra?project=shares",
    ]
    assert await db.read(references.list_custom_volume_users, "p1", "own", "v") == ["/1.0/profiles/extra?project=own"]
    assert await db.read(references.list_custom_volume_users, "p2", "default", "v") == []
