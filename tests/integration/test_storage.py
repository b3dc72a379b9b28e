"""Pools and volumes over the REST API of a real daemon, also when it is killed meanwhile."""

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.api import Api, ApiError
from harness.daemon import Daemon, loops

POOLS = "/1.0/storage-pools"


@pytest.fixture
def rest(bare: Daemon) -> Iterator[Api]:
    with bare.api() as api:
        yield api


@pytest.fixture(params=["dir", "btrfs"])
def pool(request: pytest.FixtureRequest, bare: Daemon, rest: Api) -> Iterator[str]:
    """The URL of an empty pool; it and what is in it are removed after the test."""
    config = {"size": "256MiB"} if request.param == "btrfs" else {}
    rest.call("POST", POOLS, {"name": "p1", "driver": request.param, "config": config, "description": "words"})
    yield f"{POOLS}/p1"
    with bare.api() as api:
        if f"{POOLS}/p1" in api.get(POOLS):
            for volume in api.get(f"{POOLS}/p1/volumes/custom"):
                api.call("DELETE", volume)
            api.call("DELETE", f"{POOLS}/p1")


def refused(status: int, text: str, call: Callable[..., Any], *args: Any) -> None:
    with pytest.raises(ApiError) as caught:
        call(*args)
    assert (caught.value.status, text in caught.value.message) == (status, True), caught.value


def test_a_pool_as_the_contract_shows_it(bare: Daemon, rest: Api, pool: str) -> None:
    shown = rest.get(pool)
    driver = shown["driver"]
    source = "disks/p1.img" if driver == "btrfs" else "storage-pools/p1"
    config = {"source": str(bare.state_dir / source)} | ({"size": "256MiB"} if driver == "btrfs" else {})
    assert shown == {
        "config": config,
        "description": "words",
        "driver": driver,
        "locations": ["none"],
        "name": "p1",
        "status": "Created",
        "used_by": [],
    }
    assert rest.get(f"{POOLS}?recursion=1") == [shown]
    assert rest.get(f"{POOLS}?recursion=1&filter=driver+eq+zfs") == []
    resources = rest.get(f"{pool}/resources")
    assert 0 < resources["space"]["used"] < resources["space"]["total"]
    assert set(resources["inodes"]) == {"used", "total"}
    assert driver in rest.get("/1.0")["environment"]["storage"]


def test_bad_pools_are_refused(rest: Api, pool: str) -> None:
    for status, text, body in (
        (409, "The storage pool already exists", {"name": "p1", "driver": "dir"}),
        (400, "No name provided", {"driver": "dir"}),
        (400, "No driver provided", {"name": "p2"}),
        (400, "Unknown driver", {"name": "p2", "driver": "floppy"}),
        (400, "Storage name cannot contain white space", {"name": "p 2", "driver": "dir"}),
        (400, "Storage pool names may not contain slashes", {"name": "../p2", "driver": "dir"}),
        (400, 'Invalid option "size"', {"name": "p2", "driver": "dir", "config": {"size": "1GiB"}}),
        (400, "doesn't exist", {"name": "p2", "driver": "dir", "config": {"source": "/nonexistent"}}),
        (400, "isn't empty", {"name": "p2", "driver": "dir", "config": {"source": "/etc"}}),
        (400, "Failed to format", {"name": "p2", "driver": "btrfs", "config": {"size": "1MiB"}}),
        (400, "btrfs filesystem", {"name": "p2", "driver": "btrfs", "config": {"source": "/nonexistent"}}),
    ):
        refused(status, text, rest.call, "POST", POOLS, body)
    assert rest.get(POOLS) == [f"{POOLS}/p1"]
    refused(404, "Storage pool not found", rest.get, f"{POOLS}/p2")
    refused(404, "Storage pool not found", rest.call, "DELETE", f"{POOLS}/p2")


def test_a_pool_is_changed(rest: Api, pool: str) -> None:
    before = rest.get(pool)
    rest.call("PATCH", pool, {"config": {"volume.size": "20MiB"}})
    assert rest.get(pool)["config"] == before["config"] | {"volume.size": "20MiB"}
    rest.call("PUT", pool, {"config": before["config"], "description": "other"})
    assert rest.get(pool) == before | {"description": "other"}
    refused(400, "Pool source cannot be changed", rest.call, "PATCH", pool, {"config": {"source": "/x"}})
    refused(400, "Pool source cannot be changed", rest.call, "PUT", pool, {"config": {}})
    refused(400, 'Invalid option "foo"', rest.call, "PATCH", pool, {"config": {"foo": "x"}})
    status, headers, _ = rest.raw("GET", pool)
    assert status == 200
    rest.call("PATCH", pool, {"description": "third"}, **{"If-Match": headers["etag"]})
    refused(412, "ETag", lambda: rest.call("PATCH", pool, {"description": "x"}, **{"If-Match": headers["etag"]}))


