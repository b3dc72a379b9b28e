"""Instances and custom volumes go from one server to another, whole or not at all."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import pytest

from conftest import remove_instance
from harness.api import Api, ApiError
from harness.daemon import Daemon
from harness.waiting import until

SOURCE = "https://127.0.0.1:8543"
TARGET = "https://127.0.0.1:8544"


@pytest.fixture(scope="module")
def other(daemon: Daemon, make_daemon: Callable[[], Daemon]) -> Daemon:
    """A second server, with a pool of the driver dir; both listen on the network."""
    other = make_daemon()
    other.start()
    with other.api() as api:
        api.call("POST", "/1.0/storage-pools", {"name": "default", "driver": "dir"})
        devices = {"root": {"type": "disk", "path": "/", "pool": "default"}}
        api.call("PUT", "/1.0/profiles/default", {"config": {}, "description": "", "devices": devices})
        api.call("PATCH", "/1.0", {"config": {"core.https_address": TARGET.removeprefix("https://")}})
    with daemon.api() as api:
        api.call("PATCH", "/1.0", {"config": {"core.https_address": SOURCE.removeprefix("https://")}})
    return other


@pytest.fixture
def far(other: Daemon) -> Iterator[Api]:
    """A connection to the second server; afterwards it is empty."""
    with other.api() as api:
        yield api
        for instance in api.get("/1.0/instances"):
            remove_instance(api, instance.rpartition("/")[2])
        for volume in api.get("/1.0/storage-pools/default/volumes/custom?recursion=1"):
            if "/" not in volume["name"]:
                api.call("DELETE", f"/1.0/storage-pools/default/volumes/custom/{volume['name']}")


def pull(api: Api, far: Api, path: str, collection: str, body: dict[str, Any], **more: object) -> None:
    """Have the second server fetch what is at a path of the first one."""
    operation, source = offer(api, path, more)
    far.run("POST", collection, {**body, "source": {**source, **more}})
    api.wait(operation)


def offer(api: Api, path: str, more: Mapping[str, object]) -> tuple[str, dict[str, object]]:
    """Have the first server offer what is at a path: its operation, and what another server needs to fetch it."""
    sending = api.call("POST", path, {"migration": True, "name": "x", **more})
    source = {
        "type": "migration",
        "mode": "pull",
        "operation": f"{SOURCE}{sending['operation']}",
        "certificate": api.get("/1.0")["environment"]["certificate"],
        "secrets": sending["metadata"]["metadata"],
    }
    return str(sending["operation"]), source


def mark(daemon: Daemon, name: str, text: str) -> None:
    (daemon.state_dir / "containers" / name / "rootfs" / "mark").write_text(text)


def read(daemon: Daemon, name: str) -> str:
    return (daemon.state_dir / "containers" / name / "rootfs" / "mark").read_text()


def test_an_instance_with_snapshots_and_a_refresh(
    daemon: Daemon, other: Daemon, api: Api, far: Api, make_instance: Callable[..., str]
) -> None:
    name = make_instance(start=False, devices={"eth0": {"type": "none"}})
    mark(daemon, name, "old")
    api.run("POST", f"/1.0/instances/{name}/snapshots", {"name": "s0"})
    mark(daemon, name, "new")
    body: dict[str, Any] = {"name": "far", "architecture": "x86_64", "devices": {"eth0": {"type": "none"}}}
    pull(api, far, f"/1.0/instances/{name}", "/1.0/instances", body)
    assert read(other, "far") == "new"
    mark(daemon, name, "newest")
    api.run("POST", f"/1.0/instances/{name}/snapshots", {"name": "s1"})
    pull(api, far, f"/1.0/instances/{name}", "/1.0/instances", body, refresh=True)
    assert read(other, "far") == "newest"
    assert [one["name"] for one in far.get("/1.0/instances/far/snapshots?recursion=1")] == ["s0", "s1"]
    far.set_state("far", "start")
    assert far.execute("far", "true") == 0
    far.set_state("far", "stop", force=True)
    far.run("PUT", "/1.0/instances/far", {"restore": "s0"})
    assert read(other, "far") == "old"


def test_a_running_instance_is_pushed(
    daemon: Daemon, other: Daemon, api: Api, far: Api, make_instance: Callable[..., str]
) -> None:
    name = make_instance()
    mark(daemon, name, "runs")
    source = {"type": "migration", "mode": "push"}
    body = {"name": "far", "source": source, "architecture": "x86_64", "devices": {"eth0": {"type": "none"}}}
    receiving = far.call("POST", "/1.0/instances", body)
    target = {
        "operation": f"{TARGET}{receiving['operation']}",
        "certificate": far.get("/1.0")["environment"]["certificate"],
        "secrets": receiving["metadata"]["metadata"],
    }
    api.run("POST", f"/1.0/instances/{name}", {"migration": True, "live": False, "target": target})
    far.wait(receiving["operation"])
    assert read(other, "far") == "runs"
    assert api.get(f"/1.0/instances/{name}")["status"] == "Running"
    with pytest.raises(ApiError, match="CRIU"):
        api.call("POST", f"/1.0/instances/{name}", {"migration": True, "live": True})


def test_a_custom_volume(daemon: Daemon, other: Daemon, api: Api, far: Api) -> None:
    base = "/1.0/storage-pools/default/volumes/custom"
    api.call("POST", base, {"name": "v", "config": {"user.a": "b"}})
    file = daemon.state_dir / "storage-pools" / "default" / "custom" / "default_v" / "mark"
    file.write_text("old")
    api.run("POST", f"{base}/v/snapshots", {"name": "s0"})
    file.write_text("new")
    pull(api, far, f"{base}/v", base, {"name": "w", "type": "custom", "config": {"user.a": "b"}})
    directory = other.state_dir / "storage-pools" / "default"
    assert (directory / "custom" / "default_w" / "mark").read_text() == "new"
    assert (directory / "custom-snapshots" / "default_w" / "s0" / "mark").read_text() == "old"
    assert far.get(f"{base}/w")["config"] == {"user.a": "b"}
    api.call("DELETE", f"{base}/v")


def test_a_source_that_dies_leaves_nothing(
    daemon: Daemon, other: Daemon, api: Api, far: Api, make_instance: Callable[..., str]
) -> None:
    name = make_instance(start=False)
    (daemon.state_dir / "containers" / name / "rootfs" / "bulk").write_bytes(b"x" * (64 << 20))
    sending = api.call("POST", f"/1.0/instances/{name}", {"migration": True})
    source = {
        "type": "migration",
        "mode": "pull",
        "operation": f"{SOURCE}{sending['operation']}",
        "certificate": api.get("/1.0")["environment"]["certificate"],
        "secrets": sending["metadata"]["metadata"],
    }
    receiving = far.start("POST", "/1.0/instances", {"name": "far", "architecture": "x86_64", "source": source})
    daemon.kill()
    with pytest.raises(ApiError):
        far.wait(receiving)
    daemon.start()
    assert far.get("/1.0/instances") == []
    assert list((other.state_dir / "storage-pools" / "default" / "containers").iterdir()) == []


MOMENTS = ("", "s0", "s1")
"""When a server is killed: just after the request, or once the target has a snapshot."""


def begin(api: Api, far: Api, mode: str, body: dict[str, Any], **more: object) -> list[tuple[Api, str]]:
    """Begin to bring the instance `near` to the second server; the operations of both sides."""
    if mode == "pull":
        operation, source = offer(api, "/1.0/instances/near", {})
        fetching = far.start("POST", "/1.0/instances", {**body, "source": {**source, **more}})
        return [(far, fetching), (api, operation)]
    source = {"type": "migration", "mode": "push", **more}
    receiving = far.call("POST", "/1.0/instances", {**body, "source": source})
    target = {
        "operation": f"{TARGET}{receiving['operation']}",
        "certificate": far.get("/1.0")["environment"]["certificate"],
        "secrets": receiving["metadata"]["metadata"],
    }
    sent = {"migration": True, "name": "x", "target": target}
    return [(api, api.start("POST", "/1.0/instances/near", sent)), (far, receiving["operation"])]


def has_ended(api: Api, operation: str) -> bool:
    """Whether an operation has ended; one of a daemon that died has."""
    try:
        return bool(api.get(operation)["status_code"] >= 200)
    except ApiError as error:
        if error.status != 404:
            raise
        return True


@pytest.fixture
def near(daemon: Daemon, api: Api) -> Iterator[str]:
    """A stopped instance with two snapshots, on the first server."""
    api.create("near", "busybox", devices={"eth0": {"type": "none"}}, config={"user.mark": "1"})
    (daemon.state_dir / "containers" / "near" / "rootfs" / "bulk").write_bytes(b"x" * (12 << 20))
    for number in range(2):
        mark(daemon, "near", f"s{number}")
        api.run("POST", "/1.0/instances/near/snapshots", {"name": f"s{number}"})
    mark(daemon, "near", "now")
    yield "near"
    remove_instance(api, "near")


def check_near(daemon: Daemon, api: Api) -> None:
    """The source is as it was, and nobody holds it."""
    assert read(daemon, "near") == "now"
    assert [one["name"] for one in api.get("/1.0/instances/near/snapshots?recursion=1")] == ["s0", "s1"]
    api.call("PATCH", "/1.0/instances/near", {"config": {"user.mark": "2"}})


def check_far(other: Daemon, far: Api, expected: tuple[str, ...]) -> None:
    """What the second server has is whole, and there is nothing else on its disk."""
    pool = other.state_dir / "storage-pools" / "default"
    names = [one.rpartition("/")[2] for one in far.get("/1.0/instances")]
    assert sorted(one.name for one in (pool / "containers").iterdir()) == names
    snapshots = {
        one.name: sorted(kept.name for kept in one.iterdir()) for one in (pool / "containers-snapshots").iterdir()
    }
    assert snapshots == {
        name: found
        for name in names
        if (found := [one["name"] for one in far.get(f"/1.0/instances/{name}/snapshots?recursion=1")])
    }
    for name in names:
        assert read(other, name) in expected
        for one in snapshots.get(name, []):
            assert (pool / "containers-snapshots" / name / one / "rootfs" / "mark").read_text() == one


@pytest.mark.parametrize(
    ("way", "killed"),
    [("pull", "target"), ("push", "target"), ("refresh", "target"), ("pull", "source"), ("push", "source")],
)
def test_a_server_that_is_killed_in_a_migration(  # noqa: PLR0913  (fixtures)
    daemon: Daemon, other: Daemon, api: Api, far: Api, near: str, way: str, killed: str
) -> None:
    """Nothing half-made stays, the source is unharmed, and another try succeeds."""
    body: dict[str, Any] = {"name": "far", "architecture": "x86_64", "devices": {"eth0": {"type": "none"}}}
    mode, more = ("pull", {"refresh": True}) if way == "refresh" else (way, {})
    victim = other if killed == "target" else daemon
    kept = other.state_dir / "storage-pools" / "default" / "containers-snapshots" / "far"
    for moment in MOMENTS if killed == "target" else ("s0",):
        if way == "refresh":
            remove_instance(far, "far")
            pull(api, far, "/1.0/instances/near/snapshots/s0", "/1.0/instances", body)
        operations = begin(api, far, mode, body, **more)
        if moment:
            until((kept / moment).exists, f"the target has {moment}", interval_s=0.001)
        victim.kill()
        victim.start()
        for side, operation in operations:
            until(partial(has_ended, side, operation), "the migration has ended")
        check_far(other, far, ("s0", "now") if way == "refresh" else ("now",))
        check_near(daemon, api)
        if far.get("/1.0/instances") and way != "refresh":
            remove_instance(far, "far")
    for side, operation in begin(api, far, mode, body, **more):
        side.wait(operation)
    assert read(other, "far") == "now"
    check_far(other, far, ("now",))
    assert [one["name"] for one in far.get("/1.0/instances/far/snapshots?recursion=1")] == ["s0", "s1"]
