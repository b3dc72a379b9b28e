"""SQL of images and aliases on a database in memory."""

import dataclasses
from collections.abc import AsyncIterator

import pytest

from corral.errors import AlreadyExists, Conflict, InvalidRequest, NotFound
from corral.server.db import schema
from corral.server.db.database import Database, Tx
from corral.server.images import alias_store, store
from corral.server.images.create import check_alias_name, compose_image, parse_expiry
from corral.server.images.formats import ImageMetadata
from corral.server.images.model import NEVER, Image, Wanted
from corral.server.images.unpack import Inspection

FIRST, SECOND = "ab" * 32, "ac" * 32


def image(fingerprint: str = FIRST, **changes: object) -> Image:
    inspection = Inspection(ImageMetadata("amd64", 1700000000, properties={"os": "Debian"}), "container", 10, 1)
    return dataclasses.replace(compose_image("default", fingerprint, 5, inspection, Wanted()), **changes)  # type: ignore[arg-type]


@pytest.fixture
async def db() -> AsyncIterator[Database]:
    database = Database(":memory:")
    await database.open(schema.cluster)
    yield database
    await database.close()


async def test_an_image_is_found_by_prefix_and_by_alias(db: Database) -> None:
    def work(tx: Tx) -> None:
        store.insert_image(tx, image(aliases=[("debian/12", "d")], public=True))
        store.insert_image(tx, image(SECOND))
        found = store.get_image(tx, "default", "ab")
        assert (found.fingerprint, found.aliases, found.profiles) == (FIRST, [("debian/12", "d")], ["default"])
        assert (found.architecture, found.expires_at, found.properties) == ("x86_64", NEVER, {"os": "Debian"})
        assert store.resolve_image(tx, "default", "debian/12").fingerprint == FIRST
        assert store.resolve_image(tx, "default", SECOND[:4]).fingerprint == SECOND
        assert [one.fingerprint for one in store.list_images(tx, "default", public_only=True)] == [FIRST]
        assert store.list_fingerprints(tx) == {FIRST, SECOND}
        with pytest.raises(Conflict, match="More than one image matches"):
            store.get_image(tx, "default", "a")

    await db.write(work)


@pytest.mark.parametrize("name", ["", "%", "_b", "zz", "ab%", "AB", "a" * 65])
async def test_what_is_no_beginning_of_a_fingerprint_finds_nothing(db: Database, name: str) -> None:
    await db.write(store.insert_image, image())
    with pytest.raises(NotFound, match="Image not found"):
        await db.read(store.get_image, "default", name)


async def test_names_are_taken_once(db: Database) -> None:
    await db.write(store.insert_image, image(aliases=[("a", "")]))
    with pytest.raises(AlreadyExists, match="Image with same fingerprint already exists"):
        await db.write(store.insert_image, image())
    with pytest.raises(AlreadyExists, match='Alias "a" already exists'):
        await db.write(store.insert_image, image(SECOND, aliases=[("a", "")]))
    assert await db.read(store.find_image, "default", SECOND) is None
    with pytest.raises(AlreadyExists, match="Alias already exists: a"):
        await db.read(alias_store.check_free, "default", ["b", "a"])


async def test_changes_are_stored(db: Database) -> None:
    def work(tx: Tx) -> None:
        store.insert_image(tx, image(aliases=[("a", "")]))
        before = store.get_image(tx, "default", FIRST)
        store.update_image(tx, dataclasses.replace(before, public=True, properties={"x": "", "y": "1"}, profiles=[]))
        store.touch_image(tx, before.id)
        after = store.get_image(tx, "default", FIRST)
        assert (after.public, after.properties, after.profiles) == (True, {"y": "1"}, [])
        assert after.last_used_at
        with pytest.raises(InvalidRequest, match="Profile 'nope' doesn't exist"):
            store.update_image(tx, dataclasses.replace(before, profiles=["nope"]))

    await db.write(work)


async def test_aliases_follow_their_image(db: Database) -> None:
    def work(tx: Tx) -> None:
        first = store.insert_image(tx, image(aliases=[("a", "one")]))
        second = store.insert_image(tx, image(SECOND))
        alias_store.insert_alias(tx, "default", "b", second, "two")
        alias_store.update_alias(tx, "default", "a", second, "moved")
        alias_store.rename_alias(tx, "default", "a", "c")
        assert [(one.name, one.description, one.target) for one in alias_store.list_aliases(tx, "default")] == [
            ("b", "two", SECOND),
            ("c", "moved", SECOND),
        ]
        assert alias_store.find_alias(tx, "default", "b", public_only=True) is None
        with pytest.raises(AlreadyExists):
            alias_store.rename_alias(tx, "default", "b", "c")
        alias_store.delete_alias(tx, "default", "b")
        store.delete_image(tx, second)
        assert alias_store.list_aliases(tx, "default") == []
        assert store.count_projects(tx, FIRST) == 1
        store.delete_image(tx, first)
        with pytest.raises(NotFound, match="Image alias not found"):
            alias_store.get_alias(tx, "default", "c")

    await db.write(work)


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("", ""),
        ("0001-01-01T00:00:00Z", ""),
        ("2030-01-02T03:04:05Z", "2030-01-02T03:04:05Z"),
        ("2030-01-02T03:04:05.123456789+02:00", "2030-01-02T01:04:05.123456Z"),
    ],
)
def test_dates_of_clients(text: str, result: str) -> None:
    assert parse_expiry(text) == result


@pytest.mark.parametrize("text", ["soon", "2030-01-02T03:04:05"])
def test_what_is_no_date(text: str) -> None:
    with pytest.raises(InvalidRequest, match="Invalid expires_at"):
        parse_expiry(text)


def test_names_of_aliases() -> None:
    check_alias_name("debian/12")
    for name in ("", "-x", "a\nb", "x" * 256):
        with pytest.raises(InvalidRequest, match="Invalid alias name"):
            check_alias_name(name)
