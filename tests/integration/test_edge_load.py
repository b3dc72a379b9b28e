"""The edge under strain (slow clients, idle websockets, many requests, huge headers): others are answered."""

import asyncio
import contextlib
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import programs
from harness.daemon import Daemon
from harness.waiting import soon, until


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    found = Daemon(programs.ours(tmp_path_factory.mktemp("programs")), isolated=True)
    try:
        found.start()
        yield found
    finally:
        found.remove()


def descriptors(daemon: Daemon) -> int:
    return len(os.listdir(f"/proc/{daemon.pid}/fd"))


@pytest.fixture(autouse=True)
def nothing_left(daemon: Daemon) -> Iterator[None]:
    """No descriptor and no traceback stays behind."""
    before, offset = descriptors(daemon), daemon.log_size()
    yield
    until(lambda: descriptors(daemon) <= before + 5, "the daemon lets go of its connections", 30)
    assert "Traceback" not in daemon.log_since(offset)


def path_of(daemon: Daemon) -> str:
    return str(daemon.state_dir / "unix.socket")


def assert_answers(daemon: Daemon) -> None:
    with soon("another client is answered"), daemon.api() as api:
        assert api.get("/1.0")["api_version"] == "1.0"


async def test_slow_and_half_open_clients(daemon: Daemon) -> None:
    path = path_of(daemon)
    slow = [await asyncio.open_unix_connection(path) for _ in range(200)]
    for index, (_, writer) in enumerate(slow):
        started = (b"", b"GET /1.0 HT", b"POST /1.0/profiles HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        writer.write(started[index % 3])
        if index % 2:
            writer.write_eof()
    await asyncio.to_thread(assert_answers, daemon)
    for _, writer in slow:
        writer.close()


async def test_a_client_that_does_not_read(daemon: Daemon) -> None:
    deaf = [await asyncio.open_unix_connection(path_of(daemon)) for _ in range(20)]
    for _, writer in deaf:
        writer.write(b"GET /1.0 HTTP/1.1\r\nHost: x\r\n\r\n" * 500)
    await asyncio.to_thread(assert_answers, daemon)
    for _, writer in deaf:
        writer.transport.abort()


async def test_idle_websockets(daemon: Daemon) -> None:
    path = path_of(daemon)
    opened = []
    for _ in range(500):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(
            b"GET /1.0/events HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        opened.append((reader, writer))
    for reader, _ in opened:
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
        assert head.startswith(b"HTTP/1.1 101")
    await asyncio.to_thread(assert_answers, daemon)
    with daemon.api() as api:
        api.call("POST", "/1.0/profiles", {"name": "heard"})
        api.call("DELETE", "/1.0/profiles/heard")
    for reader, _ in opened[:5]:
        assert b"profile-created" in await asyncio.wait_for(reader.readuntil(b"profile-created"), 20)
    for _, writer in opened:
        writer.transport.abort()


async def test_huge_headers_and_nonsense_are_refused(daemon: Daemon) -> None:
    for data in (
        b"GET /1.0 HTTP/1.1\r\nHost: x\r\nX-Big: " + b"a" * 1_000_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01" * 1000 + b"\r\n\r\n",
        b"GET /1.0 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"GET /1.0 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
    ):
        reader, writer = await asyncio.open_unix_connection(path_of(daemon))
        with contextlib.suppress(ConnectionError):
            writer.write(data)
            await writer.drain()
            head = await asyncio.wait_for(reader.read(100), 20)
            assert not head or b" 4" in head.split(b"\r\n")[0], head
        writer.transport.abort()
    await asyncio.to_thread(assert_answers, daemon)


def processor_time(daemon: Daemon) -> float:
    """How many seconds the daemon has worked; what it waited for others on a busy machine does not count."""
    fields = Path(f"/proc/{daemon.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_ten_thousand_requests_a_minute(daemon: Daemon) -> None:
    """Those of five seconds from eight connections take less time of a processor than that; others are answered."""
    statuses: list[int] = []

    def work(share: int) -> None:
        with daemon.api() as api:
            for number in range(share):
                status, _, content = api.raw("GET", f"/1.0/profiles?recursion=1&x={number}")
                json.loads(content)
                statuses.append(status)

    before_s = processor_time(daemon)
    threads = [threading.Thread(target=work, args=(105,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert_answers(daemon)
    for thread in threads:
        thread.join()
    assert statuses == [200] * 840
    assert processor_time(daemon) - before_s < 5


def test_uploads_that_break_off_leave_nothing(daemon: Daemon) -> None:
    images, backups = Path(daemon.state_dir, "images"), Path(daemon.state_dir, "backups")
    before = sorted(images.iterdir()), sorted(backups.iterdir())

    async def break_off(target: str) -> None:
        _, writer = await asyncio.open_unix_connection(path_of(daemon))
        writer.write(
            f"POST {target} HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\n"
            "Content-Length: 100000000\r\n\r\n".encode()
            + b"x" * 5_000_000
        )
        await writer.drain()
        writer.transport.abort()

    for target in ("/1.0/images", "/1.0/instances"):
        asyncio.run(break_off(target))
    until(lambda: (sorted(images.iterdir()), sorted(backups.iterdir())) == before, "the uploads are forgotten", 20)
