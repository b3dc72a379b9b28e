"""The daemon dies while something is copied, moved, restored or renamed; two verbs meet on one instance; full pools."""

import contextlib
import http.client
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import remove_instance
from corral.server.host.filesystems import btrfs
from harness.api import Api, ApiError
from harness.daemon import Daemon
from harness.waiting import until

DELAYS_MS = (2, 12, 35)
"""When the daemon is killed, counted from the request: each verb is hit at another step."""

POOLS = ("default", "other", "sent")
"""`other` is one of the driver dir; between `sent` and the default pool volumes are sent as streams of btrfs."""

STREAM_DELAYS_MS = (20, 60, 120, 200)
VICTIM = "/1.0/instances/victim"


@pytest.fixture(scope="module")
def pools(daemon: Daemon) -> Daemon:
    """The daemon with two more pools."""
    with daemon.api() as api:
        api.call("POST", "/1.0/storage-pools", {"name": "other", "driver": "dir"})
        api.call("POST", "/1.0/storage-pools", {"name": "sent", "driver": "btrfs", "config": {"size": "1GiB"}})
        # The pool's copy of the image is made with the first instance.
        for pool in ("other", "sent"):
            api.create("first", "busybox", devices={"root": {"type": "disk", "path": "/", "pool": pool}})
            api.delete("first")
    return daemon


@pytest.fixture
def rest(pools: Daemon) -> Iterator[Api]:
    """A connection; afterwards everything that the test made is gone, whatever its name."""
    with pools.api() as api:
        yield api
    with pools.api() as api:
        for instance in api.get("/1.0/instances"):
            remove_instance(api, instance.rpartition("/")[2])
        for pool in POOLS:
            for volume in api.get(f"/1.0/storage-pools/{pool}/volumes/custom?recursion=1"):
                if "/" not in volume["name"]:
                    api.call("DELETE", f"/1.0/storage-pools/{pool}/volumes/custom/{volume['name']}")
        assert_whole(pools, api)
        for image in api.get("/1.0/images?recursion=1"):
            if not image["aliases"]:
                api.run("DELETE", f"/1.0/images/{image['fingerprint']}")


def kill_and_restart(daemon: Daemon, delay_ms: int) -> None:
    time.sleep(delay_ms / 1000)
    daemon.kill()
    daemon.start()


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []


def pool_of(instance: dict[str, Any]) -> str:
    (root,) = [one for one in instance["expanded_devices"].values() if one.get("path") == "/"]
    pool: str = root["pool"]
    return pool


def assert_whole(daemon: Daemon, api: Api) -> None:
    """What the database, the pools and the links tell is the same."""
    instances = {one["name"]: one for one in api.get("/1.0/instances?recursion=2")}
    for pool in POOLS:
        here = sorted(name for name, one in instances.items() if pool_of(one) == pool)
        volumes = api.get(f"/1.0/storage-pools/{pool}/volumes/container?recursion=1")
        assert sorted(one["name"] for one in volumes if "/" not in one["name"]) == here
        directory = daemon.state_dir / "storage-pools" / pool
        assert names_in(directory / "containers") == here
        for name in here:
            snapshots = sorted(one["name"] for one in instances[name]["snapshots"] or [])
            assert sorted(one["name"] for one in volumes if one["name"].startswith(f"{name}/")) == [
                f"{name}/{one}" for one in snapshots
            ]
            assert names_in(directory / "containers-snapshots" / name) == snapshots
            link = (daemon.state_dir / "containers" / name).resolve()
            assert link == (directory / "containers" / name).resolve()
        assert names_in(directory / "containers-snapshots") == [name for name in here if instances[name]["snapshots"]]
        custom = api.get(f"/1.0/storage-pools/{pool}/volumes/custom?recursion=1")
        assert names_in(directory / "custom") == sorted(
            f"default_{one['name']}" for one in custom if "/" not in one["name"]
        )
        for parent in names_in(directory / "custom-snapshots"):
            assert [
                f"{parent.removeprefix('default_')}/{one}" for one in names_in(directory / "custom-snapshots" / parent)
            ] == [one["name"] for one in custom if one["name"].startswith(f"{parent.removeprefix('default_')}/")]
    assert names_in(daemon.state_dir / "containers") == sorted(instances)


