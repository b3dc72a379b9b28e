"""The edge: envelope, errors, projects, ETags, PATCH, recursion and filters, over a socket."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from corral.errors import Conflict
from corral.server.operations.registry import Operations
from corral.server.rest.dispatch import MAX_BODY
from corral.server.rest.request import Request
from corral.server.rest.routing import Routes

from .conftest import Server, start_server, stop_server

ENVELOPE = {"type", "status", "status_code", "operation", "error_code", "error", "metadata"}

extra = Routes("/1.0/extra")


@extra.get("/fault")
async def fault(request: Request) -> None:
    raise RuntimeError("secret detail")


@extra.get("/conflict")
async def conflict(request: Request) -> None:
    raise Conflict("It is taken")


@extra.post("/echo")
async def echo(request: Request, body: dict[str, Any]) -> dict[str, Any]:
    return {"body": body, "project": request.project, "requested": request.requested_project}


@extra.post("/work")
async def work(request: Request) -> Any:
    async def verb(context: Any) -> dict[str, int]:
        return {"answer": 42}

    return request.start("Working", verb)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    context, server = await start_server(tmp_path, extra)
    yield server
    await stop_server(context)


async def test_the_envelope_has_every_key(server: Server) -> None:
    for path in ("/", "/1.0", "/1.0/extra/conflict", "/1.0/nothing"):
        assert set((await server.ask("GET", path)).body) == ENVELOPE


async def test_errors(server: Server) -> None:
    answer = await server.ask("GET", "/1.0/extra/conflict")
    assert (answer.status, answer.body["error_code"], answer.error) == (409, 409, "It is taken")
    answer = await server.ask("GET", "/1.0/nothing")
    assert (answer.status, answer.error) == (404, "not found")
    answer = await server.ask("DELETE", "/1.0/extra/conflict")
    assert (answer.status, answer.error) == (501, "not implemented")
    assert (await server.ask("GET", "/1.0/profiles/%ff")).status == 400
    assert (await server.ask("GET", "/1.0/profiles/a%00b")).status == 400


async def test_a_fault_is_not_shown(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    answer = await server.ask("GET", "/1.0/extra/fault")
    assert answer.status == 500
    assert "Internal error" in answer.error
    assert "secret" not in answer.error
    assert "secret detail" in caplog.text


async def test_bodies_are_bounded(server: Server) -> None:
    answer = await server.ask("POST", "/1.0/extra/echo", b" " * (MAX_BODY + 1))
    assert answer.status == 413


async def test_null_is_an_empty_body(server: Server) -> None:
    answer = await server.ask("POST", "/1.0/extra/echo", b"null")
    assert answer.metadata["body"] == {}
    assert (await server.ask("GET", "/1.0", b"null")).status == 200


async def test_projects(server: Server) -> None:
    assert (await server.ask("POST", "/1.0/projects", {"name": "p"})).status == 201
    assert (await server.ask("POST", "/1.0/extra/echo?project=p", {})).metadata["project"] == "p"
    assert (await server.ask("POST", "/1.0/extra/echo?project=", {})).metadata["project"] == "default"
    answer = await server.ask("POST", "/1.0/extra/echo?project=none", {})
    assert (answer.status, answer.error) == (404, "Project not found")


async def test_a_project_without_the_feature_uses_the_default_one(server: Server) -> None:
    body = {"name": "p", "config": {"features.profiles": "false"}}
    assert (await server.ask("POST", "/1.0/projects", body)).status == 201
    listed = await server.ask("GET", "/1.0/profiles?project=p")
    assert listed.metadata == ["/1.0/profiles/default"]


async def test_etags(server: Server) -> None:
    tag = (await server.ask("GET", "/1.0/profiles/default")).headers["etag"]
    body = {"description": "new"}
    assert (await server.ask("PUT", "/1.0/profiles/default", body, If_Match='"wrong"')).status == 412
    assert (await server.ask("PUT", "/1.0/profiles/default", body, If_Match=tag)).status == 200
    assert (await server.ask("PUT", "/1.0/profiles/default", body, If_Match=tag)).status == 412
    assert (await server.ask("PATCH", "/1.0/profiles/default", body, If_Match=tag)).status == 412
    assert (await server.ask("PATCH", "/1.0/profiles/default", {"config": {"user.a": "b"}})).status == 200
    shown = (await server.ask("GET", "/1.0/profiles/default")).metadata
    assert (shown["description"], shown["config"]) == ("new", {"user.a": "b"})


async def test_recursion_and_filter(server: Server) -> None:
    for name in ("a", "b"):
        await server.ask("POST", "/1.0/profiles", {"name": name, "description": name * 2})
    urls = (await server.ask("GET", "/1.0/profiles?filter=description%20eq%20aa")).metadata
    assert urls == ["/1.0/profiles/a"]
    full = (await server.ask("GET", "/1.0/profiles?recursion=1&filter=name%20ne%20default")).metadata
    assert [profile["name"] for profile in full] == ["a", "b"]
    assert (await server.ask("GET", "/1.0/profiles?filter=name")).status == 400


async def test_operations(server: Server) -> None:
    await server.ask("POST", "/1.0/projects", {"name": "p"})
    answer = await server.ask("POST", "/1.0/extra/work?project=p", {})
    assert answer.status == 202
    assert answer.headers["location"] == answer.body["operation"]
    assert "?" not in answer.body["operation"]
    done = await server.ask("GET", answer.body["operation"] + "/wait?timeout=10")
    assert (done.metadata["status_code"], done.metadata["metadata"]) == (200, {"answer": 42})
    assert (await server.ask("DELETE", answer.body["operation"])).status == 400
    assert (await server.ask("GET", "/1.0/operations/none")).status == 404
    assert server.context.parts[Operations].running() == []


async def test_head_is_get_without_a_body(server: Server) -> None:
    reader, writer = await asyncio.open_unix_connection(server.socket)
    writer.write(b"HEAD /1.0/profiles HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    raw = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    head, _, body = raw.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert body == b""


async def test_large_headers_are_read(server: Server) -> None:
    assert (await server.ask("GET", "/1.0", None, X_Long="a" * 100_000)).status == 200


async def test_cross_origin_headers(server: Server) -> None:
    assert "access-control-allow-origin" not in (await server.ask("GET", "/1.0", Origin="https://x")).headers
    config = {
        "core.https_allowed_origin": "https://x",
        "core.https_allowed_methods": "GET",
        "core.https_allowed_headers": "X-A",
        "core.https_allowed_credentials": "true",
    }
    assert (await server.ask("PATCH", "/1.0", {"config": config})).status == 200
    for method in ("GET", "OPTIONS"):
        headers = (await server.ask(method, "/1.0/profiles", Origin="https://x")).headers
        assert headers["access-control-allow-origin"] == "https://x"
        assert headers["access-control-allow-methods"] == "GET"
        assert headers["access-control-allow-headers"] == "X-A"
        assert headers["access-control-allow-credentials"] == "true"
    assert "access-control-allow-origin" not in (await server.ask("GET", "/1.0")).headers


async def test_nothing_is_no_configuration(server: Server) -> None:
    await server.ask("PATCH", "/1.0", {"config": {"user.kept": "1"}})
    for method in ("PUT", "PATCH"):
        for body in (None, b"", b"null"):
            answer = await server.ask(method, "/1.0", body)
            assert (answer.status, answer.error) == (400, "Invalid request body: it is empty")
    assert (await server.ask("GET", "/1.0")).metadata["config"] == {"user.kept": "1"}


async def test_another_member_is_not_found(server: Server) -> None:
    for path in ("/1.0", "/1.0/profiles", "/1.0/storage-pools"):
        answer = await server.ask("GET", f"{path}?target=other")
        assert (answer.status, answer.error) == (404, "Cluster member not found")
        for own in ("none", "here", ""):
            assert (await server.ask("GET", f"{path}?target={own}")).status == 200


async def test_unsupported_methods(server: Server) -> None:
    assert (await server.ask("OPTIONS", "/1.0/profiles")).status == 200
    for method in ("PUT", "DELETE", "TRACE", "PROPFIND"):
        answer = await server.ask(method, "/1.0/profiles", {})
        assert (answer.status, answer.error) == (501, "not implemented")
