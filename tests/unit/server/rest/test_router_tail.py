"""Routes whose last parameter takes the rest of the path."""

from corral.server.rest.request import Request
from corral.server.rest.routing import Router, Routes

routes = Routes("/1.0/things")


@routes.get("")
async def list_things(request: Request) -> None: ...


@routes.get("/names")
async def list_names(request: Request) -> None: ...


@routes.get("/names/{name*}")
async def get_name(request: Request, name: str) -> None: ...


@routes.get("/{id}/part")
async def get_part(request: Request, id: str) -> None: ...


def arguments(path: str) -> dict[str, str] | None:
    found = Router([routes]).find(path.strip("/").split("/"))
    return found[1] if found is not None else None


def test_the_rest_of_the_path_is_one_argument() -> None:
    assert arguments("/1.0/things/names/a") == {"name": "a"}
    assert arguments("/1.0/things/names/a/b/c") == {"name": "a/b/c"}
    assert arguments("/1.0/things/names/a%2Fb") == {"name": "a%2Fb"}
    assert arguments("/1.0/things/names") == {}
    assert arguments("/1.0/things/x/part") == {"id": "x"}
    assert arguments("/1.0/things/x/other") is None