def write(daemon: Daemon, name: str, text: str) -> None:
    """Write a file into a stopped instance."""
    (daemon.state_dir / "containers" / name / "rootfs" / "mark").write_text(text)


def read(daemon: Daemon, name: str) -> str:
    return (daemon.state_dir / "containers" / name / "rootfs" / "mark").read_text()


def make_victim(daemon: Daemon, api: Api, pool: str = "default", name: str = "victim") -> None:
    """An instance whose file says "new" and whose snapshot s0 says "old", in configuration and contents."""
    root = {"type": "disk", "path": "/", "pool": pool}
    api.create(name, "busybox", devices={"root": root}, config={"user.mark": "old"})
    write(daemon, name, "old")
    api.run("POST", f"/1.0/instances/{name}/snapshots", {"name": "s0"})
    api.call("PATCH", f"/1.0/instances/{name}", {"config": {"user.mark": "new"}})
    write(daemon, name, "new")


def assert_victim(daemon: Daemon, api: Api, name: str = "victim", *, states: tuple[str, ...] = ("new",)) -> None:
    """It is whole: file and configuration agree, and it works."""
    found = api.get(f"/1.0/instances/{name}")
    assert read(daemon, name) == found["config"]["user.mark"]
    assert found["config"]["user.mark"] in states
    api.set_state(name, "start")
    assert api.execute(name, "true") == 0
    api.set_state(name, "stop", force=True)


@pytest.mark.parametrize("delay_ms", DELAYS_MS)
def test_killed_during_snapshot(pools: Daemon, rest: Api, delay_ms: int) -> None:
    make_victim(pools, rest, "other")
    rest.start("POST", f"{VICTIM}/snapshots", {"name": "s1"})
    kill_and_restart(pools, delay_ms)
    assert_whole(pools, rest)
    assert_victim(pools, rest)
    if f"{VICTIM}/snapshots/s1" not in rest.get(f"{VICTIM}/snapshots"):
        rest.run("POST", f"{VICTIM}/snapshots", {"name": "s1"})


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("delay_ms", DELAYS_MS)
def test_killed_during_restore(pools: Daemon, rest: Api, pool: str, delay_ms: int) -> None:
    make_victim(pools, rest, pool)
    rest.start("PUT", VICTIM, {"restore": "s0"})
    kill_and_restart(pools, delay_ms)
    assert_whole(pools, rest)
    assert_victim(pools, rest, states=("old", "new"))
    rest.run("PUT", VICTIM, {"restore": "s0"})
    assert_victim(pools, rest, states=("old",))


def body_of_copy(pool: str) -> dict[str, Any]:
    return {
        "name": "copy",
        "source": {"type": "copy", "source": "victim"},
        "devices": {"root": {"type": "disk", "path": "/", "pool": pool}},
    }


@pytest.mark.parametrize(
    ("pool", "delay_ms"), [*(("other", one) for one in DELAYS_MS), *(("sent", one) for one in STREAM_DELAYS_MS)]
)
def test_killed_during_copy(pools: Daemon, rest: Api, pool: str, delay_ms: int) -> None:
    make_victim(pools, rest)
    body = body_of_copy(pool)
    rest.start("POST", "/1.0/instances", body)
    kill_and_restart(pools, delay_ms)
    assert_whole(pools, rest)
    assert_victim(pools, rest)
    if "/1.0/instances/copy" not in rest.get("/1.0/instances"):
        rest.run("POST", "/1.0/instances", body)
    assert_victim(pools, rest, "copy")
    assert rest.get("/1.0/instances/copy/snapshots") == ["/1.0/instances/copy/snapshots/s0"]


