"""What ends with the trust in a client, and what guesses at passwords and tokens come to."""

import asyncio
import base64
import contextlib
import json
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import WSMsgType, web

from corral.server.auth import password
from corral.server.auth.guesses import ALLOWED, Guesses
from corral.server.operations.model import Operation
from corral.server.operations.registry import Operations
from corral.server.rest import websocket
from corral.server.rest.request import Request
from corral.server.rest.routing import Routes

from .conftest import Server, start_server, stop_server
from .test_network import listen, trust

Make = Callable[[str], Path]

extra = Routes("/1.0/extra")


@extra.post("/session")
async def open_session(request: Request) -> Operation:
    async def connect(descriptor: str, raw: Any) -> web.StreamResponse:
        socket = await websocket.accept(raw)
        async for message in socket:
            if message.type in (WSMsgType.CLOSE, WSMsgType.ERROR):
                break
        return socket

    async def work() -> None:
        await asyncio.Event().wait()

    return request.open_sockets("Session", {}, {"0": "a-secret"}, connect, work)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    context, server = await start_server(tmp_path, extra)
    yield server
    await stop_server(context)


async def upgrade(port: int, path: str, certificate: Path | None = None) -> tuple[str, Callable[[], Awaitable[None]]]:
    """The first line of the answer to a websocket request over TLS, and what waits for the connection's end."""
    tls = ssl.create_default_context()
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    if certificate is not None:
        tls.load_cert_chain(certificate)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
    writer.write(
        f"GET {path} HTTP/1.1\r\nHost: x\r\nSec-WebSocket-Key: {'A' * 22}==\r\n"
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    first = (await asyncio.wait_for(reader.readline(), 10)).decode()
    if " 101 " not in first:
        writer.transport.abort()

    async def ended() -> None:
        try:
            async with asyncio.timeout(10):
                with contextlib.suppress(ConnectionError):
                    while await reader.read(4096):
                        pass
        finally:
            writer.transport.abort()

    return first, ended


@pytest.mark.parametrize("change", ["removed", "restricted"])
async def test_what_others_opened_with_a_clients_secret_ends_with_its_trust(
    server: Server, client_certificate: Make, change: str
) -> None:
    port = await listen(server)
    certificate = client_certificate("owner")
    fingerprint = await trust(server, certificate)
    started = await server.ask_tls(port, "POST", "/1.0/extra/session", cert=certificate)
    assert started.status == 202
    socket = f"{started.body['operation']}/websocket?secret="
    first, _ = await upgrade(port, f"{socket}wrong")
    assert " 403 " in first
    first, ended = await upgrade(port, f"{socket}a-secret")
    assert " 101 " in first
    first, events_ended = await upgrade(port, "/1.0/events", certificate)
    assert " 101 " in first
    path = f"/1.0/certificates/{fingerprint}"
    if change == "removed":
        assert (await server.ask("DELETE", path)).status == 200
    else:
        assert (await server.ask("PATCH", path, {"restricted": True})).status == 200
    await ended()
    await events_ended()
    assert server.context.parts[Operations].running() == []
    first, _ = await upgrade(port, f"{socket}a-secret")
    assert " 101 " not in first


async def test_the_sessions_of_others_go_on(server: Server, client_certificate: Make) -> None:
    port = await listen(server)
    leaving, staying = client_certificate("leaving"), client_certificate("staying")
    fingerprint = await trust(server, leaving)
    await trust(server, staying)
    await server.ask_tls(port, "POST", "/1.0/extra/session", cert=staying)
    await server.ask("POST", "/1.0/extra/session")
    assert (await server.ask("DELETE", f"/1.0/certificates/{fingerprint}")).status == 200
    await asyncio.sleep(0)
    assert len(server.context.parts[Operations].running()) == 2


async def test_parallel_guesses_are_not_more_than_others(
    server: Server, client_certificate: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    port = await listen(server, **{"core.trust_password": "right"})
    certificate = client_certificate("guesser")
    tried: list[str] = []

    def matches(stored: str, word: str) -> bool:
        tried.append(word)
        return False

    monkeypatch.setattr(password, "matches", matches)

    async def guess(number: int) -> int:
        body = {"type": "client", "password": f"wrong{number}"}
        return (await server.ask_tls(port, "POST", "/1.0/certificates", body, cert=certificate)).status

    with caplog.at_level(logging.WARNING):
        statuses = await asyncio.gather(*(guess(number) for number in range(4 * ALLOWED)))
    assert set(statuses) == {403}
    assert len(tried) == ALLOWED
    assert caplog.text.count("Bad trust password from 127.0.0.1") == ALLOWED
    assert "wrong1" not in caplog.text


async def test_guessed_tokens_are_counted_and_logged(
    server: Server, client_certificate: Make, caplog: pytest.LogCaptureFixture
) -> None:
    port = await listen(server)
    certificate = client_certificate("guesser")
    token = {"client_name": "t", "fingerprint": "f", "addresses": [], "secret": "guessed"}
    word = base64.b64encode(json.dumps(token).encode()).decode()

    async def guess() -> str:
        body = {"type": "client", "password": word}
        return (await server.ask_tls(port, "POST", "/1.0/certificates", body, cert=certificate)).error

    errors = await asyncio.gather(*(guess() for _ in range(2 * ALLOWED)))
    assert sum("too many" in error for error in errors) == ALLOWED
    assert caplog.text.count("Wrong certificate add token from 127.0.0.1") == ALLOWED


async def test_a_password_adds_no_server(server: Server, client_certificate: Make) -> None:
    port = await listen(server, **{"core.trust_password": "right"})
    body = {"type": "server", "password": "right"}
    answer = await server.ask_tls(port, "POST", "/1.0/certificates", body, cert=client_certificate("member"))
    assert answer.status == 403


def test_one_who_has_a_network_guesses_as_one() -> None:
    counted = Guesses()
    for number in range(ALLOWED):
        counted.add(f"[2001:db8::{number:x}]")
    with pytest.raises(Exception, match="too many"):
        counted.check("[2001:db8::ffff]")
    counted.check("[2001:db8:0:1::1]")
