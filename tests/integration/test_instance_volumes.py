"""The volumes of instances and images, on every driver: shared, full, limited, and when the daemon is killed."""

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.api import Api, ApiError
from harness.daemon import Daemon

VOLUMES = "/1.0/storage-pools/default/volumes"


@pytest.fixture(scope="module", params=["dir", "btrfs"])
def stored(request: pytest.FixtureRequest, make_daemon: Callable[[], Daemon], busybox_image: Path) -> Daemon:
    """A daemon with a pool of each driver and the image `busybox`."""
    daemon = make_daemon()
    daemon.start()
    with daemon.api() as api:
        config = {"size": "256MiB"} if request.param == "btrfs" else {}
        api.call("POST", "/1.0/storage-pools", {"name": "default", "driver": request.param, "config": config})
        devices = {"root": {"type": "disk", "path": "/", "pool": "default"}}
        api.call("PUT", "/1.0/profiles/default", {"config": {}, "description": "", "devices": devices})
        api.upload_image(busybox_image, "busybox")
    return daemon


@pytest.fixture
def rest(stored: Daemon) -> Iterator[Api]:
    with stored.api() as api:
        yield api
    with stored.api() as api:
        for instance in api.get("/1.0/instances"):
            api.run("DELETE", instance)
        for volume in api.get(f"{VOLUMES}/image"):
            api.call("DELETE", volume)
        assert names(api, "container") == names(api, "image") == []


def names(api: Api, kind: str) -> list[str]:
    return [volume["name"] for volume in api.get(f"{VOLUMES}/{kind}?recursion=1")]


def directories(daemon: Daemon, kind: str) -> list[str]:
    return sorted(path.name for path in (daemon.state_dir / "storage-pools" / "default" / kind).iterdir())


def test_an_image_is_kept_once_and_goes_with_the_image(stored: Daemon, rest: Api, busybox_image: Path) -> None:
    operations = [
        rest.start("POST", "/1.0/instances", {"name": f"c{number}", "source": {"type": "image", "alias": "busybox"}})
        for number in range(5)
    ]
    for operation in operations:
        rest.wait(operation)
    fingerprint = rest.get("/1.0/images/aliases/busybox")["target"]
    assert names(rest, "container") == [f"c{number}" for number in range(5)]
    assert names(rest, "image") == directories(stored, "images") == [fingerprint]
    assert rest.get(f"{VOLUMES}/image/{fingerprint}")["used_by"] == [f"/1.0/images/{fingerprint}"]
    assert rest.get(f"{VOLUMES}/container/c0")["used_by"] == ["/1.0/instances/c0"]
    with pytest.raises(ApiError, match="cannot be deleted with the storage API"):
        rest.call("DELETE", f"{VOLUMES}/container/c0")
    rest.run("DELETE", f"/1.0/images/{fingerprint}")
    assert names(rest, "image") == directories(stored, "images") == []
    assert len(names(rest, "container")) == 5
    rest.upload_image(busybox_image, "busybox")


def test_a_cached_image_can_be_removed_and_comes_again(stored: Daemon, rest: Api) -> None:
    rest.create("c1", "busybox")
    (fingerprint,) = names(rest, "image")
    rest.call("DELETE", f"{VOLUMES}/image/{fingerprint}")
    assert directories(stored, "images") == []
    rest.create("c2", "busybox")
    assert names(rest, "image") == [fingerprint]


def test_a_full_pool_refuses_clearly(stored: Daemon, rest: Api) -> None:
    if rest.get("/1.0/storage-pools/default")["driver"] == "dir":
        pytest.skip("the pool is as large as the disk of this machine")
    rest.call("POST", f"{VOLUMES}/custom", {"name": "v"})
    pool = stored.state_dir / "storage-pools" / "default"
    # What the tests before have deleted becomes free in the background.
    for argv in (["filesystem", "sync"], ["subvolume", "sync", "-s", "1"], ["filesystem", "sync"]):
        subprocess.run(["btrfs", *argv, pool], check=True, capture_output=True)
    ballast = pool / "custom" / "default_v" / "ballast"
    with ballast.open("wb") as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(b"x" * 2**20)
            file.flush()
    with pytest.raises(ApiError, match=r'Storage pool "default" is full: .* left'):
        rest.create("c1", "busybox")
    assert names(rest, "container") == directories(stored, "containers") == []
    assert names(rest, "image") == directories(stored, "images") == []
    assert rest.get("/1.0/instances") == []
    # Whoever makes room can go on at once, though the kernel frees what was deleted later.
    rest.call("DELETE", f"{VOLUMES}/custom/v")
    rest.create("c1", "busybox")


def test_a_root_disk_has_its_size(stored: Daemon, rest: Api) -> None:
    if rest.get("/1.0/storage-pools/default")["driver"] == "dir":
        pytest.skip("the disk of this machine has no project quotas")
    root = {"type": "disk", "path": "/", "pool": "default", "size": "20MiB"}
    rest.create("c1", "busybox", devices={"root": root})
    big = stored.state_dir / "storage-pools" / "default" / "containers" / "c1" / "rootfs" / "big"
    with pytest.raises(OSError, match="quota"), big.open("wb") as file:
        for _ in range(40):
            file.write(b"x" * 2**20)
            file.flush()
    assert "size" not in rest.get(f"{VOLUMES}/container/c1")["config"]
    big.unlink()


def test_killed_while_it_creates(stored: Daemon, rest: Api) -> None:
    def create(name: str) -> None:
        with stored.api() as api:
            try:
                api.create(name, "busybox")
            except (ApiError, OSError, ValueError):
                return

    for attempt in range(6):
        for volume in rest.get(f"{VOLUMES}/image"):
            rest.call("DELETE", volume)
        threads = [threading.Thread(target=create, args=(f"c{attempt}-{number}",)) for number in range(3)]
        for thread in threads:
            thread.start()
        # Not a wait: the moment of the blow is what the test varies.
        time.sleep(0.02 * attempt)
        stored.kill()
        for thread in threads:
            thread.join(30)
        stored.start()
        rest.close()
        instances = sorted(url.rpartition("/")[2] for url in rest.get("/1.0/instances"))
        assert names(rest, "container") == directories(stored, "containers") == instances
        assert names(rest, "image") == directories(stored, "images")
        links = sorted(path.name for path in (stored.state_dir / "containers").iterdir())
        assert links == instances
