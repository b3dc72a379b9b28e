"""Warnings: raised, renewed, resolved, pruned."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from corral.errors import InvalidRequest, NotFound
from corral.product import LXD
from corral.server.context import Context, Member
from corral.server.db import schema
from corral.server.db.database import Database
from corral.server.events.bus import Events
from corral.server.events.problems import Problem, ProblemSolved
from corral.server.locks import Locks
from corral.server.profiles import store as profiles
from corral.server.warnings import store
from corral.server.warnings.model import ACKNOWLEDGED, NEW, RESOLVED, STATUSES
from corral.server.warnings.record import Recorder

NOW = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture
async def context(tmp_path: Path) -> AsyncIterator[Context]:
    member = Member(LXD, "here", tmp_path, tmp_path / "logs", tmp_path / "cache")
    made = Context(Database(":memory:"), Events(), Locks(), member)
    await made.db.open(schema.cluster)
    yield made
    await made.db.close()


async def test_a_warning_is_renewed(context: Context) -> None:
    for message in ("first", "second"):
        await context.db.write(store.raise_warning, 20, message, "default", store.NO_ENTITY, NOW)
    await context.db.write(store.raise_warning, 20, "global", "", store.NO_ENTITY, NOW)
    found = await context.db.read(store.list_warnings, "default")
    assert [(one.last_message, one.count, one.status, one.severity) for one in found] == [("second", 2, NEW, "high")]
    assert len(await context.db.read(store.list_warnings)) == 2


async def test_a_resolved_warning_comes_back(context: Context) -> None:
    await context.db.write(store.raise_warning, 0, "m", "", store.NO_ENTITY, NOW)
    uuid = (await context.db.read(store.list_warnings))[0].uuid
    await context.db.write(store.resolve_warning, 0, "", store.NO_ENTITY, NOW)
    assert STATUSES[(await context.db.read(store.get_warning, uuid)).status] == "resolved"
    await context.db.write(store.raise_warning, 0, "m", "", store.NO_ENTITY, NOW)
    assert (await context.db.read(store.get_warning, uuid)).status == NEW


async def test_an_acknowledged_warning_stays_so(context: Context) -> None:
    await context.db.write(store.raise_warning, 0, "m", "", store.NO_ENTITY, NOW)
    uuid = (await context.db.read(store.list_warnings))[0].uuid
    await context.db.write(store.update_status, uuid, ACKNOWLEDGED, NOW)
    await context.db.write(store.raise_warning, 0, "m", "", store.NO_ENTITY, NOW)
    assert (await context.db.read(store.get_warning, uuid)).status == ACKNOWLEDGED
    await context.db.write(store.delete_warning, uuid)
    for verb in (store.delete_warning, store.get_warning):
        with pytest.raises(NotFound):
            await context.db.write(verb, uuid)
    with pytest.raises(NotFound):
        await context.db.write(store.update_status, uuid, NEW, NOW)


async def test_resolved_warnings_go_after_a_day(context: Context) -> None:
    await context.db.write(store.raise_warning, 0, "m", "", store.NO_ENTITY, NOW)
    uuid = (await context.db.read(store.list_warnings))[0].uuid
    await context.db.write(store.update_status, uuid, RESOLVED, NOW)
    assert await context.db.write(store.delete_resolved, NOW + timedelta(hours=23)) == 0
    assert await context.db.write(store.delete_resolved, NOW + timedelta(hours=24)) == 1


async def test_what_a_warning_is_about(context: Context) -> None:
    await context.db.write(store.raise_warning, 0, "m", "", (2, 1), NOW)
    assert (await context.db.read(store.list_warnings))[0].entity_url == "/1.0/profiles/default"
    for entity in ((2, 99), (0, 0), (99, 1), (2, -1)):
        with pytest.raises(InvalidRequest):
            await context.db.write(store.raise_warning, 0, "m", "", entity, NOW)
    with pytest.raises(InvalidRequest):
        await context.db.write(store.raise_warning, 999, "m", "", store.NO_ENTITY, NOW)
    with pytest.raises(NotFound):
        await context.db.write(store.raise_warning, 0, "m", "none", store.NO_ENTITY, NOW)


async def test_a_warning_goes_with_its_thing(context: Context) -> None:
    profile = await context.db.write(profiles.insert_profile, "default", "p", "", {}, {})
    await context.db.write(store.raise_warning, 0, "m", "", (2, profile), NOW)
    await context.db.write(store.raise_warning, 0, "m", "", (2, 1), NOW)
    await context.db.write(profiles.delete_profile, "default", "p")
    assert [one.entity_url for one in await context.db.read(store.list_warnings)] == ["/1.0/profiles/default"]


async def test_problems_become_warnings(context: Context) -> None:
    recorder = Recorder(context)
    recorder.subscribe()
    await context.events.react(Problem("Network unavailable", "no bridge", "default", ("profile", 1)))
    found = await context.db.read(store.list_warnings)
    assert [(one.type_code, one.last_message, one.project) for one in found] == [(20, "no bridge", "default")]
    await context.events.react(ProblemSolved("Network unavailable", "default", ("profile", 1)))
    assert (await context.db.read(store.list_warnings))[0].status == RESOLVED
    await recorder.prune()
    assert len(await context.db.read(store.list_warnings)) == 1