def test_custom_volumes(bare: Daemon, rest: Api, pool: str) -> None:
    volumes = f"{pool}/volumes"
    rest.call("PATCH", pool, {"config": {"volume.snapshots.expiry": "1d"}})
    rest.call("POST", volumes, {"name": "v1", "type": "custom", "description": "words", "config": {"user.a": "b"}})
    rest.call("POST", f"{volumes}/custom", {"name": "v2"})
    shown = rest.get(f"{volumes}/custom/v1")
    assert shown["created_at"].endswith("Z")
    assert shown == {
        "config": {"user.a": "b", "snapshots.expiry": "1d"},
        "content_type": "filesystem",
        "created_at": shown["created_at"],
        "description": "words",
        "location": "none",
        "name": "v1",
        "project": "default",
        "type": "custom",
        "used_by": [],
    }
    assert rest.get(volumes) == [f"{volumes}/custom/v1", f"{volumes}/custom/v2"]
    assert [volume["name"] for volume in rest.get(f"{volumes}?recursion=1&filter=description+eq+words")] == ["v1"]
    assert rest.get(f"{volumes}/container") == []
    assert rest.get(pool)["used_by"] == [f"{volumes}/custom/v1", f"{volumes}/custom/v2"]
    rest.call("PATCH", f"{volumes}/custom/v1", {"config": {"user.a": "c"}})
    rest.call("PUT", f"{volumes}/custom/v2", {"config": {"user.x": "y"}, "description": "second"})
    assert rest.get(f"{volumes}/custom/v1")["config"] == {"user.a": "c", "snapshots.expiry": "1d"}
    assert rest.get(f"{volumes}/custom/v2")["config"] == {"user.x": "y"}
    rest.call("POST", f"{volumes}/custom/v2", {"name": "v3"})
    refused(409, "Volume by that name already exists", rest.call, "POST", f"{volumes}/custom/v3", {"name": "v1"})
    directory = bare.state_dir / "storage-pools" / "p1" / "custom"
    assert sorted(path.name for path in directory.iterdir()) == ["default_v1", "default_v3"]
    refused(400, "currently in use", rest.call, "DELETE", pool)
    rest.call("DELETE", f"{volumes}/custom/v1")
    refused(404, "not found", rest.get, f"{volumes}/custom/v1")
    rest.call("DELETE", f"{volumes}/custom/v3")
    assert list(directory.iterdir()) == []


def test_snapshots_of_custom_volumes(bare: Daemon, rest: Api, pool: str) -> None:
    volume = f"{pool}/volumes/custom/v1"
    rest.call("POST", f"{pool}/volumes/custom", {"name": "v1", "description": "words", "config": {"user.a": "b"}})
    file = bare.state_dir / "storage-pools" / "p1" / "custom" / "default_v1" / "file"
    file.write_text("one")
    rest.run("POST", f"{volume}/snapshots", {})
    rest.run("POST", f"{volume}/snapshots", {"name": "s1", "expires_at": "2999-01-02T03:04:05Z"})
    file.write_text("two")
    assert rest.get(f"{volume}/snapshots") == [f"{volume}/snapshots/snap0", f"{volume}/snapshots/s1"]
    shown = rest.get(f"{volume}/snapshots/s1")
    assert shown == {
        "config": {"user.a": "b"},
        "content_type": "filesystem",
        "created_at": shown["created_at"],
        "description": "words",
        "expires_at": "2999-01-02T03:04:05Z",
        "name": "s1",
    }
    assert [one["name"] for one in rest.get(f"{volume}/snapshots?recursion=1")] == ["v1/snap0", "v1/s1"]
    assert rest.get(f"{pool}/volumes") == [volume, f"{volume}/snapshots/s1", f"{volume}/snapshots/snap0"]
    assert f"{volume}/snapshots/s1" in rest.get(pool)["used_by"]
    with pytest.raises(ApiError, match="already in use"):
        rest.run("POST", f"{volume}/snapshots", {"name": "s1"})
    rest.run("PUT", f"{volume}/snapshots/s1", {"description": "other"})
    assert rest.get(f"{volume}/snapshots/s1") == shown | {"description": "other", "expires_at": "0001-01-01T00:00:00Z"}
    rest.run("POST", f"{volume}/snapshots/snap0", {"name": "s0"})
    rest.call("PUT", volume, {"restore": "s0"})
    assert file.read_text() == "one"
    assert rest.get(volume)["config"] == {"user.a": "b"}
    refused(404, "not found", rest.call, "PUT", volume, {"restore": "nope"})
    refused(404, "not found", rest.get, f"{volume}/snapshots/snap0")
    rest.run("DELETE", f"{volume}/snapshots/s0")
    rest.call("POST", volume, {"name": "v2"})
    assert rest.get(f"{pool}/volumes/custom/v2/snapshots") == [f"{pool}/volumes/custom/v2/snapshots/s1"]
    rest.call("DELETE", f"{pool}/volumes/custom/v2")
    for name in ("custom", "custom-snapshots"):
        assert list((bare.state_dir / "storage-pools" / "p1" / name).iterdir()) == []