@pytest.mark.parametrize("snapshot", ["", "s0"])
def test_a_copy_into_another_pool_of_btrfs(pools: Daemon, rest: Api, snapshot: str) -> None:
    """Nested subvolumes stay subvolumes, snapshots share what is the same and cannot be written, limits are kept."""
    make_victim(pools, rest)
    rootfs = pools.state_dir / "containers" / "victim" / "rootfs"
    btrfs.create_subvolume(rootfs / "nested")
    (rootfs / "nested" / "inside").write_text("kept")
    (rootfs / "large").write_bytes(os.urandom(4 << 20))
    rest.run("POST", f"{VICTIM}/snapshots", {"name": "s1"})
    body = body_of_copy("sent")
    body["source"]["source"] = f"victim/{snapshot}".rstrip("/")
    body["devices"]["root"]["size"] = "300MiB"
    rest.run("POST", "/1.0/instances", body)
    assert_whole(pools, rest)
    volume = pools.state_dir / "storage-pools" / "sent" / "containers" / "copy"
    assert btrfs.list_nested(volume) == ([] if snapshot else ["rootfs/nested"])
    assert read(pools, "copy") == ((snapshot and "old") or "new")
    quota = btrfs.find_quota(volume)
    assert quota is not None
    assert quota.max_referenced == 300 << 20
    if not snapshot:
        assert (volume / "rootfs" / "nested" / "inside").read_text() == "kept"
        kept = volume.parents[1] / "containers-snapshots" / "copy" / "s1"
        assert btrfs.is_read_only(kept)
        assert btrfs.list_nested(kept) == ["rootfs/nested"]
        assert quota.exclusive < 2 << 20
    # Nothing tells a later stream that this is what it was received from.
    rest.set_state("copy", "start")
    assert rest.execute("copy", "true") == 0


@pytest.mark.parametrize("delay_ms", DELAYS_MS)
@pytest.mark.parametrize(("pool", "target"), [("default", "other"), ("other", "default"), ("sent", "default")])
def test_killed_during_move(pools: Daemon, rest: Api, pool: str, target: str, delay_ms: int) -> None:
    make_victim(pools, rest, pool)
    rest.start("POST", VICTIM, {"migration": True, "name": "victim", "pool": target})
    kill_and_restart(pools, delay_ms)
    assert rest.get("/1.0/instances") == [VICTIM]
    assert rest.get(f"{VICTIM}/snapshots") == [f"{VICTIM}/snapshots/s0"]
    assert_whole(pools, rest)
    assert_victim(pools, rest)
    rest.run("PUT", VICTIM, {"restore": "s0"})
    assert_victim(pools, rest, states=("old",))


@pytest.mark.parametrize("delay_ms", DELAYS_MS)
def test_killed_during_rename(pools: Daemon, rest: Api, delay_ms: int) -> None:
    make_victim(pools, rest)
    rest.start("POST", VICTIM, {"name": "renamed"})
    kill_and_restart(pools, delay_ms)
    assert_whole(pools, rest)
    (name,) = (url.rpartition("/")[2] for url in rest.get("/1.0/instances"))
    assert name in ("victim", "renamed")
    assert_victim(pools, rest, name)
    rest.run("PUT", f"/1.0/instances/{name}", {"restore": "s0"})
    assert_victim(pools, rest, name, states=("old",))


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("delay_ms", DELAYS_MS)
def test_killed_during_refresh(pools: Daemon, rest: Api, pool: str, delay_ms: int) -> None:
    make_victim(pools, rest)
    body = {
        "name": "copy",
        "source": {"type": "copy", "source": "victim", "refresh": True},
        "devices": {"root": {"type": "disk", "path": "/", "pool": pool}},
    }
    rest.run("POST", "/1.0/instances", body)
    write(pools, "victim", "newest")
    rest.run("POST", f"{VICTIM}/snapshots", {"name": "s1"})
    rest.start("POST", "/1.0/instances", body)
    kill_and_restart(pools, delay_ms)
    assert_whole(pools, rest)
    assert read(pools, "copy") in ("new", "newest")
    rest.run("POST", "/1.0/instances", body)
    assert read(pools, "copy") == "newest"
    assert [url.rpartition("/")[2] for url in rest.get("/1.0/instances/copy/snapshots")] == ["s0", "s1"]
    assert_whole(pools, rest)


