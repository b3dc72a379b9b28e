"""Route tables, the router, bodies and PATCH."""

import msgspec
import pytest

from corral.errors import InvalidRequest
from corral.server.rest.request import Request
from corral.server.rest.routing import Access, Router, Routes, decode_body, merge


class Body(msgspec.Struct, kw_only=True):
    name: str = ""
    config: dict[str, str] = {}
    size: int | None = None


routes = Routes("/1.0/things", access=Access.ADMIN)


@routes.get("", access=Access.ANYONE)
async def list_things(request: Request) -> None: ...


@routes.get("/special")
async def get_special(request: Request) -> None: ...


@routes.get("/{name}", put=Body)
async def get_thing(request: Request, name: str) -> None: ...


@routes.put("/{name}")
async def put_thing(request: Request, name: str, body: Body) -> None: ...


@routes.head("/{name}")
@routes.patch("/{name}")
@routes.delete("/{name}/parts/{part}")
@routes.post("/{name}/parts/{part}")
async def other(request: Request, name: str) -> None: ...


root = Routes("")


@root.get("/")
async def get_root(request: Request) -> None: ...


def test_the_router_finds_paths() -> None:
    router = Router([routes, root])
    found = router.find(["1.0", "things"])
    assert found is not None
    assert found[0]["GET"].handler is list_things
    assert found[0]["GET"].access is Access.ANYONE
    found = router.find(["1.0", "things", "x"])
    assert found is not None
    assert set(found[0]) == {"GET", "PUT", "HEAD", "PATCH"}
    assert found[1] == {"name": "x"}
    assert found[0]["PUT"].body is Body
    assert found[0]["PUT"].access is Access.ADMIN
    assert found[0]["PUT"].parameters == ("name",)
    assert router.find(["1.0", "things", "x", "parts", "y"]) is not None
    assert router.find([""]) is not None


def test_words_win_over_parameters() -> None:
    found = Router([routes]).find(["1.0", "things", "special"])
    assert found is not None
    assert found[0]["GET"].handler is get_special


@pytest.mark.parametrize("parts", [["1.0"], ["2.0"], ["1.0", "things", ""], ["1.0", "things", "x", "parts"], []])
def test_unknown_paths(parts: list[str]) -> None:
    assert Router([routes]).find(parts) is None


def test_a_route_is_declared_once() -> None:
    with pytest.raises(ValueError, match="declared twice"):
        Router([routes, routes])


def test_a_parameter_has_one_name() -> None:
    second = Routes("/1.0/things")

    @second.get("/{id}")
    async def clash(request: Request, id: str) -> None: ...

    with pytest.raises(ValueError, match="the parameter is name elsewhere"):
        Router([routes, second])


def test_bodies() -> None:
    assert decode_body(b"", Body) == Body()
    assert decode_body(b'{"name": "a", "unknown": 1}', Body) == Body(name="a")
    assert decode_body(b'{"config": null, "size": null}', Body) == Body()
    assert decode_body(b'{"config": {"a": null, "b": "c"}}', Body) == Body(config={"b": "c"})


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b'{"name": 1}', r"\$\.name"),
        (b'{"config": {"a": 1}}', r"\$\.config"),
        (b'{"config": null, "name": [null]}', r"\$\.name"),
        (b"[]", "object"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
    ],
)
def test_bad_bodies_name_the_field(data: bytes, problem: str) -> None:
    with pytest.raises(InvalidRequest, match=f"Invalid request body: .*{problem}"):
        decode_body(data, Body)


def test_patch_merges_maps() -> None:
    present = {"name": "a", "config": {"x": "1", "y": "2"}}
    assert merge(present, b'{"config": {"y": "3"}, "name": null}') == {"name": "a", "config": {"x": "1", "y": "3"}}
    assert merge(present, b'{"name": "b", "new": 1}') == {"name": "b", "config": {"x": "1", "y": "2"}, "new": 1}
    assert merge(present, b"") == present
    with pytest.raises(InvalidRequest):
        merge(present, b"[]")
