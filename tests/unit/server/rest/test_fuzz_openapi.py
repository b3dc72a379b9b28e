"""Requests made from our own OpenAPI document: no answer is a fault of the server, nothing is left running."""

import asyncio
import json
import os
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corral.server.operations.registry import Operations
from corral.server.rest import openapi
from corral.server.rest.routes import table

from .conftest import Server

LATER = ("/1.0/events", "/1.0/operations", "/1.0/resources", "/1.0/metrics")
"""What waits for something, or looks at the whole host."""

HOST = ("/1.0/instances", "/1.0/networks", "/1.0/storage-pools", "/1.0/images")
"""What would change this machine: only asked about things that do not exist."""

DOCUMENT = openapi.compose(table.ALL)
CALLS = [
    (method.upper(), path, operation)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
    if method != "head"
    and not path.startswith(LATER)
    and not (path.startswith(HOST) and "{" not in path and method == "post")
]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NAME = st.one_of(st.sampled_from(["default", "missing", ".", "..", "a/b", "%2e%2e", "x" * 300]), TEXT.filter(bool))


def value_for(schema: dict[str, Any], depth: int = 0) -> st.SearchStrategy[Any]:
    """Values as a schema wants them, as far as it is simple, and now and then others."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        schema = DOCUMENT["components"]["schemas"][name]
    if depth > 3:
        return st.none()
    if "anyOf" in schema:
        return st.one_of(*(value_for(one, depth + 1) for one in schema["anyOf"]))
    match schema.get("type"):
        case "string":
            return TEXT
        case "boolean":
            return st.booleans()
        case "integer":
            return st.integers(-(2**65), 2**65)
        case "array":
            return st.lists(value_for(schema.get("items", {}), depth + 1), max_size=3)
        case "object" if "properties" in schema:
            fields = {name: value_for(one, depth + 1) for name, one in schema["properties"].items()}
            return st.fixed_dictionaries({}, optional=fields)
        case "object":
            return st.dictionaries(TEXT, value_for(schema.get("additionalProperties", {}), depth + 1), max_size=3)
    return st.one_of(st.none(), TEXT, st.integers(), st.booleans())


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, str, bytes]:
    method, path, operation = draw(st.sampled_from(CALLS))
    query = []
    for parameter in operation["parameters"]:
        if parameter["in"] == "path":
            path = path.replace("{" + parameter["name"] + "}", quote(draw(NAME), safe=""))
        elif draw(st.integers(0, 4)) == 0:
            query.append(f"{parameter['name']}={quote(draw(TEXT))}")
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    body = b""
    if content:
        strange = draw(st.integers(0, 4)) == 0
        value = draw(st.one_of(TEXT, st.lists(st.none(), max_size=2)) if strange else value_for(content["schema"]))
        body = json.dumps(value).encode()
    return method, path + ("?" + "&".join(query) if query else ""), body


async def test_no_request_of_the_document_is_answered_with_a_fault(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    loop = asyncio.get_running_loop()
    seen: list[tuple[str, str, bytes]] = []

    @settings(max_examples=250, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(requests())
    def collect(request: tuple[str, str, bytes]) -> None:
        seen.append(request)

    await loop.run_in_executor(None, collect)
    tasks, descriptors = len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd"))
    for method, path, body in seen:
        answer = await server.ask(method, path, body)
        assert answer.status < 500 or answer.status in (501, 503), (method, path, body, answer.body)
    assert server.context.parts[Operations].running() == []
    for _ in range(200):
        left = len(asyncio.all_tasks()) - tasks, len(os.listdir("/proc/self/fd")) - descriptors
        if left <= (1, 2):
            break
        await asyncio.sleep(0.05)
    assert left[0] <= 1
    assert left[1] <= 2
    assert "Traceback" not in caplog.text


def test_every_route_is_asked() -> None:
    """A new route is fuzzed without being named here; what is left out is listed above."""
    asked = {(method, path) for method, path, _ in CALLS}
    paths = {path for path in DOCUMENT["paths"] if not path.startswith(LATER)}
    assert {path for _, path in asked} == paths