@pytest.mark.parametrize("delay_ms", DELAYS_MS[1:])
def test_killed_during_publish(pools: Daemon, rest: Api, delay_ms: int) -> None:
    make_victim(pools, rest)
    before = rest.get("/1.0/images")
    source = {"type": "instance", "name": "victim"}
    rest.start("POST", "/1.0/images", {"source": source, "compression_algorithm": "none"})
    kill_and_restart(pools, delay_ms)
    assert_whole(pools, rest)
    assert_victim(pools, rest)
    for url in set(rest.get("/1.0/images")) - set(before):
        status, _, content = rest.raw("GET", f"{url}/export")
        assert status == 200
        assert len(content) > 100000


@pytest.mark.parametrize("verb", ["copy", "move", "rename", "snapshot", "restore"])
@pytest.mark.parametrize("delay_ms", [3, 20])
def test_killed_with_a_custom_volume(pools: Daemon, rest: Api, verb: str, delay_ms: int) -> None:
    base = "/1.0/storage-pools/default/volumes"
    rest.call("POST", f"{base}/custom", {"name": "v"})
    mark = pools.state_dir / "storage-pools" / "default" / "custom" / "default_v" / "mark"
    mark.write_text("old")
    rest.run("POST", f"{base}/custom/v/snapshots", {"name": "s0"})
    mark.write_text("new")
    requests: dict[str, tuple[str, str, object]] = {
        "copy": (
            "POST",
            "/1.0/storage-pools/other/volumes/custom",
            {"name": "w", "source": {"type": "copy", "name": "v", "pool": "default"}},
        ),
        "move": ("POST", f"{base}/custom/v", {"name": "v", "pool": "other"}),
        "rename": ("POST", f"{base}/custom/v", {"name": "w"}),
        "snapshot": ("POST", f"{base}/custom/v/snapshots", {"name": "s1"}),
        "restore": ("PUT", f"{base}/custom/v", {"restore": "s0"}),
    }

    thread = threading.Thread(target=_send, args=(pools, *requests[verb]))
    thread.start()
    kill_and_restart(pools, delay_ms)
    thread.join(30)
    assert_whole(pools, rest)
    places = [
        (pool, one["name"])
        for pool in POOLS
        for one in rest.get(f"/1.0/storage-pools/{pool}/volumes/custom?recursion=1")
        if "/" not in one["name"]
    ]
    assert len(places) == 1 or (verb == "copy" and len(places) == 2)
    for pool, name in places:
        path = pools.state_dir / "storage-pools" / pool / "custom" / f"default_{name}" / "mark"
        assert path.read_text() in (("new", "old") if verb == "restore" else ("new",))
        assert f"/1.0/storage-pools/{pool}/volumes/custom/{name}/snapshots/s0" in rest.get(
            f"/1.0/storage-pools/{pool}/volumes/custom/{name}/snapshots"
        )


