"""The configuration of a server: stored in its place, and not stored where a reaction refuses."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from corral.errors import Conflict, InvalidRequest, NotSupported
from corral.product import LXD
from corral.server.auth import password
from corral.server.context import Context, Member
from corral.server.db import schema
from corral.server.db.database import Database, LocalDatabase
from corral.server.events.bus import Events
from corral.server.locks import Locks
from corral.server.settings import keys, store
from corral.server.settings.settings import Settings, SettingsChanged


@pytest.fixture
async def context(tmp_path: Path) -> AsyncIterator[Context]:
    member = Member(LXD, "here", tmp_path, tmp_path / "logs", tmp_path / "cache")
    made = Context(Database(":memory:"), Events(), Locks(), member)
    local = made.parts.add(LocalDatabase(":memory:"))
    made.parts.add(Settings())
    await made.db.open(schema.cluster)
    await local.open(schema.local)
    yield made
    await local.close()
    await made.db.close()


async def test_keys_are_stored_by_scope(context: Context) -> None:
    settings = context.parts[Settings]
    await settings.replace(context, {"core.https_address": ":1", "core.proxy_http": "p", "user.x": "y"})
    assert await context.parts[LocalDatabase].read(store.read_config) == {"core.https_address": ":1"}
    assert await context.db.read(store.read_config) == {"core.proxy_http": "p", "user.x": "y"}
    again = Settings()
    await again.load(context)
    assert again.config[keys.HTTPS_ADDRESS] == ":1"
    assert again.shown() == settings.shown()
    await settings.replace(context, {})
    assert await context.parts[LocalDatabase].read(store.read_config) == {}
    assert await context.db.read(store.read_config) == {}


async def test_the_password_is_hashed_once(context: Context) -> None:
    settings = context.parts[Settings]
    await settings.replace(context, {"core.trust_password": "secret"})
    stored = settings.config["core.trust_password"]
    assert "secret" not in stored
    assert password.matches(stored, "secret")
    assert settings.shown() == {"core.trust_password": True}
    await settings.replace(context, {"core.trust_password": True, "user.x": "y"})
    assert settings.config["core.trust_password"] == stored


async def test_a_reaction_that_raises_refuses_the_change(context: Context) -> None:
    settings = context.parts[Settings]
    seen: list[dict[str, str]] = []

    async def follow(event: SettingsChanged) -> None:
        seen.append(dict(event.changed))

    async def refuse(event: SettingsChanged) -> None:
        if event.changed.get("user.x") == "bad":
            raise Conflict("no")

    context.events.on(SettingsChanged, follow)
    context.events.on(SettingsChanged, refuse)
    await settings.replace(context, {"user.x": "good"})
    with pytest.raises(Conflict):
        await settings.replace(context, {"user.x": "bad"})
    # Who has followed is told the way back.
    assert seen == [{"user.x": "good"}, {"user.x": "bad"}, {"user.x": "good"}]
    assert settings.shown() == {"user.x": "good"}
    assert await context.db.read(store.read_config) == {"user.x": "good"}


async def test_what_excludes_each_other(context: Context) -> None:
    with pytest.raises(InvalidRequest, match="mutually exclusive"):
        await context.parts[Settings].replace(context, {"candid.api.url": "a", "rbac.api.url": "b"})


async def test_what_has_no_effect_is_refused(context: Context) -> None:
    for name, text in (("core.dns_address", ":53"), ("core.bgp_address", ":179")):
        with pytest.raises(NotSupported, match="this server does not have"):
            await context.parts[Settings].replace(context, {name: text})
    assert set(keys.NOT_SERVED) <= {key.name for key in keys.TABLE}


async def test_an_event_tells_of_a_change_only(context: Context) -> None:
    listener = context.events.listen(frozenset({"lifecycle"}), None)
    await context.parts[Settings].replace(context, {})
    await context.parts[Settings].replace(context, {"user.x": "y"})
    assert listener.queue.qsize() == 1
