"""Projects: SQL, keys, features and usage."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from corral.errors import AlreadyExists, InvalidRequest, NotFound
from corral.product import LXD
from corral.server.context import Context, Member
from corral.server.db import schema
from corral.server.db.database import Database, Tx
from corral.server.events.bus import Events
from corral.server.locks import Locks
from corral.server.profiles import store as profiles
from corral.server.projects import keys, store, update, usage
from corral.server.projects.model import Project, check_name


@pytest.fixture
async def context(tmp_path: Path) -> AsyncIterator[Context]:
    member = Member(LXD, "here", tmp_path, tmp_path / "logs", tmp_path / "cache")
    made = Context(Database(":memory:"), Events(), Locks(), member)
    await made.db.open(schema.cluster)
    yield made
    await made.db.close()


def add_instance(tx: Tx, project: str, kind: int, config: dict[str, str]) -> None:
    owner = store.get_project(tx, project).id
    instance = tx.execute(
        "INSERT INTO instances (node_id, name, architecture, type, creation_date, project_id)"
        " VALUES (1, hex(randomblob(4)), 2, ?, '', ?)",
        kind,
        owner,
    )
    for key, value in config.items():
        tx.execute("INSERT INTO instances_config (instance_id, key, value) VALUES (?, ?, ?)", instance, key, value)
    profile = profiles.find_profile(tx, project, "default")
    if profile is not None:
        tx.execute("INSERT INTO instances_profiles (instance_id, profile_id) VALUES (?, ?)", instance, profile.id)


async def test_the_life_of_a_project(context: Context) -> None:
    db = context.db
    await db.write(store.insert_project, "p", "d", {"features.profiles": "true", "user.x": "y"})
    project = await db.read(store.get_project, "p")
    assert (project.description, project.config) == ("d", {"features.profiles": "true", "user.x": "y"})
    assert (await db.read(profiles.get_profile, "p", "default")).description == "Default LXD profile for project p"
    assert await db.read(store.list_used_by, project) == ["/1.0/profiles/default?project=p"]
    with pytest.raises(AlreadyExists):
        await db.write(store.insert_project, "p", "", {})
    with pytest.raises(AlreadyExists):
        await db.write(store.rename_project, "p", "default")
    await db.write(store.rename_project, "p", "q")
    assert [one.name for one in await db.read(store.list_projects)] == ["default", "q"]
    await db.write(store.delete_project, "q")
    for name in ("p", "q"):
        with pytest.raises(NotFound, match="Project not found"):
            await db.read(store.get_project, name)
    with pytest.raises(NotFound):
        await db.write(store.delete_project, "q")


async def test_a_project_in_use_stays(context: Context) -> None:
    await context.db.write(store.insert_project, "p", "", {"features.profiles": "true"})
    await context.db.write(add_instance, "p", 0, {})
    for verb in (store.rename_project, store.delete_project):
        args = ("p", "q") if verb is store.rename_project else ("p",)
        with pytest.raises(InvalidRequest, match="Only empty projects"):
            await context.db.write(verb, *args)
    with pytest.raises(InvalidRequest, match=r'"features.profiles" cannot be disabled'):
        await update.update_project(context, "p", "", {})
    with pytest.raises(InvalidRequest, match=r'"features.images" cannot be enabled'):
        await update.update_project(context, "p", "", {"features.profiles": "true", "features.images": "true"})
    await update.update_project(context, "p", "new", {"features.profiles": "true", "limits.containers": "3"})
    assert (await context.db.read(store.get_project, "p")).description == "new"


async def test_the_default_profile_follows_the_feature(context: Context) -> None:
    await context.db.write(store.insert_project, "p", "", {})
    assert await context.db.read(profiles.list_profiles, "p") == []
    await update.update_project(context, "p", "", {"features.profiles": "true"})
    assert [one.name for one in await context.db.read(profiles.list_profiles, "p")] == ["default"]
    await update.update_project(context, "p", "", {})
    assert await context.db.read(profiles.list_profiles, "p") == []


async def test_the_default_project_keeps_its_features(context: Context) -> None:
    with pytest.raises(InvalidRequest, match="features of the default project"):
        await update.update_project(context, "default", "", {})


async def test_usage(context: Context) -> None:
    config = {"features.profiles": "true", "limits.containers": "5", "limits.memory": "1GiB"}
    await context.db.write(store.insert_project, "p", "", config)
    await context.db.write(
        profiles.update_profile, "p", "default", "", {"limits.memory": "100MiB", "limits.cpu": "0-2"}, {}
    )
    await context.db.write(add_instance, "p", 0, {"limits.cpu": "4"})
    await context.db.write(add_instance, "p", 0, {"limits.memory": "50%", "limits.processes": "10"})
    await context.db.write(add_instance, "p", 1, {"limits.cpu": "x"})
    found = await context.db.read(usage.read_usage, "p")
    assert found["containers"] == (5, 2)
    assert found["virtual-machines"] == (-1, 1)
    assert found["instances"] == (-1, 3)
    assert found["cpu"] == (-1, 4)
    assert found["memory"] == (2**30, 200 * 2**20)
    assert found["processes"] == (-1, 10)
    assert found["disk"] == (-1, 0)


@pytest.mark.parametrize("name", ["", "a/b", "a b", "a_b", "a'b", 'a"b', "*", ".", ".."])
def test_bad_names(name: str) -> None:
    with pytest.raises(InvalidRequest):
        check_name(name)


@pytest.mark.parametrize(
    "config",
    [
        {"foo": "x"},
        {"limits.cpu": "-1"},
        {"limits.cpu": "4294967296"},
        {"limits.memory": "50%"},
        {"restricted": "maybe"},
        {"restricted.backups": "maybe"},
        {"restricted.devices.disk.paths": "a"},
        {"restricted.idmap.uid": "5-1"},
        {"restricted.networks.subnets": "10.0.0.0/24"},
        {"restricted.networks.subnets": "up:10.0.0.1/24"},
        {"restricted": "true", "features.profiles": "false"},
        {"backups.compression_algorithm": "no-such-program"},
    ],
)
def test_bad_configs(config: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest):
        keys.validate(config)


def test_good_config() -> None:
    keys.validate(
        {
            "user.x": "y",
            "features.images": "",
            "limits.cpu": "4",
            "limits.memory": "1GiB",
            "restricted": "true",
            "restricted.backups": "allow",
            "restricted.devices.nic": "managed",
            "restricted.devices.disk.paths": "/a,/b",
            "restricted.idmap.uid": "1000,2000-3000",
            "restricted.networks.subnets": "up:10.0.0.0/24",
            "images.default_architecture": "x86_64",
        }
    )


def test_features() -> None:
    project = Project(2, "p", "", {"features.images": "true"})
    assert project.owner_of("features.images") == "p"
    assert project.owner_of("features.networks") == "default"
    assert Project(1, "default", "", {}).has("features.networks")