@pytest.mark.parametrize("pool", POOLS)
def test_killed_while_a_custom_volume_is_renamed(pools: Daemon, rest: Api, pool: str) -> None:
    """Row, directory, snapshots, backups and the device of an instance have one name, the old one or the new one."""
    base = f"/1.0/storage-pools/{pool}/volumes/custom"
    rest.call("POST", f"/1.0/storage-pools/{pool}/volumes/custom", {"name": "v"})
    place = pools.state_dir / "storage-pools" / pool / "custom"
    (place / "default_v" / "mark").write_text("new")
    rest.run("POST", f"{base}/v/snapshots", {"name": "s0"})
    rest.run("POST", f"{base}/v/backups", {"name": "b0", "compression_algorithm": "none"})
    make_victim(pools, rest, pool)
    device = {"type": "disk", "pool": pool, "source": "v", "path": "/mnt"}
    rest.call("PATCH", VICTIM, {"devices": {**rest.get(VICTIM)["devices"], "extra": device}})
    name = "v"
    for delay_ms in (0, 2, 4, 7, 11):
        other = {"v": "w", "w": "v"}[name]
        thread = threading.Thread(target=_send, args=(pools, "POST", f"{base}/{name}", {"name": other}))
        thread.start()
        kill_and_restart(pools, delay_ms)
        thread.join(30)
        (found,) = [one["name"] for one in rest.get(f"{base}?recursion=1") if "/" not in one["name"]]
        name = found
        assert names_in(place) == [f"default_{name}"]
        assert (place / f"default_{name}" / "mark").read_text() == "new"
        assert rest.get(f"{base}/{name}/snapshots") == [f"{base}/{name}/snapshots/s0"]
        assert rest.raw("GET", f"{base}/{name}/backups/b0/export")[0] == 200
        assert rest.get(VICTIM)["devices"]["extra"]["source"] == name
    assert_whole(pools, rest)
    assert_victim(pools, rest)


def _send(daemon: Daemon, method: str, path: str, body: object) -> None:
    """Send a request to a daemon that may die."""
    with daemon.api() as api, contextlib.suppress(ApiError, OSError, ValueError, http.client.HTTPException):
        api.call(method, path, body)


VERBS: dict[str, tuple[str, str, object]] = {
    "start": ("PUT", f"{VICTIM}/state", {"action": "start"}),
    "stop": ("PUT", f"{VICTIM}/state", {"action": "stop", "force": True}),
    "snapshot": ("POST", f"{VICTIM}/snapshots", {"name": "s1"}),
    "restore": ("PUT", VICTIM, {"restore": "s0"}),
    "copy": ("POST", "/1.0/instances", {"name": "copy", "source": {"type": "copy", "source": "victim"}}),
    "move": ("POST", VICTIM, {"migration": True, "name": "victim", "pool": "other"}),
    "rename": ("POST", VICTIM, {"name": "renamed"}),
    "delete": ("DELETE", VICTIM, None),
    "exec": ("POST", f"{VICTIM}/exec", {"command": ["true"], "wait-for-websocket": False}),
    "update": ("PUT", VICTIM, {"config": {"user.mark": "new", "user.more": "1"}, "profiles": ["default"]}),
    "backup": ("POST", f"{VICTIM}/backups", {"name": "b", "compression_algorithm": "none"}),
    "publish": (
        "POST",
        "/1.0/images",
        {"source": {"type": "instance", "name": "victim"}, "compression_algorithm": "none"},
    ),
}


