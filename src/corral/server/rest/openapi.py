"""The OpenAPI document of the routes: paths and methods from the tables, bodies and answers from the signatures.

`python -m corral.server.rest.openapi DIRECTORY` writes openapi.yaml and the table of what LXD 5.0 has.
"""

import inspect
import re
import sys
import types
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec
import yaml

from corral.api.operations import Operation as WireOperation
from corral.server.operations.model import Operation
from corral.server.rest.responses import Created, Listing, WithEtag
from corral.server.rest.routing import Access, Route, Routes

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_REF = "#/components/schemas/{name}"
_LIST_PARAMETERS = ("project", "all-projects", "recursion", "filter")


def public_routes(tables: Iterable[Routes]) -> list[Route]:
    """All routes of the public API, with the PATCH that a PUT brings along, by path and method."""
    routes = [route for table in tables for route in table.routes if not route.pattern.startswith("/internal")]
    known = {(route.pattern, route.method) for route in routes}
    editable = {route.pattern for route in routes if route.method == "GET" and route.put is not None}
    derived = [
        Route("PATCH", route.pattern, route.handler, route.access, route.feature, route.body, None, route.parameters)
        for route in routes
        if route.method == "PUT" and route.pattern in editable and (route.pattern, "PATCH") not in known
    ]
    return sorted(routes + derived, key=lambda one: (one.pattern, METHODS.index(one.method)))


def compose(tables: Iterable[Routes]) -> dict[str, Any]:
    """The OpenAPI document of the public API."""
    routes = public_routes(tables)
    kinds: dict[str, Any] = {}
    for kind in (WireOperation, *(kind for route in routes for kind in _structs(route))):
        kinds.setdefault(f"{kind.__module__}.{kind.__qualname__}", kind)
    ordered = [kinds[name] for name in sorted(kinds)]
    schemas, components = msgspec.json.schema_components(ordered, ref_template=_REF)
    found = dict(zip(ordered, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(_path(route), {})[route.method.lower()] = _operation(route, found)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Corral's REST API", "version": "1.0", "description": "The API of LXD 5.0."},
        "paths": paths,
        "components": {"schemas": dict(sorted(components.items()))},
    }


def _path(route: Route) -> str:
    return route.pattern.replace("*}", "}")


def _structs(route: Route) -> Iterator[Any]:
    for kind in (route.body, *(kind for kind, _ in _answers(route))):
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            yield kind


def _answers(route: Route) -> Iterator[tuple[Any, bool]]:
    """The types that a handler answers with, and whether it is a list of them."""
    pending = [get_type_hints(route.handler).get("return")]
    while pending:
        kind = pending.pop(0)
        origin = get_origin(kind)
        if origin in (Union, types.UnionType) or origin is WithEtag:
            pending += get_args(kind)
        elif origin is Listing:
            yield get_args(kind)[0], True
        else:
            yield kind, False


def _operation(route: Route, found: dict[Any, Any]) -> dict[str, Any]:
    summary = (inspect.getdoc(route.handler) or "").split("\n\n")[0].replace("\n", " ")
    if route.method == "PATCH" and summary.startswith("Replace "):
        summary = "Change some of" + summary.removeprefix("Replace")
    operation: dict[str, Any] = {"summary": summary, "tags": [_tag(route)]}
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\*?\}", route.pattern)
    ]
    listed = any(is_list for _, is_list in _answers(route))
    names = _LIST_PARAMETERS if listed else ("project",)
    parameters += [{"name": name, "in": "query", "schema": {"type": "string"}} for name in names]
    operation["parameters"] = parameters
    if route.body is not None:
        operation["requestBody"] = {"content": {"application/json": {"schema": found.get(route.body, {})}}}
    operation["responses"] = {**_responses(route, found), "default": {"description": "An error"}}
    if route.access is Access.ANYONE:
        operation["x-access"] = "anyone"
    return operation


def _tag(route: Route) -> str:
    words = route.pattern.strip("/").split("/")
    return words[1] if len(words) > 1 else "server"


def _responses(route: Route, found: dict[Any, Any]) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    for kind, is_list in _answers(route):
        if kind is Operation:
            schema = found[WireOperation]
            answers["202"] = {"description": "An operation", **_envelope("async", schema)}
        elif kind is Created:
            answers["201"] = {"description": "Created", **_envelope("sync", {})}
        elif kind in (None, type(None)):
            answers["200"] = {"description": "Done", **_envelope("sync", {"type": "object"})}
        elif kind in found:
            schema = found[kind]
            schema = {"type": "array", "items": {"anyOf": [{"type": "string"}, schema]}} if is_list else schema
            answers.setdefault("200", {"description": "Success", **_envelope("sync", schema)})
        else:
            answers.setdefault("200", {"description": "Success"})
    return dict(sorted(answers.items()))


def _envelope(kind: str, schema: dict[str, Any]) -> dict[str, Any]:
    properties = {"type": {"const": kind}, "metadata": schema}
    return {"content": {"application/json": {"schema": {"type": "object", "properties": properties}}}}


def plain(pattern: str) -> str:
    """A path with nameless parameters, to compare it with another's."""
    return re.sub(r"\{[^}]*\}", "{}", pattern)


def coverage(tables: Iterable[Routes], wanted: Sequence[str]) -> str:
    """A page that says of each `METHOD /path` whether it is served."""
    served = {f"{route.method} {plain(route.pattern)}" for route in public_routes(tables)}
    rows = [(line, plain(line) in served) for line in wanted]
    done = sum(is_served for _, is_served in rows)
    table = [f"| `{line}` | {'yes' if is_served else 'still to come'} |" for line, is_served in rows]
    return "\n".join(
        [
            "# The REST API of LXD 5.0",
            "",
            f"{done} of {len(rows)} methods are served. Written by `scripts/openapi`; the details of what is served"
            " are in [openapi.yaml](openapi.yaml).",
            "",
            "| Method and path | Served |",
            "|---|---|",
            *table,
            "",
        ]
    )


def read_wanted(path: Path) -> list[str]:
    """The `METHOD /path` lines of a file."""
    return [line for line in path.read_text().splitlines() if line and not line.startswith("#")]


def main(directory: Path) -> None:
    """Write both documents."""
    from corral.server.rest.routes import table

    document = yaml.dump(compose(table.ALL), sort_keys=False, width=120)
    (directory / "openapi.yaml").write_text("# Written by scripts/openapi from the routes. Do not edit.\n" + document)
    wanted = read_wanted(directory / "rest-api-5.0.txt")
    (directory / "rest-api.md").write_text(coverage(table.ALL, wanted))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
