"""What a guest finds at /dev/lxd/sock: the same with the real LXD."""

import json
from collections.abc import Callable, Iterator

import pytest

from harness.api import Api
from harness.client import Client
from harness.guest import Guest

CONFIG = {
    "user.foo": "bar",
    "user.a b/c": "x %s y",
    "user.meta-data": "public-keys: none",
    "cloud-init.user-data": "#cloud-config\n{}",
    "limits.processes": "500",
}


def pid_of(api: Api, name: str) -> int:
    pid: int = api.get(f"/1.0/instances/{name}/state")["pid"]
    return pid


@pytest.fixture
def name(make_instance: Callable[..., str]) -> str:
    return make_instance(config=CONFIG)


@pytest.fixture
def guest(api: Api, name: str) -> Iterator[Guest]:
    """The container's root user."""
    with Guest(pid_of(api, name)) as guest:
        yield guest


def test_server_and_config(api: Api, name: str, guest: Guest) -> None:
    assert guest.get("/") == ["/1.0"]
    expected = {"state": "", "api_version": "1.0", "instance_type": "container", "location": "none"}
    assert guest.get("/1.0") == expected
    keys = ["cloud-init.user-data", "user.a b/c", "user.foo", "user.meta-data"]
    assert sorted(guest.get("/1.0/config")) == [f"/1.0/config/{key}" for key in keys]
    status, headers, content = guest.request("/1.0/config/user.foo")
    assert (status, headers["content-type"], content) == (200, "application/octet-stream", b"bar")
    assert guest.text("/1.0/config/user.a%20b%2Fc") == "x %s y"
    assert guest.text("/1.0/config/cloud-init.user-data") == "#cloud-config\n{}"


