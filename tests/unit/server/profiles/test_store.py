"""SQL of profiles."""

from collections.abc import AsyncIterator

import pytest

from corral.errors import AlreadyExists, InvalidRequest, NotFound
from corral.server.db import schema
from corral.server.db.database import Database, Tx
from corral.server.profiles import store
from corral.server.profiles.model import check_name


@pytest.fixture
async def db() -> AsyncIterator[Database]:
    made = Database(":memory:")
    await made.open(schema.cluster)
    yield made
    await made.close()


def add_user(tx: Tx, profile: int) -> None:
    instance = tx.execute(
        "INSERT INTO instances (node_id, name, architecture, type, creation_date, project_id)"
        " VALUES (1, 'c1', 2, 0, '', 1)"
    )
    tx.execute("INSERT INTO instances_profiles (instance_id, profile_id) VALUES (?, ?)", instance, profile)


async def test_the_life_of_a_profile(db: Database) -> None:
    devices = {"eth0": {"type": "nic", "network": "x"}, "empty": {"type": "none"}}
    await db.write(store.insert_profile, "default", "p", "d", {"user.a": "b", "user.empty": ""}, devices)
    profile = await db.read(store.get_profile, "default", "p")
    assert (profile.project, profile.description, profile.config) == ("default", "d", {"user.a": "b"})
    assert profile.devices == devices
    assert profile.used_by == ()
    with pytest.raises(AlreadyExists, match="The profile already exists"):
        await db.write(store.insert_profile, "default", "p", "", {}, {})
    before = await db.write(store.update_profile, "default", "p", "", {"user.c": "d"}, {})
    assert before == profile
    await db.write(store.rename_profile, "default", "p", "q")
    renamed = await db.read(store.get_profile, "default", "q")
    assert (renamed.id, renamed.config, renamed.devices) == (profile.id, {"user.c": "d"}, {})
    with pytest.raises(AlreadyExists, match="already in use"):
        await db.write(store.rename_profile, "default", "q", "default")
    await db.write(store.delete_profile, "default", "q")
    with pytest.raises(NotFound, match="Profile not found"):
        await db.read(store.get_profile, "default", "q")


async def test_a_used_profile_stays(db: Database) -> None:
    profile = await db.write(store.insert_profile, "default", "p", "", {}, {})
    await db.write(add_user, profile)
    assert (await db.read(store.get_profile, "default", "p")).used_by == (("default", "c1"),)
    with pytest.raises(InvalidRequest, match="currently in use"):
        await db.write(store.delete_profile, "default", "p")


async def test_profiles_in_order(db: Database) -> None:
    await db.write(store.insert_profile, "default", "a", "", {}, {})
    names = [profile.name for profile in await db.read(store.get_profiles, "default", ["default", "a"])]
    assert names == ["default", "a"]
    assert await db.read(store.get_profiles, "default", []) == []
    with pytest.raises(NotFound):
        await db.read(store.get_profiles, "default", ["none"])
    with pytest.raises(NotFound, match="Project not found"):
        await db.write(store.insert_profile, "none", "a", "", {}, {})


@pytest.mark.parametrize("name", ["", "a/b", ".", ".."])
def test_bad_names(name: str) -> None:
    with pytest.raises(InvalidRequest):
        check_name(name)
