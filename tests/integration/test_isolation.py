"""A client restricted to some projects gets nothing of the others, by any route, query, event or source."""

import asyncio
import base64
import contextlib
import http.client
import itertools
import json
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from corral.server.auth import pem, server_certificate
from corral.server.rest import openapi, permission
from corral.server.rest.routes import table
from harness.api import Api
from harness.daemon import Daemon
from harness.waiting import until

MARK = "hidden"
"""In the name of everything that belongs to others."""

SECRET = "s3cr3t"
"""In the configuration and the description of everything that belongs to others."""

OTHER = "?project=other"


class Restricted:
    """The API over TLS as a client with a certificate."""

    def __init__(self, port: int, certificate: Path) -> None:
        self.tls = ssl.create_default_context()
        self.tls.check_hostname, self.tls.verify_mode = False, ssl.CERT_NONE
        self.tls.load_cert_chain(certificate)
        self.port = port
        self._connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=60, context=self.tls)

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, str]:
        data = None if body is None else json.dumps(body).encode()
        self._connection.request(method, path, data, {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")

    def run(self, method: str, path: str, body: object = None) -> tuple[int, str]:
        """Ask, and wait for an operation; its status and error then."""
        status, text = self.ask(method, path, body)
        if status != 202:
            return status, text
        operation = json.loads(text)["operation"]
        done = json.loads(self.ask("GET", f"{operation}/wait?timeout=60")[1])["metadata"]
        return done["status_code"], done["err"]

    def close(self) -> None:
        self._connection.close()


def _upload(api: Api, image: Path, query: str, alias: str) -> str:
    headers = {"X-LXD-filename": f"{MARK}.tar", "X-LXD-properties": f"description={SECRET}"}
    _, _, content = api.raw("POST", f"/1.0/images{query}", image.read_bytes() + b"\0" * 10240, headers)
    fingerprint: str = api.wait(json.loads(content)["operation"])["metadata"]["fingerprint"]
    api.call("POST", f"/1.0/images/aliases{query}", {"name": alias, "target": fingerprint, "description": SECRET})
    return fingerprint


def _fill(api: Api, daemon: Daemon, image: Path, query: str, name: str) -> str:
    """Everything that a project can have, marked; the fingerprint of its image."""
    devices = {
        "root": {"type": "disk", "path": "/", "pool": "default"},
        "eth0": {"type": "nic", "name": "eth0", "network": daemon.bridge},
    }
    fingerprint = _upload(api, image, query, f"{MARK}-alias")
    config = {"user.note": SECRET}
    api.call("POST", f"/1.0/profiles{query}", {"name": f"{MARK}-profile", "config": config, "description": SECRET})
    source = {"type": "image", "fingerprint": fingerprint}
    body = {"name": name, "source": source, "devices": devices, "config": config, "description": SECRET}
    api.run("POST", f"/1.0/instances{query}", {**body, "start": True})
    api.run("PUT", f"/1.0/instances/{name}/state{query}", {"action": "start"})
    api.run("POST", f"/1.0/instances/{name}/snapshots{query}", {"name": f"{MARK}-snap"})
    api.run("POST", f"/1.0/instances/{name}/backups{query}", {"name": f"{MARK}-backup", "instance_only": True})
    volumes = f"/1.0/storage-pools/default/volumes/custom{query}"
    api.call("POST", volumes, {"name": f"{MARK}-volume", "config": config, "description": SECRET})
    api.run("POST", volumes.replace("custom", f"custom/{MARK}-volume/snapshots"), {"name": f"{MARK}-vsnap"})
    return fingerprint


def _empty(api: Api, query: str, name: str) -> None:
    api.run("PUT", f"/1.0/instances/{name}/state{query}", {"action": "stop", "force": True})
    api.run("DELETE", f"/1.0/instances/{name}{query}")
    for image in api.get(f"/1.0/images{query}&recursion=1"):
        if image["filename"].startswith(MARK):
            api.run("DELETE", f"/1.0/images/{image['fingerprint']}{query}")
    api.call("DELETE", f"/1.0/profiles/{MARK}-profile{query}")
    api.call("DELETE", f"/1.0/storage-pools/default/volumes/custom/{MARK}-volume{query}")


@pytest.fixture(scope="module")
def others(daemon: Daemon, busybox_image: Path) -> Iterator[dict[str, str]]:
    """The project `other`, and things in the default project, that the client must not see: the values of paths."""
    with daemon.api() as api:
        api.call("POST", "/1.0/projects", {"name": "other", "description": SECRET, "config": {"user.note": SECRET}})
        fingerprint = _fill(api, daemon, busybox_image, OTHER, f"{MARK}-other")
        kept = {"name": f"{MARK}-volume", "config": {"user.note": SECRET}}
        api.call("POST", "/1.0/storage-pools/default/volumes/custom", kept)
        report = {"type_code": 0, "message": SECRET, "project": "other", "entity_type_code": -1, "entity_id": -1}
        api.call("POST", "/internal/testing/warnings", report)
        api.call("PATCH", "/1.0", {"config": {"user.note": SECRET}})
    yield {
        "name": f"{MARK}-other",
        "fingerprint": fingerprint,
        "snapshot_name": f"{MARK}-snap",
        "backup_name": f"{MARK}-backup",
        "file": "lxc.log",
        "pool": "default",
        "type": "custom",
    }
    with daemon.api() as api:
        api.call("PATCH", "/1.0", {"config": {"user.note": ""}})
        api.call("DELETE", "/1.0/storage-pools/default/volumes/custom/hidden-volume")
        _empty(api, OTHER, f"{MARK}-other")
        api.call("DELETE", "/1.0/projects/other")


@pytest.fixture(scope="module")
def client(daemon: Daemon, others: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Restricted]:
    """A client of the projects `mine`, which has things of its own, and `sharing`, which uses the default one's."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    certificate, key = server_certificate.make_key_pair("restricted")
    path = tmp_path_factory.mktemp("restricted") / "client.pem"
    path.write_bytes(certificate + key)
    der = base64.b64encode(pem.to_der(certificate.decode())).decode()
    shared = dict.fromkeys(("features.profiles", "features.images"), "false")
    with daemon.api() as api:
        api.call("POST", "/1.0/projects", {"name": "mine"})
        api.call("POST", "/1.0/projects", {"name": "sharing", "config": shared})
        body = {"type": "client", "certificate": der, "restricted": True}
        api.call("POST", "/1.0/certificates", {**body, "projects": ["mine", "sharing"]})
        api.call("PATCH", "/1.0", {"config": {"core.https_address": f"127.0.0.1:{port}"}})
        root = {"root": {"type": "disk", "path": "/", "pool": "default"}}
        new = {"name": "own", "source": {"type": "none"}, "devices": root}
        api.run("POST", "/1.0/instances?project=mine", new)
    found = Restricted(port, path)
    yield found
    found.close()
    with daemon.api() as api:
        for instance in api.get("/1.0/instances?project=mine"):
            api.run("DELETE", instance)
        for certificate_url in api.get("/1.0/certificates"):
            api.call("DELETE", certificate_url)
        api.call("PATCH", "/1.0", {"config": {"core.https_address": ""}})
        for project in ("mine", "sharing"):
            api.call("DELETE", f"/1.0/projects/{project}")


def _reads(values: dict[str, str]) -> Iterator[str]:
    """Every path that is read, about the things of others and about those of the client, with every query."""
    left_out = ("/1.0/events", "/1.0/operations/", "/1.0/instances/{name}/sftp")
    projects = ("", "project=mine", "project=sharing", "project=other", "project=default", "all-projects=true")
    more = ("", "recursion=1&target=none", "recursion=2&public&filter=name%20ne%20x")
    for route in openapi.public_routes(table.ALL):
        if route.method != "GET" or route.pattern.startswith(left_out):
            continue
        if route.pattern in ("/1.0/resources", "/1.0/metadata/configuration"):
            yield route.pattern
            continue
        named = {**values, "name": f"{MARK}-volume"} if "/volumes/" in route.pattern else values
        path = "/".join(
            named.get(part.strip("{*}"), f"{MARK}-x") if part.startswith("{") else part
            for part in route.pattern.split("/")
        )
        for project, query in itertools.product(projects, more):
            yield f"{path}?{'&'.join(part for part in (project, query) if part)}"


def test_nothing_of_others_is_read(client: Restricted, others: dict[str, str]) -> None:
    seen, answered = [], 0
    for path in _reads(others):
        status, text = client.ask("GET", path)
        answered += status == 200
        assert status < 500 or status in (501, 503), (path, text)
        if SECRET in text or (status == 200 and MARK in text):
            seen.append(f"{path}: {status} {text[:300]}")
    assert seen == []
    assert answered > 50


def test_an_administrator_sees_it_all(api: Api, others: dict[str, str]) -> None:
    """That what the other tests look for can be seen at all."""
    asked = [path for path in _reads(others) if path.endswith("?project=other&recursion=1&target=none")]
    shown = [path for path in asked if SECRET in api.raw("GET", path)[2].decode(errors="replace")]
    nouns = {path.split("/")[2].partition("?")[0] for path in shown if path.count("/") > 1}
    assert nouns >= {"instances", "images", "profiles", "projects", "storage-pools", "warnings"}


def _sources(fingerprint: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    name, volume = f"{MARK}-other", f"{MARK}-volume"
    volumes = "/1.0/storage-pools/default/volumes/custom?project=mine"
    root = {"root": {"type": "disk", "path": "/", "pool": "default"}}
    for project in ("other", "default"):
        copied = {"type": "copy", "source": name, "project": project}
        yield "POST", "/1.0/instances?project=mine", {"name": "stolen", "source": copied, "devices": root}
        snapshot = {**copied, "source": f"{name}/{MARK}-snap"}
        yield "POST", "/1.0/instances?project=mine", {"name": "stolen", "source": snapshot, "devices": root}
        source = {"type": "image", "fingerprint": fingerprint, "project": project, "mode": "pull"}
        yield "POST", "/1.0/images?project=mine", {"source": source}
        yield "POST", volumes, {"name": "stolen", "source": {"type": "copy", "name": volume, "project": project}}
        moved = {"name": "moved", "migration": True, "project": project}
        yield "POST", "/1.0/instances/own?project=mine", moved
    for source in (
        {"type": "image", "fingerprint": fingerprint},
        {"type": "image", "alias": f"{MARK}-alias"},
        {"type": "image", "fingerprint": fingerprint, "project": "other"},
    ):
        yield "POST", "/1.0/instances?project=mine", {"name": "stolen", "source": source, "devices": root}
    published = {"source": {"type": "instance", "name": name, "project": "other"}}
    yield "POST", "/1.0/images?project=mine", published
    for device in (
        {"type": "disk", "pool": "default", "source": volume, "path": "/stolen"},
        {"type": "disk", "pool": "default", "source": f"other_{volume}", "path": "/stolen"},
        {"type": "disk", "pool": "default", "source": f"../other_{volume}", "path": "/stolen"},
    ):
        yield "PATCH", "/1.0/instances/own?project=mine", {"devices": {"stolen": device}}
    yield "PATCH", "/1.0/instances/own?project=mine", {"profiles": [f"{MARK}-profile"]}
    yield "POST", "/1.0/images/aliases?project=mine", {"name": "stolen", "target": fingerprint}
    yield "POST", f"/1.0/images/{fingerprint}/secret?project=mine", {}
    yield "POST", f"/1.0/instances/{name}/exec?project=mine", {"command": ["true"]}
    yield "PUT", f"/1.0/instances/{name}/state?project=mine", {"action": "stop", "force": True}
    yield "DELETE", f"/1.0/instances/{name}?project=mine", {}
    yield "DELETE", f"/1.0/storage-pools/default/volumes/custom/{volume}?project=sharing", {}


def test_nothing_of_others_is_a_source_or_a_target(client: Restricted, others: dict[str, str], api: Api) -> None:
    for method, path, body in _sources(others["fingerprint"]):
        status, text = client.run(method, path, body)
        assert status in (400, 403, 404), (method, path, body, status, text)
        assert SECRET not in text
    assert api.get("/1.0/instances?project=mine") == ["/1.0/instances/own?project=mine"]
    assert api.get(f"/1.0/instances/{MARK}-other{OTHER}")["status"] == "Running"
    assert len(api.get(f"/1.0/storage-pools/default/volumes/custom{OTHER}")) == 2


def test_file_names_lead_nowhere(client: Restricted, others: dict[str, str]) -> None:
    up = "%2e%2e%2f" * 8
    for path in (
        f"/1.0/instances/own/logs/{up}other_{MARK}-other%2flxc.log",
        f"/1.0/instances/%2e%2e%2fother_{MARK}-other/logs",
        f"/1.0/instances/own/backups/{up}etc%2fpasswd/export",
        f"/1.0/images/{up}etc%2fpasswd/export",
    ):
        status, text = client.ask("GET", f"{path}{'&' if '?' in path else '?'}project=mine")
        assert status in (400, 404), (path, text)
        assert "root:" not in text


def test_operations_of_others_are_not_there(client: Restricted, others: dict[str, str], api: Api) -> None:
    body = {"command": ["sleep", "30"], "wait-for-websocket": True, "interactive": False}
    started = api.call("POST", f"/1.0/instances/{MARK}-other/exec{OTHER}", body)["operation"]
    try:
        for path in ("/1.0/operations?all-projects=true", "/1.0/operations?project=mine&recursion=1"):
            status, text = client.ask("GET", path)
            assert status == 200
            assert started not in text
            assert MARK not in text
        for method, path in (("GET", started), ("GET", f"{started}/wait?timeout=1"), ("DELETE", started)):
            for query in ("", "&project=other", "&project=mine"):
                status, text = client.ask(method, f"{path}{'' if '?' in path else '?'}{query}")
                assert status in (403, 404), (method, path, query, text)
        assert client.ask("GET", f"{started}/websocket?secret=guess")[0] == 403
    finally:
        with contextlib.suppress(Exception):
            secrets = api.get(started)["metadata"]["fds"]
            for secret in secrets.values():
                api.raw("GET", f"{started}/websocket?secret={secret}")
            api.call("DELETE", started)


async def _hear(client: Restricted, query: str, act: Callable[[], None]) -> str:
    """What the events of a query say while something happens, up to the event of a marker profile."""
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port, ssl=client.tls)
    writer.write(
        f"GET /1.0/events?{query} HTTP/1.1\r\nHost: x\r\nSec-WebSocket-Key: {'A' * 22}==\r\n"
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    try:
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        assert b" 101 " in head, head
        await asyncio.to_thread(act)
        heard = b""
        async with asyncio.timeout(30):
            while b"profiles/marker" not in heard:
                heard += await reader.read(65536)
        return heard.decode(errors="replace")
    finally:
        writer.transport.abort()


@pytest.mark.parametrize(
    "query", ["all-projects=true", "project=mine", "project=mine&type=lifecycle,operation,logging"]
)
async def test_events_of_others_are_not_heard(
    client: Restricted, others: dict[str, str], daemon: Daemon, query: str
) -> None:
    def act() -> None:
        with daemon.api() as own:
            own.call("PATCH", f"/1.0/instances/{MARK}-other{OTHER}", {"description": f"{SECRET} again"})
            own.run("POST", f"/1.0/instances/{MARK}-other/snapshots{OTHER}", {"name": f"{MARK}-event"})
            own.run("DELETE", f"/1.0/instances/{MARK}-other/snapshots/{MARK}-event{OTHER}")
            own.call("PATCH", "/1.0/storage-pools/default", {"description": ""})
            own.call("PATCH", "/1.0", {"config": {"user.note": f"{SECRET}!"}})
            own.call("POST", "/1.0/profiles?project=mine", {"name": "marker"})
            own.call("DELETE", "/1.0/profiles/marker?project=mine")

    heard = await _hear(client, query, act)
    assert MARK not in heard
    assert SECRET not in heard
    assert "config-updated" not in heard
    assert '"type":"logging"' not in heard


def _connect(client: Restricted, path: str) -> ssl.SSLSocket:
    """A websocket of somebody without a certificate."""
    tls = ssl.create_default_context()
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    connection = tls.wrap_socket(socket.create_connection(("127.0.0.1", client.port), 20))
    connection.sendall(
        f"GET {path} HTTP/1.1\r\nHost: x\r\nSec-WebSocket-Key: {'A' * 22}==\r\n"
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    assert b" 101 " in connection.recv(4096).split(b"\r\n")[0]
    return connection


def test_a_command_ends_with_the_trust_of_the_one_who_asked(
    client: Restricted, api: Api, instance: str, tmp_path: Path
) -> None:
    certificate, key = server_certificate.make_key_pair("leaving")
    (tmp_path / "leaving.pem").write_bytes(certificate + key)
    der = pem.to_der(certificate.decode())
    api.call(
        "POST",
        "/1.0/certificates",
        {"type": "client", "certificate": base64.b64encode(der).decode(), "name": "leaving"},
    )
    leaving = Restricted(client.port, tmp_path / "leaving.pem")
    body = {"command": ["sleep", "4321"], "wait-for-websocket": True, "interactive": False}
    started = json.loads(leaving.ask("POST", f"/1.0/instances/{instance}/exec", body)[1])
    secrets = started["metadata"]["metadata"]["fds"].values()
    sockets = [_connect(client, f"{started['operation']}/websocket?secret={secret}") for secret in secrets]
    try:
        until(lambda: _sleeps(api, instance), "the command runs")
        api.call("DELETE", f"/1.0/certificates/{pem.fingerprint_of(der)}")
        for one in sockets:
            one.settimeout(60)
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                while one.recv(4096):
                    pass
        until(lambda: not _sleeps(api, instance), "the command has ended")
        with contextlib.suppress(ConnectionError, http.client.HTTPException, ssl.SSLError):
            assert leaving.ask("GET", "/1.0/instances")[0] == 403
    finally:
        leaving.close()
        for one in sockets:
            one.close()


def _sleeps(api: Api, instance: str) -> bool:
    # The pattern is not what the shell that looks for it has on its own command line.
    return api.execute(instance, "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -q 'sleep 43[2]1'") == 0


def test_all_that_is_listed_over_projects_is_known(others: dict[str, str]) -> None:
    """`all-projects` on another listing means another look at what it shows."""
    assert len(permission.OVER_PROJECTS) == 6
