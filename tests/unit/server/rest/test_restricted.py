"""What restricted clients see, when connections end, and whom proxies speak for, over real sockets."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path

from corral.server.auth.guesses import Guesses
from corral.server.db.database import Tx
from corral.server.events.bus import Events
from corral.server.events.model import Lifecycle
from corral.server.instances import store as instances
from corral.server.instances.model import InstanceType
from corral.server.instances.running import Running
from corral.server.instances.store import NewInstance

from .conftest import Answer, Server, exchange
from .test_network import listen, trust

Make = Callable[[str], Path]


async def test_what_all_projects_have_is_filtered_for_restricted_clients(
    server: Server, client_certificate: Make
) -> None:
    server.context.parts.add(Running())
    port = await listen(server)
    for name in ("mine", "other"):
        await server.ask("POST", "/1.0/projects", {"name": name})
        add = partial(_add_instance, project=name)
        await server.context.db.write(add)
    certificate = client_certificate("restricted")
    fingerprint = await trust(server, certificate, restricted=True, projects=["mine"])
    await trust(server, client_certificate("administrator"))

    async def ask(path: str) -> Answer:
        return await server.ask_tls(port, "GET", path, cert=certificate)

    shown = await ask("/1.0/instances?all-projects=true")
    assert shown.metadata == ["/1.0/instances/c-mine?project=mine"]
    shown = await ask("/1.0/instances?all-projects=true&recursion=1")
    assert [one["project"] for one in shown.metadata] == ["mine"]
    assert (await ask("/1.0/operations?all-projects=true")).metadata == {}
    assert (await ask("/1.0/certificates")).metadata == [f"/1.0/certificates/{fingerprint}"]


async def test_events_of_other_projects_are_not_sent() -> None:
    events = Events()
    restricted = events.listen(frozenset({"lifecycle"}), None, frozenset({"mine"}))
    everything = events.listen(frozenset({"lifecycle"}), None)
    for project in ("mine", "other", ""):
        events.publish(Lifecycle("instance-created", "/1.0/instances/c1", project))
    assert (restricted.queue.qsize(), everything.queue.qsize()) == (1, 3)


def _add_instance(tx: Tx, project: str) -> None:
    new = NewInstance(project, f"c-{project}", InstanceType.CONTAINER, 2, "2026-01-01T00:00:00Z", {}, {})
    instances.finish_instance(tx, instances.insert_instance(tx, new))


async def test_connections_end_with_the_trust(server: Server, client_certificate: Make) -> None:
    port = await listen(server)
    certificate = client_certificate("leaving")
    fingerprint = await trust(server, certificate)
    tls = ssl.create_default_context()
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    tls.load_cert_chain(certificate)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
    try:
        key = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        writer.write(f"GET /1.0/events HTTP/1.1\r\nHost: x\r\nSec-WebSocket-Key: {'A' * 22}==\r\n{key}\r\n".encode())
        async with asyncio.timeout(10):
            assert b"101" in await reader.readline()
            assert (await server.ask("DELETE", f"/1.0/certificates/{fingerprint}")).status == 200
            with contextlib.suppress(ConnectionError):
                while await reader.read(4096):
                    pass
    finally:
        writer.transport.abort()


async def test_a_trusted_proxy_tells_the_address(server: Server, client_certificate: Make) -> None:
    port = await listen(server, **{"core.https_trusted_proxy": "127.0.0.1", "core.trust_password": "right"})
    guesses = server.context.parts[Guesses]
    certificate = client_certificate("behind")
    tls = ssl.create_default_context()
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    tls.load_cert_chain(certificate)
    with socket.create_connection(("127.0.0.1", port)) as plain:
        plain.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.2 1234 8443\r\n")
        plain.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=plain.dup(), ssl=tls, server_hostname="x")
        body = {"type": "client", "password": "wrong"}
        assert (await exchange(reader, writer, "POST", "/1.0/certificates", body)).status == 403
    assert list(guesses._wrong) == ["192.0.2.7"]
    assert (await server.ask_tls(port, "GET", "/1.0", cert=certificate)).metadata["auth"] == "untrusted"
    # Without trusted proxies the same socket is served as before.
    await server.ask("PATCH", "/1.0", {"config": {"core.https_trusted_proxy": ""}})
    assert (await server.ask_tls(port, "GET", "/1.0", cert=certificate)).status == 200


async def test_public_images_of_other_projects_are_for_restricted_clients_too(
    server: Server, client_certificate: Make
) -> None:
    port = await listen(server)
    for name in ("mine", "other"):
        await server.ask("POST", "/1.0/projects", {"name": name})
    for letter, public in (("a", True), ("b", False)):
        await server.context.db.write(partial(_add_image, letter=letter, public=public))
    certificate = client_certificate("restricted")
    await trust(server, certificate, restricted=True, projects=["mine"])
    for cert in (certificate, None):
        shown = await server.ask_tls(port, "GET", "/1.0/images?project=other", cert=cert)
        assert shown.metadata == [f"/1.0/images/{'a' * 64}?project=other"]
        for letter, status in (("a", 200), ("b", 404)):
            path = f"/1.0/images/{letter * 64}?project=other"
            assert (await server.ask_tls(port, "GET", path, cert=cert)).status == status
    refused = await server.ask_tls(port, "DELETE", f"/1.0/images/{'a' * 64}?project=other", cert=certificate)
    assert refused.status == 403


def _add_image(tx: Tx, letter: str, public: bool) -> None:
    tx.execute(
        "INSERT INTO images (project_id, fingerprint, filename, size, public, architecture, creation_date, expiry_date,"
        " upload_date, cached, auto_update, type) SELECT id, ?, 'x', 1, ?, 2, ?, '', ?, 0, 0, 0 FROM projects"
        " WHERE name = 'other'",
        letter * 64,
        public,
        "2026-01-01T00:00:00Z",
        "2026-01-01T00:00:00Z",
    )