def test_bad_volumes_are_refused(rest: Api, pool: str) -> None:
    volumes = f"{pool}/volumes"
    rest.call("POST", f"{volumes}/custom", {"name": "v1"})
    for status, text, path, body in (
        (409, "Volume by that name already exists", "/custom", {"name": "v1"}),
        (400, "No name provided", "/custom", {}),
        (400, "may not contain slashes", "/custom", {"name": "../x"}),
        (400, "You must provide a storage volume type", "", {"name": "v2"}),
        (400, "Currently not allowed", "/container", {"name": "v2"}),
        (400, 'option "foo"', "/custom", {"name": "v2", "config": {"foo": "x"}}),
        (400, 'option "size"', "/custom", {"name": "v2", "config": {"size": "huge"}}),
        (400, "content type", "/custom", {"name": "v2", "content_type": "tape"}),
        (404, "Storage pool not found", "/../../nope/volumes/custom", {"name": "v2"}),
    ):
        target = f"{POOLS}/nope/volumes/custom" if "nope" in path else f"{volumes}{path}"
        refused(status, text, rest.call, "POST", target, body)
    refused(400, "Invalid storage volume type name", rest.get, f"{volumes}/tape")
    assert rest.get(volumes) == [f"{volumes}/custom/v1"]


def test_volumes_of_projects_are_apart(rest: Api, pool: str) -> None:
    volumes = f"{pool}/volumes"
    rest.call("POST", "/1.0/projects", {"name": "own", "config": {"features.storage.volumes": "true"}})
    rest.call("POST", "/1.0/projects", {"name": "shares", "config": {"features.storage.volumes": "false"}})
    try:
        for project in ("default", "own"):
            rest.call("POST", f"{volumes}/custom?project={project}", {"name": "v1"})
        assert rest.get(f"{volumes}?project=own") == [f"{volumes}/custom/v1?project=own"]
        assert rest.get(f"{volumes}?project=shares") == [f"{volumes}/custom/v1"]
        assert len(rest.get(f"{volumes}?all-projects=true")) == 2
        refused(409, "already exists", rest.call, "POST", f"{volumes}/custom?project=shares", {"name": "v1"})
    finally:
        for volume in rest.get(f"{volumes}?all-projects=true"):
            rest.call("DELETE", volume)
        for project in ("own", "shares"):
            rest.call("DELETE", f"/1.0/projects/{project}")


def mounts_of(daemon: Daemon) -> list[str]:
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [point for point in points if point.startswith(f"{daemon.state_dir}/storage-pools/")]


def test_a_killed_daemon_finds_its_pools_again(bare: Daemon, rest: Api, pool: str) -> None:
    rest.call("POST", f"{pool}/volumes/custom", {"name": "v1"})
    file = bare.state_dir / "storage-pools" / "p1" / "custom" / "default_v1" / "file"
    file.write_text("text")
    mounts, devices = mounts_of(bare), loops(bare.state_dir)
    bare.kill()
    bare.start()
    assert (mounts_of(bare), loops(bare.state_dir)) == (mounts, devices)
    with bare.api() as api:
        assert api.get(pool)["status"] == "Created"
        assert file.read_text() == "text"
        bare.kill(signal.SIGTERM)
    bare.start()
    assert (mounts_of(bare), loops(bare.state_dir)) == (mounts, devices)
    assert file.read_text() == "text"


def test_a_daemon_killed_while_it_makes_a_pool_leaves_nothing(bare: Daemon) -> None:
    with bare.api() as api:
        body = b'{"name": "half", "driver": "btrfs", "config": {"size": "1GiB"}}'
        connection = api._connection
        connection.request("POST", POOLS, body=body, headers={"Content-Type": "application/json"})
        while not (bare.state_dir / "disks" / "half.img").exists():
            assert bare.running
        bare.kill()
    bare.start()
    with bare.api() as api:
        assert api.get(POOLS) == []
    assert list((bare.state_dir / "disks").iterdir()) == []
    assert list((bare.state_dir / "storage-pools").iterdir()) == []
    assert loops(bare.state_dir) == {}


def test_a_pool_whose_storage_is_gone_does_not_stop_the_daemon(bare: Daemon, rest: Api, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    rest.call("POST", POOLS, {"name": "lost", "driver": "dir", "config": {"source": str(source)}})
    bare.stop()
    assert mounts_of(bare) == []
    shutil.rmtree(source)
    bare.start()
    with bare.api() as api:
        assert api.get(f"{POOLS}/lost")["status"] == "Unavailable"
        warnings = [one for one in api.get("/1.0/warnings?recursion=1") if one["entity_url"]]
        assert [(one["type"], one["entity_url"]) for one in warnings] == [("Storage pool unavailable", f"{POOLS}/lost")]
        refused(503, "unavailable", api.call, "POST", f"{POOLS}/lost/volumes/custom", {"name": "v"})
        api.call("DELETE", f"{POOLS}/lost")
        assert api.get(POOLS) == []
