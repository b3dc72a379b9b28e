"""Rebuilding instances: the root is new, the rest stays, and whatever goes wrong leaves the old root."""

import contextlib
import io
import json
import os
import signal
import sqlite3
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import remove_instance
from harness import images
from harness.api import Api, ApiError
from harness.client import Client
from harness.daemon import Daemon

Make = Callable[..., str]


def changed_image(directory: Path, name: str, mebibytes: int) -> Path:
    """An image that differs from `busybox` by a property and a file."""
    path = directory / f"{name}.tar"
    with tarfile.open(images.busybox(directory / "busybox.tar")) as source, tarfile.open(path, "w") as target:
        for entry in source:
            content = source.extractfile(entry) if entry.isreg() else None
            if entry.name == "metadata.yaml":
                assert content is not None
                text = content.read().replace(b"release: 1", b"release: 2")
                entry.size = len(text)
                content = io.BytesIO(text)
            target.addfile(entry, content)
        large = tarfile.TarInfo("rootfs/large")
        large.size = mebibytes << 20
        target.addfile(large, io.BytesIO(os.urandom(large.size)))
    return path


@pytest.fixture(scope="module")
def other_image(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Another image than `busybox`; its fingerprint."""
    with daemon.api() as api:
        fingerprint = api.upload_image(changed_image(tmp_path_factory.mktemp("other"), "other", 8), "other")
        # The pool's copy of the image is made with the first instance.
        api.create("first", "other")
        api.delete("first")
        return fingerprint


def source(alias: str) -> dict[str, object]:
    return {"source": {"type": "image", "alias": alias}}


def read(api: Api, name: str, path: str) -> bytes | None:
    status, _, content = api.raw("GET", f"/1.0/instances/{name}/files?path={path}")
    return content if status == 200 else None


def push(api: Api, name: str, path: str, content: bytes) -> None:
    assert api.raw("POST", f"/1.0/instances/{name}/files?path={path}", content)[0] == 200


def leftovers(daemon: Daemon) -> list[str]:
    pool = daemon.state_dir / "storage-pools" / "default" / "containers"
    return [one.name for one in pool.iterdir() if one.name.startswith(".")] + [
        str(one) for one in pool.glob("*/.rebuilt")
    ]


def test_a_new_root_and_the_old_rest(api: Api, daemon: Daemon, make_instance: Make, other_image: str) -> None:
    name = make_instance(config={"user.kept": "yes"}, description="mine", ephemeral=False)
    path = f"/1.0/instances/{name}"
    push(api, name, "/old", b"old")
    before = api.get(path)
    with pytest.raises(ApiError, match="400: Instance must be stopped to be rebuilt"):
        api.run("POST", f"{path}/rebuild", source("other"))
    api.set_state(name, "stop", force=True)
    api.run("POST", f"{path}/rebuild", source("other"))
    after = api.get(path)
    assert after["config"]["image.release"] == "2"
    assert after["config"]["volatile.base_image"] == other_image
    assert after["config"]["volatile.apply_template"] == "create"
    for key in ("user.kept", "volatile.uuid", "volatile.eth0.hwaddr"):
        assert after["config"][key] == before["config"][key]
    assert (after["description"], after["devices"]) == (before["description"], before["devices"])
    assert read(api, name, "/old") is None
    api.set_state(name, "start")
    assert read(api, name, "/etc/hostname") == f"{name}\n".encode()
    assert api.execute(name, "test", "-O", "/large") == 0
    assert leftovers(daemon) == []


def test_an_empty_root(api: Api, make_instance: Make, other_image: str) -> None:
    name = make_instance()
    path = f"/1.0/instances/{name}"
    api.set_state(name, "stop", force=True)
    api.run("POST", f"{path}/rebuild", {"source": {"type": "none"}})
    config = api.get(path)["config"]
    assert not any(key.startswith("image.") for key in config)
    assert "volatile.base_image" not in config
    assert json.loads(api.raw("GET", f"{path}/files?path=/")[2])["metadata"] == []
    api.run("POST", f"{path}/rebuild", source("busybox"))
    api.set_state(name, "start")
    assert api.get(path)["config"]["image.release"] == "1"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"source": {"type": "image", "alias": "nothing"}}, "404"),
        ({"source": {"type": "image"}}, "Must specify one of alias, fingerprint or properties"),
        ({"source": {"type": "copy", "source": "x"}}, "Unknown source type copy"),
        ({"source": []}, "400"),
    ],
)
def test_what_cannot_be_rebuilt(api: Api, make_instance: Make, body: dict[str, object], reason: str) -> None:
    name = make_instance(start=False)
    before = api.get(f"/1.0/instances/{name}")
    with pytest.raises(ApiError, match=reason):
        api.run("POST", f"/1.0/instances/{name}/rebuild", body)
    assert api.get(f"/1.0/instances/{name}") == before
    with pytest.raises(ApiError, match="404: Instance not found"):
        api.run("POST", "/1.0/instances/nobody/rebuild", source("busybox"))


def test_snapshots_are_in_the_way(api: Api, make_instance: Make) -> None:
    name = make_instance(start=False)
    api.run("POST", f"/1.0/instances/{name}/snapshots", {"name": "s"})
    with pytest.raises(ApiError, match="has snapshots: delete them first"):
        api.run("POST", f"/1.0/instances/{name}/rebuild", source("busybox"))
    api.run("DELETE", f"/1.0/instances/{name}/snapshots/s")
    api.run("POST", f"/1.0/instances/{name}/rebuild", source("busybox"))


def test_one_verb_at_a_time(api: Api, daemon: Daemon, make_instance: Make, other_image: str) -> None:
    name = make_instance(start=False)
    path = f"/1.0/instances/{name}"
    operations = [api.start("POST", f"{path}/rebuild", source("other")) for _ in range(3)]
    outcomes = []
    for operation in operations:
        try:
            api.wait(operation)
            outcomes.append("done")
        except ApiError as error:
            outcomes.append(error.message)
    assert outcomes.count("done") == 1
    assert all(one == "done" or 'busy running a "rebuild"' in one for one in outcomes)
    assert leftovers(daemon) == []


@pytest.mark.parametrize(
    ("verb", "delay_ms"),
    [*(("rebuild", delay) for delay in (3, 15, 35, 60)), *(("restore", delay) for delay in (5, 20))],
)
def test_killed_in_the_middle(daemon: Daemon, make_instance: Make, other_image: str, verb: str, delay_ms: int) -> None:
    with daemon.api() as api:
        name = make_instance()
        path = f"/1.0/instances/{name}"
        push(api, name, "/old", b"old")
        if verb == "restore":
            api.run("POST", f"{path}/snapshots", {"name": "s"})
            push(api, name, "/old", b"now")
        api.set_state(name, "stop", force=True)
        api.call("PATCH", path, {"config": {"user.a": "now"}})

        def work() -> None:
            with daemon.api() as own, pytest.raises(Exception):  # noqa: B017, PT011  (its connection breaks)
                if verb == "rebuild":
                    own.run("POST", f"{path}/rebuild", source("other"))
                else:
                    own.run("PUT", path, {"restore": "s"})
                while True:
                    own.get(path)

        thread = threading.Thread(target=work)
        thread.start()
        time.sleep(delay_ms / 1000)
        daemon.kill(signal.SIGKILL)
        thread.join(30)
        daemon.start()
        config = api.get(path)["config"]
        is_new = config["image.release"] == "2" if verb == "rebuild" else "user.a" not in config
        assert leftovers(daemon) == []
        api.set_state(name, "start")
        expected = {"rebuild": (b"old", None), "restore": (b"now", b"old")}[verb][is_new]
        assert read(api, name, "/old") == expected
        assert api.execute(name, "test", "-O", "/etc/passwd") == 0


def test_a_rebuild_for_which_there_is_no_room_leaves_the_old_root(
    api: Api, daemon: Daemon, make_instance: Make, tmp_path: Path
) -> None:
    api.call("POST", "/1.0/storage-pools", {"name": "small", "driver": "btrfs", "config": {"size": "256MiB"}})
    bulk = ""
    try:
        name = make_instance(devices={"root": {"type": "disk", "path": "/", "pool": "small"}})
        bulk = f"/1.0/images/{api.upload_image(changed_image(tmp_path, 'bulk', 60), 'bulk')}"
        api.execute(name, "sh", "-c", "echo old >/old; dd if=/dev/zero of=/root/fill bs=1M; sync")
        api.set_state(name, "stop", force=True)
        before = api.get(f"/1.0/instances/{name}")
        with pytest.raises(ApiError, match=r"(?i)no space|free|full"):
            api.run("POST", f"/1.0/instances/{name}/rebuild", source("bulk"))
        assert api.get(f"/1.0/instances/{name}") == before
        assert read(api, name, "/old") == b"old\n"
        api.raw("DELETE", f"/1.0/instances/{name}/files?path=/root/fill")
        api.set_state(name, "start")
        remove_instance(api, name)
    finally:
        if bulk:
            api.run("DELETE", bulk)
        api.call("DELETE", "/1.0/storage-pools/small")


def test_our_client(api: Api, daemon: Daemon, make_instance: Make, other_image: str) -> None:
    if daemon.programs.lxc is None:
        pytest.skip("the real client of 5.0 cannot rebuild")
    lxc = Client(daemon.programs.lxc, daemon)
    name = make_instance()
    assert "must be stopped" in lxc.fails("rebuild", "other", name)
    lxc("rebuild", "other", name, "--force")
    found = api.get(f"/1.0/instances/{name}")
    assert (found["status"], found["config"]["image.release"]) == ("Running", "2")
    assert "need to specify an image name or use --empty" in lxc.fails("rebuild", name)
    assert "--empty cannot be combined" in lxc.fails("rebuild", "other", name, "--empty")
    assert "snapshots cannot be rebuilt" in lxc.fails("rebuild", "other", f"{name}/s")
    assert "not found" in lxc.fails("rebuild", "other", "nobody")
    assert "not found" in lxc.fails("rebuild", "no-such-image", name, "--force")
    assert api.get(f"/1.0/instances/{name}")["status"] == "Running"
    api.set_state(name, "stop", force=True)
    lxc("rebuild", name, "--empty")
    assert "image.release" not in api.get(f"/1.0/instances/{name}")["config"]


@pytest.mark.parametrize("carried", ["the-one", "another", "broken"])
def test_killed_between_the_exchange_and_its_record(daemon: Daemon, make_instance: Make, carried: str) -> None:
    with daemon.api() as api:
        name = make_instance(start=False, description="before")
        path = f"/1.0/instances/{name}"
        before = api.get(path)
        directory = daemon.state_dir / "containers" / name
        daemon.kill(signal.SIGKILL)
        with contextlib.closing(sqlite3.connect(daemon.state_dir / "database" / "global" / "db.bin")) as database:
            database.execute("UPDATE instances SET pending = 'rebuild the-one' WHERE name = ?", (name,))
            database.commit()
        change = {
            "architecture": 2,
            "description": "after",
            "ephemeral": False,
            "config": {**before["config"], "user.new": "1"},
            "devices": before["devices"],
            "profiles": before["profiles"],
        }
        text = "{" if carried == "broken" else json.dumps({"id": carried, "change": change})
        (directory / ".rebuilt").write_text(text)
        daemon.start()
        found = api.get(path)
        assert found["description"] == ("after" if carried == "the-one" else "before")
        assert ("user.new" in found["config"]) == (carried == "the-one")
        assert leftovers(daemon) == []
        api.set_state(name, "start")
