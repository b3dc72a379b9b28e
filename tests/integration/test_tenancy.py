"""Instances and volumes between projects and pools; the server's own directories on a volume; sums under load."""

import concurrent.futures
from collections.abc import Callable, Iterator

import pytest

from harness.api import Api, ApiError
from harness.daemon import Daemon

SHARED = {"features.profiles": "false", "features.images": "false"}


@pytest.fixture
def projects(api: Api) -> Iterator[tuple[str, str]]:
    """Two projects with the images and profiles of the default one."""
    for name in ("one", "two"):
        api.call("POST", "/1.0/projects", {"name": name, "config": SHARED})
    yield "one", "two"
    for name in ("one", "two"):
        for instance in api.get(f"/1.0/instances?project={name}"):
            api.run("DELETE", instance)
        api.call("DELETE", f"/1.0/projects/{name}")


@pytest.fixture
def other_pool(api: Api) -> Iterator[str]:
    """A second pool, with another driver than the first."""
    api.call("POST", "/1.0/storage-pools", {"name": "other", "driver": "dir", "config": {}})
    yield "other"
    api.call("DELETE", "/1.0/storage-pools/other")


def _copy(api: Api, source: str, name: str, target: str, **more: object) -> None:
    body = {"name": name, "source": {"type": "copy", "source": source, **more}, "profiles": ["default"]}
    api.run("POST", f"/1.0/instances?project={target}", body)


def test_copies_have_the_snapshots(api: Api, make_instance: Callable[..., str], projects: tuple[str, str]) -> None:
    name = make_instance(start=False)
    for snapshot in ("first", "second"):
        api.run("POST", f"/1.0/instances/{name}/snapshots", {"name": snapshot})
    _copy(api, name, "copied", projects[0], project="default")
    found = api.get(f"/1.0/instances/copied/snapshots?recursion=1&project={projects[0]}")
    assert [one["name"] for one in found] == ["first", "second"]
    _copy(api, name, "alone", projects[0], project="default", instance_only=True)
    assert api.get(f"/1.0/instances/alone/snapshots?project={projects[0]}") == []
    _copy(api, f"{name}/first", "of-first", projects[0], project="default")
    before, after = (api.get(f"/1.0/instances/{one}") for one in (name, f"of-first?project={projects[0]}"))
    assert before["config"]["volatile.uuid"] != after["config"]["volatile.uuid"]
    assert before["config"]["volatile.base_image"] == after["config"]["volatile.base_image"]
    with pytest.raises(ApiError, match="already exists"):
        _copy(api, name, "copied", projects[0], project="default")


def test_a_copy_is_refreshed(api: Api, make_instance: Callable[..., str], projects: tuple[str, str]) -> None:
    name = make_instance(start=False)
    _copy(api, name, "copied", projects[0], project="default")
    api.run("POST", f"/1.0/instances/{name}/snapshots", {"name": "later"})
    _copy(api, name, "copied", projects[0], project="default", refresh=True)
    found = api.get(f"/1.0/instances/copied/snapshots?recursion=1&project={projects[0]}")
    assert [one["name"] for one in found] == ["later"]


def test_moves_between_projects(api: Api, projects: tuple[str, str]) -> None:
    one, two = projects
    body = {"name": "wanderer", "source": {"type": "image", "alias": "busybox"}}
    api.run("POST", f"/1.0/instances?project={one}", body)
    api.run("POST", f"/1.0/instances/wanderer/snapshots?project={one}", {"name": "kept"})
    move = {"name": "wanderer", "migration": True, "live": False, "project": two}
    api.run("POST", f"/1.0/instances/wanderer?project={one}", move)
    assert api.get(f"/1.0/instances?project={one}") == []
    found = api.get(f"/1.0/instances/wanderer/snapshots?recursion=1&project={two}")
    assert [snapshot["name"] for snapshot in found] == ["kept"]
    api.run("PUT", f"/1.0/instances/wanderer/state?project={two}", {"action": "start"})
    with pytest.raises(ApiError, match="must be stopped to move"):
        api.run("POST", f"/1.0/instances/wanderer?project={two}", {**move, "project": one})
    api.run("PUT", f"/1.0/instances/wanderer/state?project={two}", {"action": "stop", "force": True})


def test_moves_between_pools(api: Api, make_instance: Callable[..., str], other_pool: str) -> None:
    name = make_instance(start=False)
    api.run("POST", f"/1.0/instances/{name}/snapshots", {"name": "kept"})
    for pool in (other_pool, "default"):
        api.run("POST", f"/1.0/instances/{name}", {"name": name, "migration": True, "live": False, "pool": pool})
        assert api.get(f"/1.0/instances/{name}")["expanded_devices"]["root"]["pool"] == pool
        assert [one["name"] for one in api.get(f"/1.0/instances/{name}/snapshots?recursion=1")] == ["kept"]
        api.set_state(name, "start")
        api.set_state(name, "stop", force=True)


def test_limits_hold_while_many_are_made(api: Api, daemon: Daemon) -> None:
    api.call("POST", "/1.0/projects", {"name": "tight", "config": {**SHARED, "limits.containers": "2"}})

    def make(number: int) -> str:
        with daemon.api() as own:
            try:
                own.run("POST", "/1.0/instances?project=tight", {"name": f"c{number}", "source": {"type": "none"}})
            except ApiError as error:
                return error.message
            return "made"

    with concurrent.futures.ThreadPoolExecutor(6) as threads:
        results = list(threads.map(make, range(6)))
    assert results.count("made") == 2
    assert sum("Reached maximum number of instances" in one for one in results) == 4
    for instance in api.get("/1.0/instances?project=tight"):
        api.run("DELETE", instance)
    api.call("DELETE", "/1.0/projects/tight")


def test_images_lie_on_a_volume(api: Api, daemon: Daemon) -> None:
    path = "/1.0/storage-pools/default/volumes/custom"
    api.call("POST", path, {"name": "images"})
    directory = daemon.state_dir / "images"
    before = sorted(entry.name for entry in directory.iterdir())
    api.call("PATCH", "/1.0", {"config": {"storage.images_volume": "default/images"}})
    assert directory.is_symlink()
    assert sorted(entry.name for entry in directory.iterdir()) == before
    with pytest.raises(ApiError, match="used by LXD itself and cannot be deleted"):
        api.call("DELETE", f"{path}/images")
    daemon.kill()
    daemon.start()
    image = api.get("/1.0/images")[0]
    assert api.get(image)["fingerprint"] in before
    api.create("from-volume", "busybox")
    api.delete("from-volume")
    api.call("PATCH", "/1.0", {"config": {"storage.images_volume": ""}})
    assert not directory.is_symlink()
    assert sorted(entry.name for entry in directory.iterdir()) == before
    with pytest.raises(ApiError, match=r"Failed loading"):
        api.call("PATCH", "/1.0", {"config": {"storage.images_volume": "default/nothing"}})
    api.call("DELETE", f"{path}/images")
