"""Answers that are kept: never older than the last write that was acknowledged, and never another caller's."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from corral.server.db.database import Tx
from corral.server.instances.running import Running
from corral.server.rest import kept
from corral.server.rest.kept import Kept
from corral.server.rest.request import Request
from corral.server.rest.responses import PIECE, WithEtag
from corral.server.rest.routing import Routes

from .conftest import Server, start_server, stop_server
from .test_network import listen, trust

extra = Routes("/1.0/extra")


@extra.get("/long")
async def long(request: Request) -> list[str]:
    return ["x" * 1000] * (3 * PIECE // 1000)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    context, server = await start_server(tmp_path, extra)
    context.parts.add(Running())
    yield server
    await stop_server(context)


async def make(value: Any) -> WithEtag[Any]:
    return WithEtag(value, value)


async def test_an_answer_is_made_again_when_its_state_is_another() -> None:
    answers = Kept()
    first = await answers.answer("q", 1, lambda: make({"a": 1}))
    assert await answers.answer("q", 1, lambda: make({"a": 2})) is first
    assert (await answers.answer("q", 2, lambda: make({"a": 3}))).value == {"a": 3}
    assert (await answers.answer("other", 2, lambda: make({"a": 4}))).value == {"a": 4}


async def test_few_answers_are_kept() -> None:
    answers = Kept()
    for number in range(3 * kept.MOST):
        await answers.answer(number, 1, lambda: make({}))
    assert len(answers._answers) == kept.MOST


async def test_a_state_that_changed_meanwhile_is_not_taken_for_the_new_one() -> None:
    answers, state = Kept(), [1]

    async def slow() -> WithEtag[int]:
        value = state[0]
        state[0] = 2
        await asyncio.sleep(0)
        return WithEtag(value, value)

    await answers.answer("q", state[0], slow)
    assert (await answers.answer("q", state[0], lambda: make(state[0]))).value == 2


async def test_the_server_shows_what_was_written_before(server: Server) -> None:
    first = await server.ask("GET", "/1.0")
    assert first.metadata["environment"]["storage"] == ""
    await server.ask("PATCH", "/1.0", {"config": {"user.a": "b"}})
    second = await server.ask("GET", "/1.0")
    assert second.metadata["config"] == {"user.a": "b"}
    assert second.headers["etag"] != first.headers["etag"]
    statement = "INSERT INTO storage_pools (name, driver) VALUES ('p', 'dir')"
    await server.ask("POST", "/internal/sql", {"database": "global", "query": statement})
    assert (await server.ask("GET", "/1.0")).metadata["environment"]["storage"] == "dir"
    assert (await server.ask("PUT", "/1.0", {"config": {}}, If_Match=first.headers["etag"])).status == 412
    assert (await server.ask("PUT", "/1.0", {"config": {}}, If_Match=second.headers["etag"])).status == 200
    third = await server.ask("GET", "/1.0")
    assert third.metadata["config"] == {}
    assert third.headers["etag"] == first.headers["etag"]


async def test_each_caller_gets_its_own_answer(server: Server, client_certificate: Callable[[str], Path]) -> None:
    port = await listen(server)
    await server.ask("PATCH", "/1.0", {"config": {"user.a": "b"}})
    stranger, restricted = client_certificate("stranger"), client_certificate("restricted")
    fingerprint = await trust(server, restricted, restricted=True, projects=["default"])
    for _ in range(2):
        assert (await server.ask("GET", "/1.0")).metadata["config"]["user.a"] == "b"
        shown = (await server.ask_tls(port, "GET", "/1.0", cert=restricted)).metadata
        assert (shown["config"], shown["auth_user_name"]) == ({}, fingerprint)
        shown = (await server.ask_tls(port, "GET", "/1.0", cert=stranger)).metadata
        assert shown["auth"] == "untrusted"
        assert "environment" not in shown
    await server.ask("POST", "/1.0/projects", {"name": "blue"})
    assert (await server.ask("GET", "/1.0?project=blue")).metadata["environment"]["project"] == "blue"
    assert (await server.ask("GET", "/1.0")).metadata["environment"]["project"] == "default"


async def test_lists_show_what_an_administrator_typed(server: Server) -> None:
    def add(tx: Tx) -> None:
        tx.execute(
            "INSERT INTO instances (node_id, name, architecture, type, creation_date, project_id)"
            " VALUES (1, 'c1', 2, 0, '2026-01-01T00:00:00Z', 1)"
        )

    await server.context.db.write(add)
    assert (await server.ask("GET", "/1.0/instances?recursion=1")).metadata[0]["description"] == ""
    first = await server.ask("GET", "/1.0/instances/c1")
    statement = "UPDATE instances SET description = 'typed'"
    await server.ask("POST", "/internal/sql", {"database": "global", "query": statement})
    assert (await server.ask("GET", "/1.0/instances?recursion=1")).metadata[0]["description"] == "typed"
    second = await server.ask("GET", "/1.0/instances/c1")
    assert second.metadata["description"] == "typed"
    assert second.headers["etag"] != first.headers["etag"]


async def test_a_long_answer_is_whole(server: Server) -> None:
    answer = await server.ask("GET", "/1.0/extra/long")
    assert answer.metadata == await long(None)  # type: ignore[arg-type]
    assert int(answer.headers["content-length"]) > 3 * PIECE


async def test_head_of_a_long_answer_has_no_body(server: Server) -> None:
    reader, writer = await asyncio.open_unix_connection(server.socket)
    writer.write(b"HEAD /1.0/extra/long HTTP/1.1\r\nHost: lxd\r\nConnection: close\r\n\r\n")
    raw = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    assert raw.startswith(b"HTTP/1.1 200")
    assert raw.endswith(b"\r\n\r\n")
    assert raw.count(b"\r\n\r\n") == 1
