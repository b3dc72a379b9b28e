"""The lifecycle events: their names, where they come from, and who asked; the same for our daemon and the real one."""

import base64
import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corral.server.auth import pem, server_certificate
from harness.api import Api
from harness.daemon import Daemon
from harness.waiting import until


class Events:
    """Listens to the events of a daemon over its Unix socket, in a thread of its own."""

    def __init__(self, daemon: Daemon, query: str) -> None:
        self.heard: list[dict[str, Any]] = []
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(daemon.socket))
        self._socket.sendall(
            f"GET /1.0/events?{query} HTTP/1.1\r\nHost: x\r\nSec-WebSocket-Key: {'A' * 22}==\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        self._file = self._socket.makefile("rb")
        while self._file.readline() not in (b"\r\n", b""):
            pass
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while head := self._file.read(2):
                length = head[1] & 0x7F
                if length >= 126:
                    length = int.from_bytes(self._file.read(2 if length == 126 else 8), "big")
                data = self._file.read(length)
                if head[0] & 0x0F == 1:
                    self.heard.append(json.loads(data))

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._file.close()
        self._socket.close()

    def actions(self) -> list[str]:
        return [one["metadata"]["action"] for one in self.heard]

    def until_heard(self, action: str) -> None:
        until(lambda: action in self.actions(), f"the event {action} comes")


@pytest.fixture
def events(daemon: Daemon) -> Iterator[Events]:
    found = Events(daemon, "type=lifecycle&all-projects=true")
    yield found
    found.close()


def test_instances(api: Api, events: Events, daemon: Daemon) -> None:
    path = "/1.0/instances/ev1"
    api.create("ev1", "busybox")
    api.call("PATCH", path, {"description": "x"})
    api.run("POST", path, {"name": "ev2"})
    path = "/1.0/instances/ev2"
    api.set_state("ev2", "start")
    api.execute("ev2", "true")
    api.set_state("ev2", "freeze")
    api.set_state("ev2", "unfreeze")
    api.set_state("ev2", "restart", force=True)
    api.raw("POST", f"{path}/files?path=/f", b"x", {"X-LXD-type": "file"})
    api.raw("GET", f"{path}/files?path=/f")
    api.call("DELETE", f"{path}/files?path=/f")
    api.raw("GET", f"{path}/console")
    api.raw("DELETE", f"{path}/console")
    (daemon.state_dir / "logs/ev2/exec_x.stdout").write_text("x")
    api.raw("GET", f"{path}/logs/exec_x.stdout")
    api.call("DELETE", f"{path}/logs/exec_x.stdout")
    api.set_state("ev2", "stop", force=True)
    api.run("POST", f"{path}/snapshots", {"name": "s1"})
    api.run("PATCH", f"{path}/snapshots/s1", {"expires_at": "2100-01-01T00:00:00Z"})
    api.run("POST", f"{path}/snapshots/s1", {"name": "s2"})
    api.run("PUT", path, {"restore": "s2"})
    api.run("DELETE", f"{path}/snapshots/s2")
    api.run("POST", f"{path}/backups", {"name": "b1"})
    api.run("POST", f"{path}/backups/b1", {"name": "b2"})
    api.raw("GET", f"{path}/backups/b2/export")
    api.run("DELETE", f"{path}/backups/b2")
    api.delete("ev2")
    events.until_heard("instance-deleted")
    # The real one does not tell of a new expiry.
    silent = {"instance-snapshot-updated"} if daemon.programs.kind == "real" else set()
    assert (
        set(events.actions())
        == {
            *(f"instance-{verb}" for verb in ("created", "deleted", "updated", "renamed", "restored")),
            *(f"instance-{verb}" for verb in ("started", "stopped", "restarted", "paused", "resumed")),
            *(f"instance-file-{verb}" for verb in ("pushed", "retrieved", "deleted")),
            *(f"instance-snapshot-{verb}" for verb in ("created", "updated", "renamed", "deleted")),
            *(f"instance-backup-{verb}" for verb in ("created", "renamed", "retrieved", "deleted")),
            *("instance-exec", "instance-console-reset", "instance-console-retrieved"),
            *("instance-log-retrieved", "instance-log-deleted"),
        }
        - silent
    )


def test_what_instances_take_along(api: Api, events: Events) -> None:
    """Copies, imports and deletions tell of each snapshot; what is renamed or restored tells of what it was."""
    for name in ("ev1", "ev2", "ev3"):
        path = f"/1.0/instances/{name}"
        if name == "ev1":
            api.create(name, "busybox")
            api.run("POST", f"{path}/snapshots", {"name": "s0"})
            api.run("POST", f"{path}/snapshots/s0", {"name": "s1"})
            api.set_state(name, "start")
            api.run("PUT", path, {"restore": "s1"})
            api.set_state(name, "freeze")
            api.raw("GET", f"{path}/files?path=/etc/hosts")
            api.set_state(name, "stop", timeout_s=20)
            api.run("POST", f"{path}/backups", {"name": "b0"})
            api.run("POST", f"{path}/backups/b0", {"name": "b1"})
            content = api.raw("GET", f"{path}/backups/b1/export")[2]
        elif name == "ev2":
            source = {"type": "copy", "source": "ev1"}
            api.run("POST", "/1.0/instances", {"name": name, "source": source, "profiles": ["default"]})
        else:
            headers = {"Content-Type": "application/octet-stream", "X-LXD-name": name}
            api.wait(json.loads(api.raw("POST", "/1.0/instances", content, headers)[2])["operation"])
    for name in ("ev1", "ev2", "ev3"):
        api.delete(name)
    until(lambda: events.actions().count("instance-deleted") == 3, "all are gone")
    told = [one["metadata"] for one in events.heard]
    where = {name: {one["source"] for one in told if one["action"] == name} for name in events.actions()}
    contexts = {one["action"]: one["context"] for one in told if one.get("context")}
    assert where["instance-snapshot-deleted"] == {f"/1.0/instances/ev{number}/snapshots/s1" for number in (1, 2, 3)}
    made = {f"/1.0/instances/ev{number}/snapshots/s1" for number in (2, 3)}
    assert where["instance-snapshot-created"] == {"/1.0/instances/ev1/snapshots/s0", *made}
    assert contexts["instance-snapshot-renamed"] == {"old_name": "ev1/s0"}
    assert contexts["instance-backup-renamed"] == {"old_name": "ev1/b0"}
    assert contexts["instance-restored"] == {"snapshot": "ev1/s1"}
    assert where["instance-file-retrieved"] == {"/1.0/instances/ev1"}
    assert {"instance-resumed", "instance-shutdown"} <= set(events.actions())
    assert events.actions().count("instance-started") == 2


def test_images(api: Api, events: Events, busybox_image: Path) -> None:
    content = busybox_image.read_bytes() + b"\0" * 10240
    _, _, answer = api.raw("POST", "/1.0/images", content, {"X-LXD-filename": "x.tar"})
    fingerprint = api.wait(json.loads(answer)["operation"])["metadata"]["fingerprint"]
    path = f"/1.0/images/{fingerprint}"
    api.call("PATCH", path, {"properties": {"a": "b"}})
    api.call("POST", "/1.0/images/aliases", {"name": "ev", "target": fingerprint})
    api.call("PUT", "/1.0/images/aliases/ev", {"target": fingerprint, "description": "d"})
    api.call("POST", "/1.0/images/aliases/ev", {"name": "ev2"})
    api.call("DELETE", "/1.0/images/aliases/ev2")
    secret = api.call("POST", f"{path}/secret", {})
    api.raw("GET", f"{path}/export")
    api.run("DELETE", path)
    events.until_heard("image-deleted")
    with contextlib.suppress(Exception):
        api.call("DELETE", secret["operation"])
    assert set(events.actions()) - {"operation-cancelled"} == {
        *(f"image-{verb}" for verb in ("created", "updated", "retrieved", "secret-created", "deleted")),
        *(f"image-alias-{verb}" for verb in ("created", "updated", "renamed", "deleted")),
    }


def test_storage(api: Api, events: Events) -> None:
    api.call("POST", "/1.0/storage-pools", {"name": "ev", "driver": "dir"})
    api.call("PATCH", "/1.0/storage-pools/ev", {"description": "d"})
    path = "/1.0/storage-pools/ev/volumes/custom"
    api.call("POST", path, {"name": "v1"})
    api.call("PATCH", f"{path}/v1", {"description": "d"})
    api.run("POST", f"{path}/v1/snapshots", {"name": "s1"})
    api.call("PATCH", f"{path}/v1/snapshots/s1", {"description": "d"})
    _settled(api, api.call("POST", f"{path}/v1/snapshots/s1", {"name": "s2"}))
    api.call("PUT", f"{path}/v1", {"restore": "s2"})
    api.run("DELETE", f"{path}/v1/snapshots/s2")
    _settled(api, api.call("POST", f"{path}/v1", {"name": "v2"}))
    api.call("DELETE", f"{path}/v2")
    api.call("DELETE", "/1.0/storage-pools/ev")
    events.until_heard("storage-pool-deleted")
    assert set(events.actions()) == {
        *(f"storage-pool-{verb}" for verb in ("created", "updated", "deleted")),
        *(f"storage-volume-{verb}" for verb in ("created", "updated", "renamed", "restored", "deleted")),
        *(f"storage-volume-snapshot-{verb}" for verb in ("created", "updated", "renamed", "deleted")),
    }


def _settled(api: Api, envelope: dict[str, Any]) -> None:
    if envelope["type"] == "async":
        api.wait(envelope["operation"])


def test_server(api: Api, events: Events) -> None:
    api.call("PATCH", "/1.0", {"config": {"user.x": "1"}})
    api.call("PATCH", "/1.0", {"config": {"user.x": ""}})
    for noun, new in (("profiles", "evp"), ("projects", "evr")):
        api.call("POST", f"/1.0/{noun}", {"name": new})
        api.call("PATCH", f"/1.0/{noun}/{new}", {"description": "d"})
        _settled(api, api.call("POST", f"/1.0/{noun}/{new}", {"name": f"{new}2"}))
        api.call("DELETE", f"/1.0/{noun}/{new}2")
    api.call("POST", "/1.0/networks", {"name": "evbr0", "config": {"ipv4.address": "none", "ipv6.address": "none"}})
    api.call("PATCH", "/1.0/networks/evbr0", {"description": "d"})
    api.call("POST", "/1.0/networks/evbr0", {"name": "evbr1"})
    api.call("DELETE", "/1.0/networks/evbr1")
    certificate, _ = server_certificate.make_key_pair("someone")
    der = pem.to_der(certificate.decode())
    body = {"type": "client", "name": "someone", "certificate": base64.b64encode(der).decode()}
    api.call("POST", "/1.0/certificates", body)
    path = f"/1.0/certificates/{pem.fingerprint_of(der)}"
    api.call("PATCH", path, {"name": "other"})
    api.call("DELETE", path)
    report = {"type_code": 20, "message": "m", "project": "default", "entity_type_code": -1, "entity_id": -1}
    api.call("POST", "/internal/testing/warnings", report)
    for warning in api.get("/1.0/warnings"):
        api.call("PUT", warning, {"status": "acknowledged"})
        api.call("PUT", warning, {"status": "new"})
        api.call("DELETE", warning)
    events.until_heard("warning-deleted")
    changes = ("created", "updated", "renamed", "deleted")
    assert set(events.actions()) == {
        "config-updated",
        *(f"{noun}-{verb}" for noun in ("profile", "project", "network") for verb in changes),
        *(f"certificate-{verb}" for verb in ("created", "updated", "deleted")),
        *(f"warning-{verb}" for verb in ("acknowledged", "reset", "deleted")),
    }


def test_a_cancelled_operation(api: Api, events: Events) -> None:
    fingerprint = api.get("/1.0/images/aliases/busybox")["target"]
    operation = api.call("POST", f"/1.0/images/{fingerprint}/secret", {})["operation"]
    api.call("DELETE", operation)
    events.until_heard("operation-cancelled")
    (heard,) = (one for one in events.heard if one["metadata"]["action"] == "operation-cancelled")
    assert heard["metadata"]["source"] == operation


def test_who_asked_and_where(api: Api, events: Events, daemon: Daemon) -> None:
    api.call("POST", "/1.0/projects", {"name": "evw", "config": {"features.images": "false"}})
    devices = {"root": {"type": "disk", "path": "/", "pool": "default"}}
    new = {"name": "there", "source": {"type": "image", "alias": "busybox"}, "devices": devices}
    api.run("POST", "/1.0/instances?project=evw", new)
    api.run("DELETE", "/1.0/instances/there?project=evw")
    api.call("DELETE", "/1.0/projects/evw")
    events.until_heard("project-deleted")
    (created,) = (one for one in events.heard if one["metadata"]["action"] == "instance-created")
    assert created["project"] == "evw"
    assert created["metadata"]["source"] == "/1.0/instances/there?project=evw"
    if daemon.programs.kind == "ours":
        assert created["metadata"]["requestor"] == {"username": "root", "protocol": "unix", "address": "@"}
    (deleted,) = (one for one in events.heard if one["metadata"]["action"] == "project-deleted")
    assert deleted["metadata"]["requestor"]["protocol"] == "unix"
    assert (created["location"], created["type"]) == ("none", "lifecycle")