def test_meta_data_and_devices(api: Api, name: str, guest: Guest) -> None:
    config = api.get(f"/1.0/instances/{name}")["config"]
    identity = config["volatile.cloud-init.instance-id"]
    expected = f"#cloud-config\ninstance-id: {identity}\nlocal-hostname: {name}\npublic-keys: none"
    assert guest.text("/1.0/meta-data") == expected
    devices = guest.get("/1.0/devices")
    assert devices["eth0"]["hwaddr"] == config["volatile.eth0.hwaddr"]
    assert devices["root"] == {"type": "disk", "path": "/", "pool": "default"}


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/1.0/config/user.none", 404, "not found\n"),
        ("/1.0/config/limits.processes", 403, "not authorized\n"),
        ("/1.0/config/volatile.uuid", 403, "not authorized\n"),
        ("/1.0/config/", 404, "404 page not found\n"),
        ("/1.0/", 404, "404 page not found\n"),
        ("/1.0/instances", 404, "404 page not found\n"),
        ("/2.0", 404, "404 page not found\n"),
        ("/1.0/images/abc/export", 403, "not authorized\n"),
    ],
)
def test_refusals(guest: Guest, path: str, status: int, text: str) -> None:
    answer = guest.request(path)
    assert (answer[0], answer[2].decode()) == (status, text)
    assert answer[1]["content-type"] == "text/plain; charset=utf-8"
    assert answer[1]["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "HEAD"])
def test_any_method_reads(guest: Guest, method: str) -> None:
    status, _, content = guest.request("/1.0/config/user.foo", method, None if method == "HEAD" else b"{}")
    assert (status, content) == (200, b"" if method == "HEAD" else b"bar")


def test_only_root_is_told(api: Api, name: str) -> None:
    with Guest(pid_of(api, name), uid=1000) as user:
        for path in ("/", "/1.0/config/user.foo", "/1.0/events"):
            status, _, content = user.request(path)
            assert (status, content) == (401, b"Access denied for non-root user\n")


@pytest.mark.parametrize("form", ["websocket", "stream"])
def test_events(lxc: Client, name: str, guest: Guest, form: str) -> None:
    everything, config, device = (
        guest.watch(query) if form == "websocket" else guest.stream(query)
        for query in ("", "?type=config", "?type=device")
    )
    with everything, config, device:
        lxc("config", "set", name, "limits.processes", "400")
        lxc("config", "set", name, "user.foo", "baz")
        changed = {"type": "config", "metadata": {"key": "user.foo", "old_value": "bar", "value": "baz"}}
        assert everything.next() == config.next() == changed
        lxc("config", "unset", name, "user.foo")
        changed["metadata"] = {"key": "user.foo", "old_value": "baz", "value": ""}
        assert everything.next() == config.next() == changed
        lxc("config", "device", "add", name, "mnt", "disk", "source=/tmp", "path=/mnt")
        disk = {"type": "disk", "source": "/tmp", "path": "/mnt"}
        added = {"type": "device", "metadata": {"action": "added", "name": "mnt", "config": disk}}
        assert everything.next() == device.next() == added
        lxc("config", "device", "remove", name, "mnt")
        removed = {"type": "device", "metadata": {"action": "removed", "name": "mnt", "config": disk}}
        assert everything.next() == device.next() == removed
        lxc("config", "device", "override", name, "eth0", "limits.ingress=1Mbit")
        for event in (everything.next(), device.next()):
            assert (event["metadata"]["action"], event["metadata"]["name"]) == ("updated", "eth0")
            assert event["metadata"]["config"]["limits.ingress"] == "1Mbit"


def test_events_of_a_profile(lxc: Client, guest: Guest) -> None:
    with guest.watch() as events:
        lxc("profile", "set", "default", "user.wide", "1")
        try:
            assert events.next()["metadata"] == {"key": "user.wide", "old_value": "", "value": "1"}
        finally:
            lxc("profile", "unset", "default", "user.wide")
        assert events.next()["metadata"] == {"key": "user.wide", "old_value": "1", "value": ""}


def test_taken_away_and_given_back(lxc: Client, name: str, guest: Guest) -> None:
    with guest.connect() as kept:
        lxc("config", "set", name, "security.devlxd", "false")
        lxc("exec", name, "--", "test", "!", "-e", "/dev/lxd")
        with pytest.raises(FileNotFoundError):
            guest.connect()
        kept.sendall(b"GET /1.0 HTTP/1.1\r\nHost: lxd\r\n\r\n")
        answer = kept.recv(4096)
        assert answer.startswith(b"HTTP/1.1 403 ")
        assert answer.endswith(b"not authorized\n")
    lxc("config", "set", name, "security.devlxd", "true")
    assert guest.text("/1.0/config/user.foo") == "bar"
    lxc("config", "unset", name, "security.devlxd")
    assert guest.text("/1.0/config/user.foo") == "bar"


def test_started_without(lxc: Client, make_instance: Callable[..., str]) -> None:
    name = make_instance(config={"security.devlxd": "false"})
    lxc("exec", name, "--", "test", "!", "-e", "/dev/lxd")
    lxc("config", "unset", name, "security.devlxd")
    lxc("exec", name, "--", "test", "-S", "/dev/lxd/sock")
    lxc("restart", "--force", name)
    lxc("exec", name, "--", "test", "-S", "/dev/lxd/sock")


def test_images(api: Api, lxc: Client, name: str, guest: Guest) -> None:
    fingerprint = api.get("/1.0/images/aliases/busybox")["target"]
    path = f"/1.0/images/{fingerprint}/export"
    assert guest.request(path)[0] == 403
    lxc("config", "set", name, "security.devlxd.images", "true")
    status, _, content = guest.request(path)
    assert (status, json.loads(content)["error"]) == (404, f'Image "{fingerprint}" not found')
    assert json.loads(guest.request("/1.0/images/none/export")[2])["error"] == "Image not found"
    api.call("PATCH", f"/1.0/images/{fingerprint}", {"public": True})
    try:
        status, headers, content = guest.request(path)
    finally:
        api.call("PATCH", f"/1.0/images/{fingerprint}", {"public": False})
    assert (status, len(content)) == (200, api.get(f"/1.0/images/{fingerprint}")["size"])
    assert headers["content-disposition"] == f"inline;filename={fingerprint}.tar"
    assert guest.request(path)[0] == 404
    lxc("config", "set", name, "security.devlxd.images", "false")
    assert guest.request(path)[0] == 403


def test_when_it_is_another_machine(api: Api, lxc: Client, make_instance: Callable[..., str]) -> None:
    """cloud-init does its work anew for another instance-id."""
    name = make_instance("machine", start=False)

    def identity(of: str = name) -> str:
        return str(api.get(f"/1.0/instances/{of}")["config"]["volatile.cloud-init.instance-id"])

    seen = [identity()]

    def is_another() -> bool:
        seen.append(identity())
        return seen[-1] != seen[-2]

    lxc("config", "set", name, "cloud-init.user-data", "#cloud-config\n{}")
    assert is_another()
    lxc("config", "set", name, "user.foo", "bar")
    assert not is_another()
    lxc("snapshot", name, "s0")
    lxc("restore", name, "s0")
    assert not is_another()
    lxc("config", "set", name, "cloud-init.user-data", "#cloud-config\n{a: b}")
    assert is_another()
    lxc("restore", name, "s0")
    assert is_another()
    lxc("profile", "create", "data")
    try:
        lxc("profile", "add", name, "data")
        assert not is_another()
        lxc("profile", "set", "data", "user.vendor-data", "#cloud-config\n{}")
        assert is_another()
        lxc("profile", "remove", name, "data")
        assert is_another()
    finally:
        lxc("profile", "delete", "data")
    lxc("copy", name, "machine-copy")
    try:
        assert identity("machine-copy") not in seen
    finally:
        lxc("delete", "machine-copy")
    lxc("config", "device", "override", name, "eth0", "limits.ingress=1Mbit")
    assert not is_another()
    lxc("config", "device", "set", name, "eth0", "name=lan0")
    assert is_another()
    assert len(set(seen)) == 7
