"""The debug server: what it shows, to whom, and how it follows its address."""

import asyncio
import threading
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator

import pytest

from corral.server.background import Background
from corral.server.rest import debug

from .conftest import Server
from .test_network import free_port


@pytest.fixture
async def port(server: Server) -> AsyncIterator[int]:
    port = free_port()
    answer = await server.ask("PATCH", "/1.0", {"config": {"core.debug_address": f":{port}"}})
    assert answer.status == 200, answer.error
    yield port
    assert not debug._busy.locked()


def fetch(port: int, path: str, **headers: str) -> tuple[int, str]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=named)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


async def ask(port: int, path: str, **headers: str) -> tuple[int, str]:
    return await asyncio.to_thread(fetch, port, path, **headers)


async def test_the_index_names_the_pages(port: int) -> None:
    for path in ("/", "/debug", "/debug/", "/debug/pprof", "/debug/pprof/"):
        status, text = await ask(port, path)
        assert status == 200
        for name in ("tasks", "threads", "goroutine", "heap", "profile", "cmdline"):
            assert f"/debug/pprof/{name} " in text
    status, text = await ask(port, "/debug/pprof/nothing")
    assert status == 404
    assert "There is no page" in text


async def test_tasks_show_where_they_wait(server: Server, port: int) -> None:
    async def inner_wait() -> None:
        await asyncio.Event().wait()

    async def outer_wait() -> None:
        await inner_wait()

    server.context.parts[Background].start("a task to be seen", outer_wait())
    await asyncio.sleep(0)
    _, text = await ask(port, "/debug/pprof/tasks")
    shown = text.partition("a task to be seen")[2].partition("\n\n")[0]
    assert shown.index("outer_wait") < shown.index("inner_wait") < shown.index("Event.wait")
    _, both = await ask(port, "/debug/pprof/goroutine?debug=2")
    assert "inner_wait" in both
    assert "MainThread" in both


async def test_threads_and_memory(port: int) -> None:
    _, text = await ask(port, "/debug/pprof/threads")
    assert "MainThread" in text
    assert "debug.py" in text
    _, text = await ask(port, "/debug/pprof/heap")
    assert "VmRSS" in text
    assert "builtins.dict" in text
    _, text = await ask(port, "/debug/pprof/heap?seconds=0.2")
    assert "bytes were allocated and kept" in text


async def test_a_profile_shows_what_runs(port: int) -> None:
    end = threading.Event()

    def turn_in_circles() -> None:
        while not end.is_set():
            sum(range(100))
            time.sleep(0)

    thread = threading.Thread(target=turn_in_circles, name="busy")
    thread.start()
    try:
        (status, text), (second, why) = await asyncio.gather(
            ask(port, "/debug/pprof/profile?seconds=0.5"), ask(port, "/debug/pprof/profile?seconds=0.5")
        )
        assert {status, second} == {200, 409}
        stacks = text if status == 200 else why
        assert any(line.startswith("busy;") and "turn_in_circles" in line for line in stacks.splitlines())
        _, table = await ask(port, "/debug/pprof/profile?seconds=0.3&format=top")
        assert "turn_in_circles" in table
    finally:
        end.set()
        thread.join()
    for wrong in ("x", "-1", "0", "1e9", "nan"):
        status, _ = await ask(port, f"/debug/pprof/profile?seconds={wrong}")
        assert status == 400


async def test_pages_of_other_sites_are_refused(port: int) -> None:
    assert (await ask(port, "/debug/pprof/tasks", Origin="http://evil.example"))[0] == 400
    assert (await ask(port, "/debug/pprof/tasks", Sec_Fetch_Site="cross-site"))[0] == 400


async def test_it_follows_its_address_and_listens_on_loopback(
    server: Server, port: int, caplog: pytest.LogCaptureFixture
) -> None:
    debugging = server.networks[2]
    assert debugging._address == f"127.0.0.1:{port}"
    moved = free_port()
    await server.ask("PATCH", "/1.0", {"config": {"core.debug_address": f"127.0.0.1:{moved}"}})
    assert (await ask(moved, "/"))[0] == 200
    with pytest.raises(urllib.error.URLError):
        await ask(port, "/")
    assert "without a login" not in caplog.text
    await server.ask("PATCH", "/1.0", {"config": {"core.debug_address": f"0.0.0.0:{moved}"}})
    assert "without a login" in caplog.text
    answer = await server.ask("PATCH", "/1.0", {"config": {"core.debug_address": "192.0.2.1:1"}})
    assert answer.status == 400
    await server.ask("PATCH", "/1.0", {"config": {"core.debug_address": ""}})
    with pytest.raises(urllib.error.URLError):
        await ask(moved, "/")
