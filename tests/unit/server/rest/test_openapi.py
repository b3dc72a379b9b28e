"""The generated documents: complete, true, and what LXD 5.0 has."""

from pathlib import Path

import yaml

from corral.server.rest import openapi
from corral.server.rest.routes import metadata, table

REFERENCE = Path(__file__).parents[4] / "docs" / "reference"


def test_the_document_holds_every_route_and_no_loose_end() -> None:
    document = openapi.compose(table.ALL)
    listed = {(path, method.upper()) for path, methods in document["paths"].items() for method in methods}
    routes = [(r.pattern.replace("*}", "}"), r.method) for t in table.ALL for r in t.routes]
    assert {one for one in routes if not one[0].startswith("/internal")} <= listed
    assert not any(path.startswith("/internal") for path in document["paths"])
    assert ("/1.0/profiles/{name}", "PATCH") in listed
    text = yaml.dump(document)
    for reference in set(text.split("#/components/schemas/")[1:]):
        assert reference.split("'")[0].split("\n")[0].strip() in document["components"]["schemas"]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert operation["summary"], f"{method} {path} says nothing"


def test_everything_of_lxd_5_0_is_served_or_on_the_page() -> None:
    wanted = openapi.read_wanted(REFERENCE / "rest-api-5.0.txt")
    assert len(wanted) == len(set(wanted)) > 150
    page = (REFERENCE / "rest-api.md").read_text()
    served = {f"{route.method} {openapi.plain(route.pattern)}" for route in openapi.public_routes(table.ALL)}
    missing = [line for line in wanted if openapi.plain(line) not in served]
    assert [line for line in missing if f"| `{line}` | still to come |" not in page] == []
    for line in ("GET /1.0", "POST /1.0/instances", "GET /1.0/metrics", "PATCH /1.0/profiles/{name}"):
        assert f"| `{line}` | yes |" in page


def test_all_keys_are_described() -> None:
    configs = metadata.compose()["configs"]
    assert configs["server"]["core"]["keys"]
    names = [name for group in configs["instance"].values() for key in group["keys"] for name in key]
    assert "security.nesting" in names
    assert len(names) == len(set(names))
    for thing in configs.values():
        for group in thing.values():
            for key in group["keys"]:
                ((name, description),) = key.items()
                assert description["type"] in ("bool", "integer", "string"), name