def run_together(daemon: Daemon, verbs: list[str]) -> list[str]:
    """Begin verbs at once and return how each ended: "" or its error."""
    ended: list[str] = []

    def run(verb: str) -> None:
        with daemon.api() as api:
            try:
                reply = api.call(*VERBS[verb])
                if reply.get("operation"):
                    api.wait(reply["operation"])
            except ApiError as error:
                ended.append(error.message)
            else:
                ended.append("")

    threads = [threading.Thread(target=run, args=(verb,)) for verb in verbs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return ended


TOGETHER = ("snapshot", "restore", "copy", "move", "rename", "delete", "publish")
"""Verbs that take so long that another one meets them."""


@pytest.mark.parametrize(
    ("first", "second"),
    # A third of all pairs, each verb with each other kind of verb.
    [(first, second) for shift, first in enumerate(TOGETHER) for second in list(VERBS)[shift % 3 :: 3]],
)
def test_two_verbs_at_once(pools: Daemon, rest: Api, first: str, second: str) -> None:
    """Whichever comes first: both end, the second with its work done or an error that says why, and all is whole."""
    make_victim(pools, rest, "other" if first == "snapshot" else "default")
    ended = run_together(pools, [first, second])
    assert len(ended) == 2
    assert not [message for message in ended if "Internal" in message]
    for instance in rest.get("/1.0/instances?recursion=1"):
        if instance["status"] != "Stopped":
            rest.set_state(instance["name"], "stop", force=True)
    assert_whole(pools, rest)
    left = [url.rpartition("/")[2] for url in rest.get("/1.0/instances")]
    assert "victim" in left or "renamed" in left or "delete" in (first, second)
    for name in left:
        assert read(pools, name) == rest.get(f"/1.0/instances/{name}")["config"]["user.mark"]


@pytest.fixture
def small(pools: Daemon, rest: Api) -> Iterator[str]:
    """A pool that is nearly full."""
    rest.call("POST", "/1.0/storage-pools", {"name": "small", "driver": "btrfs", "config": {"size": "128MiB"}})
    ballast = pools.state_dir / "storage-pools" / "small" / "containers" / ".partial-ballast"
    with contextlib.suppress(OSError), ballast.open("wb") as file:
        while True:
            file.write(b"x" * 2**20)
            file.flush()
    yield "small"
    ballast.unlink()
    rest.call("DELETE", "/1.0/storage-pools/small")


def test_a_full_pool_takes_nothing_away(pools: Daemon, rest: Api, small: str) -> None:
    make_victim(pools, rest)
    (pools.state_dir / "containers" / "victim" / "rootfs" / "bulk").write_bytes(b"y" * 2**23)
    body = {
        "name": "copy",
        "source": {"type": "copy", "source": "victim"},
        "devices": {"root": {"type": "disk", "path": "/", "pool": small}},
    }
    with pytest.raises(ApiError, match="full"):
        rest.run("POST", "/1.0/instances", body)
    with pytest.raises(ApiError, match="full"):
        rest.run("POST", VICTIM, {"migration": True, "name": "victim", "pool": small})
    assert rest.get("/1.0/instances") == [VICTIM]
    assert rest.get(f"/1.0/storage-pools/{small}/volumes/container") == []
    assert names_in(pools.state_dir / "storage-pools" / small / "containers") == [".partial-ballast"]
    assert_whole(pools, rest)
    assert_victim(pools, rest)


@pytest.mark.parametrize("delay_ms", [2, 10, 30])
@pytest.mark.parametrize("verb", ["copy", "move", "restore"])
def test_a_cancelled_verb(pools: Daemon, rest: Api, verb: str, delay_ms: int) -> None:
    make_victim(pools, rest, "other")
    operation = (
        rest.start(*VERBS[verb])
        if verb != "move"
        else rest.start("POST", VICTIM, {"migration": True, "name": "victim", "pool": "default"})
    )
    time.sleep(delay_ms / 1000)
    with contextlib.suppress(ApiError):  # it may be too late
        rest.call("DELETE", operation)
    with contextlib.suppress(ApiError):
        rest.wait(operation)
    assert_whole(pools, rest)
    assert_victim(pools, rest, states=("old", "new"))


def test_a_running_container_is_halted_while_its_files_are_copied(
    pools: Daemon, rest: Api, make_instance: Callable[..., str]
) -> None:
    root = {"type": "disk", "path": "/", "pool": "other"}
    name = make_instance(devices={"root": root})
    rest.run("POST", f"/1.0/instances/{name}/snapshots", {"name": "s0"})
    rest.run("POST", "/1.0/instances", {"name": "copy", "source": {"type": "copy", "source": name}})
    assert rest.get(f"/1.0/instances/{name}")["status"] == "Running"
    assert rest.execute(name, "true") == 0
    # The daemon dies while the container is halted: the next one lets it go on.
    mark = pools.state_dir / "run" / f"{name}.still"
    mark.touch()
    rest.set_state(name, "freeze")
    pools.kill()
    pools.start()
    until(lambda: rest.get(f"/1.0/instances/{name}")["status"] == "Running", "the container runs on")
    assert not mark.exists()
    assert rest.execute(name, "true") == 0
