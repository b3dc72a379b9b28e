"""Recovery after a lost database: what lies on the pools comes back as it was, hostile things do not."""

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import remove_instance
from harness.api import Api, ApiError
from harness.daemon import Daemon
from harness.waiting import until

INSTANCE = "/1.0/instances/lost"


def sql(api: Api, query: str) -> None:
    """A statement behind the daemon's back."""
    api.call("POST", "/internal/sql", {"database": "global", "query": query})


def forget(api: Api, name: str) -> None:
    """Lose the records of an instance or a volume."""
    sql(api, f"DELETE FROM instances WHERE name = '{name}'")
    sql(api, f"DELETE FROM storage_volumes WHERE name = '{name}'")


def pool_of(api: Api) -> str:
    """The name of the pool of the default profile."""
    found: str = api.get("/1.0/profiles/default")["devices"]["root"]["pool"]
    return found


def scan(api: Api, *pools: dict[str, Any]) -> dict[str, Any]:
    """What the daemon finds on the pools."""
    wanted = [*pools] or [{"name": pool_of(api)}]
    found: dict[str, Any] = api.call("POST", "/internal/recover/validate", {"pools": wanted})["metadata"]
    return found


def recover(api: Api, *pools: dict[str, Any]) -> None:
    """Have the daemon recover what is on the pools."""
    api.call("POST", "/internal/recover/import", {"pools": [*pools] or [{"name": pool_of(api)}]})


@pytest.fixture
def lost(api: Api) -> Iterator[str]:
    """A name whose instance is removed after the test, wherever it is then."""
    yield "lost"
    with contextlib.suppress(ApiError):
        recover(api)
    remove_instance(api, "lost")


@pytest.fixture
def directory(daemon: Daemon, api: Api) -> Path:
    """Where the instance's volume is."""
    return daemon.state_dir / "storage-pools" / pool_of(api) / "containers" / "lost"


def test_an_instance_comes_back_with_its_snapshots_and_runs_on(daemon: Daemon, api: Api, lost: str) -> None:
    api.create(lost, "busybox", config={"user.colour": "blue", "limits.memory": "100MiB"})
    api.set_state(lost, "start")
    api.run("POST", f"{INSTANCE}/snapshots", {"name": "before"})
    before = api.get(INSTANCE)
    pid = api.get(f"{INSTANCE}/state")["pid"]
    path = daemon.state_dir / "storage-pools" / pool_of(api) / "containers" / lost / "backup.yaml"
    until(lambda: "last_state.power: RUNNING" in path.read_text(), "the start is described")
    forget(api, lost)
    daemon.stop()
    daemon.start()
    with daemon.api() as fresh:
        assert [one["name"] for one in scan(fresh)["UnknownVolumes"]] == [lost]
        recover(fresh)
        after = fresh.get(INSTANCE)
        assert fresh.get(f"{INSTANCE}/state")["pid"] == pid
        # Nobody can say which of its states this was.
        assert after["config"].pop("volatile.uuid.generation") != before["config"].pop("volatile.uuid.generation")
        for key in ("config", "devices", "profiles", "created_at", "status", "architecture"):
            assert after[key] == before[key], key
        assert fresh.get(f"{INSTANCE}/snapshots") == [f"{INSTANCE}/snapshots/before"]
        assert fresh.execute(lost, "true") == 0
        assert scan(fresh) == {"UnknownVolumes": None, "DependencyErrors": None}
        fresh.run("PUT", INSTANCE, {"restore": "before"})
        fresh.set_state(lost, "stop", force=True)


def test_custom_volumes_come_back_with_their_snapshots(api: Api) -> None:
    pool = pool_of(api)
    base = f"/1.0/storage-pools/{pool}/volumes/custom"
    api.call("POST", base, {"name": "kept"})
    api.run("POST", f"{base}/kept/snapshots", {"name": "s1"})
    forget(api, "kept")
    assert scan(api)["UnknownVolumes"] == [
        {"name": "kept", "type": "volume", "snapshotCount": 1, "project": "default", "pool": pool}
    ]
    # Nobody takes its place meanwhile.
    with pytest.raises(ApiError, match="recover"):
        api.call("POST", base, {"name": "kept"})
    recover(api)
    assert api.get(f"{base}/kept/snapshots") == [f"{base}/kept/snapshots/s1"]
    api.call("DELETE", f"{base}/kept")


def test_a_new_instance_does_not_take_the_place_of_a_lost_one(api: Api, lost: str, directory: Path) -> None:
    api.create(lost, "busybox")
    (directory / "rootfs" / "precious").write_text("x")
    forget(api, lost)
    with pytest.raises(ApiError, match="recover"):
        api.create(lost, "busybox")
    assert (directory / "rootfs" / "precious").read_text() == "x"
    recover(api)


def test_what_is_missing_is_told(api: Api, lost: str) -> None:
    api.call("POST", "/1.0/profiles", {"name": "extra"})
    api.create(lost, "busybox", profiles=["default", "extra"])
    forget(api, lost)
    api.call("DELETE", "/1.0/profiles/extra")
    assert scan(api)["DependencyErrors"] == ['Profile "extra" in project "default"']
    recover(api)
    assert api.get("/1.0/instances") == []
    api.call("POST", "/1.0/profiles", {"name": "extra"})
    recover(api)
    assert api.get(INSTANCE)["profiles"] == ["default", "extra"]
    api.run("DELETE", INSTANCE)
    api.call("DELETE", "/1.0/profiles/extra")


