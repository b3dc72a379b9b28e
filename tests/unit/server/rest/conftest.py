"""A dispatcher with an empty database, asked over a real Unix socket or over TLS."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from corral.product import LXD
from corral.server.auth import server_certificate
from corral.server.auth.authority import Authority
from corral.server.auth.guesses import Guesses
from corral.server.auth.sessions import Sessions
from corral.server.background import Background
from corral.server.context import Context, Member
from corral.server.db import schema
from corral.server.db.database import Database, LocalDatabase
from corral.server.events.bus import Events
from corral.server.instances.inventory import Inventory
from corral.server.lifetime import Lifetime
from corral.server.locks import Locks
from corral.server.operations.registry import Operations
from corral.server.rest import listeners
from corral.server.rest.dispatch import Dispatcher
from corral.server.rest.listeners import Listeners
from corral.server.rest.network import API, DEBUG, METRICS, NetworkListener
from corral.server.rest.proxy_protocol import ClientAddresses
from corral.server.rest.routes import table
from corral.server.rest.routing import Router, Routes
from corral.server.settings.environment import Environment
from corral.server.settings.settings import Settings, SettingsChanged


@dataclass
class Answer:
    """A reply: status, headers by lower-case name, and the JSON body."""

    status: int
    headers: dict[str, str]
    body: Any

    @property
    def metadata(self) -> Any:
        return self.body["metadata"]

    @property
    def error(self) -> str:
        return str(self.body["error"])


async def exchange(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    method: str,
    path: str,
    body: Any = None,
    headers: dict[str, str] | None = None,
) -> Answer:
    """Send one request and read the whole reply."""
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "Host: lxd", "Connection: close", f"Content-Length: {len(data)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode() + data)
    try:
        raw = await asyncio.wait_for(reader.read(), 60)
    finally:
        writer.close()
    head, _, text = raw.partition(b"\r\n\r\n")
    first, *rest = head.decode().split("\r\n")
    pairs = dict(line.split(": ", 1) for line in rest)
    return Answer(int(first.split()[1]), {name.lower(): value for name, value in pairs.items()}, json.loads(text))


class Server:
    """The API of a context."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.networks = tuple(NetworkListener(context, purpose) for purpose in (API, METRICS, DEBUG))

    @property
    def socket(self) -> str:
        return str(self.context.member.state_dir / "unix.socket")

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Ask over the Unix socket: as an administrator."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await exchange(*await asyncio.open_unix_connection(self.socket), method, path, body, named)

    async def ask_tls(self, port: int, method: str, path: str, body: Any = None, *, cert: Path | None = None) -> Answer:
        """Ask over TLS, with a client certificate (PEM file with its key) or without."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if cert is not None:
            context.load_cert_chain(cert)
        return await exchange(*await asyncio.open_connection("127.0.0.1", port, ssl=context), method, path, body, None)


@pytest.fixture
def client_certificate(tmp_path: Path) -> Callable[[str], Path]:
    """Make a client's key pair: one PEM file with both."""

    def make(name: str) -> Path:
        certificate, key = server_certificate.make_key_pair(name)
        path = tmp_path / f"{name}.pem"
        path.write_bytes(certificate + key)
        return path

    return make


async def start_server(tmp_path: Path, *more: Routes) -> tuple[Context, Server]:
    """A context and the server on its socket; `more` are routes besides those of the API."""
    member = Member(LXD, "here", tmp_path, tmp_path / "logs", tmp_path / "cache")
    context = Context(Database(":memory:"), Events(), Locks(), member)
    parts = context.parts
    local = parts.add(LocalDatabase(":memory:"))
    await context.db.open(schema.cluster)
    await local.open(schema.local)
    for part in (Background(), Operations(context.events), Lifetime(), Settings(), Guesses(), Sessions()):
        parts.add(part)
    parts.add(await Inventory.open(context.db))
    parts.add(server_certificate.ensure_server_certificate(member))

    async def no_drivers() -> list[Any]:
        return []

    parts.add(Environment(no_drivers))
    dispatcher = Dispatcher(context, Router([*table.ALL, *more]))
    parts.add(Authority(tmp_path))
    serving = parts.add(Listeners(dispatcher, parts.add(ClientAddresses())))
    server = Server(context)
    for listener in server.networks:
        context.events.on(SettingsChanged, listener.react)
    await parts[Settings].load(context)
    await serving.start()
    await serving.open("unix", listeners.bind_unix(tmp_path / "unix.socket", None))
    dispatcher.ready.set()
    parts[Lifetime].ready.set()
    return context, server


async def stop_server(context: Context) -> None:
    """End everything that `start_server` began."""
    await context.parts[Operations].stop(0)
    await context.parts[Listeners].stop()
    await context.parts[Background].stop()
    await context.parts[LocalDatabase].close()
    await context.db.close()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    context, server = await start_server(tmp_path)
    yield server
    await stop_server(context)