def _link(path: Path, text: str) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


def _pipe(path: Path, text: str) -> None:
    path.unlink()
    subprocess.run(["mkfifo", path], check=True)


BAD: list[Callable[[Path, str], object]] = [
    _link,
    _pipe,
    lambda path, text: path.unlink(),
    lambda path, text: path.write_text(""),
    lambda path, text: path.write_text("a: &a [1]\nb: [*a]\n" + text),
    lambda path, text: path.write_bytes(bytes(9 << 20)),
    lambda path, text: path.write_text(text.replace("name: lost", "name: other")),
    lambda path, text: path.write_text(text.replace("limits.memory: 100MiB", "limits.memory: lots")),
    lambda path, text: path.write_text(text.replace("limits.memory: 100MiB", "no.such.key: x")),
    lambda path, text: path.write_text(text.replace("type: container", "type: virtual-machine")),
    lambda path, text: path.write_text(text.replace("driver: ", "driver: not-")),
    lambda path, text: _link_root(path.parent),
]


def _link_root(directory: Path) -> None:
    (directory / "rootfs").rename(directory / "x")
    (directory / "rootfs").symlink_to("/")


@pytest.mark.parametrize("number", range(len(BAD)))
def test_hostile_descriptions(api: Api, lost: str, directory: Path, number: int) -> None:
    api.create(lost, "busybox", config={"limits.memory": "100MiB"})
    forget(api, lost)
    file = directory / "backup.yaml"
    text = file.read_text()
    BAD[number](file, text)
    with pytest.raises(ApiError) as caught:
        scan(api)
        recover(api)
    assert caught.value.status in (400, 404, 500)
    assert "Internal error" not in caught.value.message
    assert api.get("/1.0/instances") == []
    file.unlink(missing_ok=True)
    file.write_text(text)
    if (directory / "x").exists():
        (directory / "rootfs").unlink()
        (directory / "x").rename(directory / "rootfs")
    recover(api)


@pytest.mark.parametrize("delay_ms", [0, 5, 10, 20, 40, 80])
def test_killed_during_recovery(daemon: Daemon, api: Api, lost: str, directory: Path, delay_ms: int) -> None:
    api.create(lost, "busybox")
    api.run("POST", f"{INSTANCE}/snapshots", {"name": "before"})
    (directory / "rootfs" / "precious").write_text("x")
    forget(api, lost)
    body = {"pools": [{"name": pool_of(api)}]}
    with subprocess.Popen(
        ["curl", "-s", "--unix-socket", daemon.socket, "-d", _json(body), "http://x/internal/recover/import"],
        stdout=subprocess.DEVNULL,
    ):
        time.sleep(delay_ms / 1000)
        daemon.kill()
    daemon.start()
    with daemon.api() as fresh:
        # It is back whole, or it can be recovered again.
        recover(fresh)
        assert fresh.get(f"{INSTANCE}/snapshots") == [f"{INSTANCE}/snapshots/before"]
        assert (directory / "rootfs" / "precious").read_text() == "x"
        fresh.run("PUT", INSTANCE, {"restore": "before"})
        fresh.set_state(lost, "start")


def _json(body: object) -> str:
    import json

    return json.dumps(body)


def test_a_pool_that_is_not_known_any_more(daemon: Daemon, api: Api, tmp_path: Path) -> None:
    source = tmp_path / "pool"
    source.mkdir()
    api.call("POST", "/1.0/storage-pools", {"name": "far", "driver": "dir", "config": {"source": str(source)}})
    root = {"root": {"type": "disk", "path": "/", "pool": "far"}}
    api.create("lost", "busybox", devices=root)
    before = api.get("/1.0/storage-pools/far")
    forget(api, "lost")
    sql(api, "DELETE FROM storage_pools WHERE name = 'far'")
    daemon.stop()
    subprocess.run(["umount", daemon.state_dir / "storage-pools" / "far"], check=False, stderr=subprocess.DEVNULL)
    daemon.start()
    answers = f"yes\nfar\ndir\n{source}\nuser.x=1\n\nno\nyes\nyes\n"
    done = subprocess.run(
        [daemon.programs.lxd, "recover"],
        env=daemon.environment,
        input=answers,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert f' - NEW: "far" (backend="dir", source="{source}")' in done.stdout
    assert 'Container "lost" on pool "far" in project "default" (includes 0 snapshots)' in done.stdout
    with daemon.api() as fresh:
        after = fresh.get("/1.0/storage-pools/far")
        assert after["config"] == {**before["config"], "user.x": "1"}
        fresh.set_state("lost", "start")
        remove_instance(fresh, "lost")
        fresh.call("DELETE", "/1.0/storage-pools/far")


def test_recover_says_when_there_is_nothing(daemon: Daemon) -> None:
    done = subprocess.run(
        [daemon.programs.lxd, "recover"],
        env=daemon.environment,
        input="no\nyes\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.endswith("Scanning for unknown volumes...\nNo unknown volumes found. Nothing to do.\n")
