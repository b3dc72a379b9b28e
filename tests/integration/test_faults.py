"""Faults: whatever dies in the middle, each thing is afterwards there or not there, and nothing else is left."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import remove_instance
from harness.api import Api, ApiError
from harness.daemon import Daemon
from harness.waiting import until

DELAYS_MS = (0, 3, 8, 15, 25, 40, 70)
"""When the daemon is killed, counted from the request: each verb is hit at another step."""

INSTANCE = "/1.0/instances/victim"


@pytest.fixture
def victim(api: Api) -> Iterator[str]:
    """A name whose instance is removed after the test, whatever became of it."""
    yield "victim"
    remove_instance(api, "victim")


def kill_and_restart(daemon: Daemon, delay_ms: int) -> None:
    """Kill the daemon so long after now, and start it again."""
    time.sleep(delay_ms / 1000)
    daemon.kill()
    daemon.start()


def status(api: Api) -> str:
    """The victim's status, or "" where there is none."""
    try:
        found: str = api.get(INSTANCE)["status"]
    except ApiError as error:
        if error.status != 404:
            raise
        return ""
    return found


@pytest.mark.parametrize("delay_ms", DELAYS_MS)
def test_killed_during_create(daemon: Daemon, api: Api, victim: str, delay_ms: int) -> None:
    api.start("POST", "/1.0/instances", {"name": victim, "source": {"type": "image", "alias": "busybox"}})
    kill_and_restart(daemon, delay_ms)
    # It is there and works, or it is not there and its name is free.
    if status(api) == "":
        api.create(victim, "busybox")
    api.set_state(victim, "start")
    assert api.execute(victim, "true") == 0


@pytest.mark.parametrize("delay_ms", DELAYS_MS)
def test_killed_during_start(daemon: Daemon, api: Api, victim: str, delay_ms: int) -> None:
    api.create(victim, "busybox")
    api.start("PUT", f"{INSTANCE}/state", {"action": "start"})
    kill_and_restart(daemon, delay_ms)
    found = until(lambda: status(api), "the instance has a status")
    if found != "Running":
        api.set_state(victim, "start")
    assert api.execute(victim, "true") == 0
    assert api.get(f"{INSTANCE}/state")["pid"] > 0


@pytest.mark.parametrize("delay_ms", DELAYS_MS)
def test_killed_during_stop(daemon: Daemon, api: Api, victim: str, delay_ms: int) -> None:
    api.create(victim, "busybox")
    api.set_state(victim, "start")
    api.start("PUT", f"{INSTANCE}/state", {"action": "stop", "force": True, "timeout": 30})
    kill_and_restart(daemon, delay_ms)
    if status(api) != "Stopped":
        with contextlib.suppress(ApiError):  # it may have ended by itself meanwhile
            api.set_state(victim, "stop", force=True)
    until(lambda: status(api) == "Stopped", "the instance is stopped")
    api.set_state(victim, "start")
    assert api.execute(victim, "true") == 0


@pytest.mark.parametrize("delay_ms", DELAYS_MS)
def test_killed_during_delete(daemon: Daemon, api: Api, victim: str, delay_ms: int) -> None:
    api.create(victim, "busybox")
    api.start("DELETE", INSTANCE)
    kill_and_restart(daemon, delay_ms)
    if status(api) == "":
        api.create(victim, "busybox")
        api.set_state(victim, "start")
    # What is still listed can be deleted, which the fixture does.


def other_image(directory: Path, megabytes: int) -> Path:
    """A unified image of this size that does not compress."""
    (directory / "metadata.yaml").write_text("architecture: x86_64\ncreation_date: 1\n")
    (directory / "rootfs").mkdir()
    (directory / "rootfs" / "bulk").write_bytes(os.urandom(megabytes << 20))
    file = directory / "image.tar"
    with tarfile.open(file, "w") as archive:
        for name in ("metadata.yaml", "rootfs"):
            archive.add(directory / name, name)
    return file


@pytest.mark.parametrize("delay_ms", DELAYS_MS)
def test_killed_during_image_import(daemon: Daemon, api: Api, tmp_path: Path, delay_ms: int) -> None:
    file = other_image(tmp_path, 4)
    before = api.get("/1.0/images")
    status_code, _, _ = api.raw("POST", "/1.0/images", file.read_bytes(), {"X-LXD-filename": "image.tar"})
    assert status_code == 202
    kill_and_restart(daemon, delay_ms)
    added = [url for url in api.get("/1.0/images") if url not in before]
    if not added:
        api.upload_image(file, "again")
        added = [url for url in api.get("/1.0/images") if url not in before]
    for url in added:
        assert api.raw("GET", f"{url}/export")[2] == file.read_bytes()
        api.run("DELETE", url)


@pytest.mark.parametrize("delay_ms", DELAYS_MS)
def test_a_cancelled_create(api: Api, victim: str, delay_ms: int) -> None:
    operation = api.start("POST", "/1.0/instances", {"name": victim, "source": {"type": "image", "alias": "busybox"}})
    time.sleep(delay_ms / 1000)
    with contextlib.suppress(ApiError):  # it may be too late
        api.call("DELETE", operation)
    with contextlib.suppress(ApiError):
        api.wait(operation)
    if status(api) == "":
        api.create(victim, "busybox")
    api.set_state(victim, "start")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_instances_outlive_the_daemon(daemon: Daemon, api: Api, instance: str, number: signal.Signals) -> None:
    before = api.get(f"/1.0/instances/{instance}/state")["pid"]
    daemon.kill(number)
    assert Path(f"/proc/{before}").exists()
    daemon.start()
    assert api.get(f"/1.0/instances/{instance}/state")["pid"] == before
    assert api.execute(instance, "true") == 0
    # Its end is noticed as before.
    api.execute(instance, "poweroff")
    until(lambda: api.get(f"/1.0/instances/{instance}")["status"] == "Stopped", "the poweroff is noticed")


def test_what_stopped_meanwhile_is_noticed(daemon: Daemon, api: Api, instance: str) -> None:
    pid = api.get(f"/1.0/instances/{instance}/state")["pid"]
    daemon.kill()
    os.kill(pid, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{pid}").exists(), "the container's init has ended")
    daemon.start()
    until(lambda: api.get(f"/1.0/instances/{instance}")["status"] == "Stopped", "the end is noticed")
    api.set_state(instance, "start")


def test_the_host_goes_down_and_comes_back(daemon: Daemon, api: Api, make_instance: Callable[..., str]) -> None:
    last = make_instance("last")
    always = make_instance("always", start=False, config={"boot.autostart": "true"})
    never = make_instance("never", config={"boot.autostart": "false"})
    daemon.stop()
    daemon.start()

    def states() -> dict[str, str]:
        return {found["name"]: found["status"] for found in api.get("/1.0/instances?recursion=1")}

    until(lambda: states() == {last: "Running", always: "Running", never: "Stopped"}, "the instances are as before")


def test_a_second_daemon_is_refused(daemon: Daemon) -> None:
    argv = [str(daemon.programs.lxd), "--logfile", str(daemon.dir / "second.log")]
    done = subprocess.run(argv, env=daemon.environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert str(daemon.state_dir) in done.stderr
    with daemon.api() as api:
        assert api.get("/1.0")["auth"] == "trusted"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"source": {"type": "image", "alias": "missing"}}, "not found"),
        ({"source": {"type": "image", "fingerprint": "0123456789ab"}}, "not found"),
        ({"source": {"type": "image", "alias": "busybox"}, "name": "bad_name"}, "name"),
        ({"source": {"type": "image", "alias": "busybox"}, "name": "x" * 64}, "name"),
        ({"source": {"type": "image", "alias": "busybox"}, "name": "../escape"}, "reserved"),
        ({"source": {"type": "image", "alias": "busybox"}, "profiles": []}, "root"),
        ({"source": {"type": "image", "alias": "busybox"}, "config": {"raw.lxc": "not a line"}}, "raw.lxc"),
        ({"source": {"type": "image", "alias": "busybox"}, "devices": {"a": {"type": "no-such-type"}}}, "type"),
        ({"source": {"type": "image", "alias": "busybox"}, "devices": {"a": {"type": "nic", "network": "no"}}}, "no"),
        ({"source": {"type": "no-such-source"}}, "source"),
    ],
)
def test_bad_requests_leave_nothing(api: Api, body: dict[str, object], said: str) -> None:
    with pytest.raises(ApiError) as caught:
        api.run("POST", "/1.0/instances", {"name": "victim", **body})
    assert said in caught.value.message.lower()
    assert api.get("/1.0/instances") == []


def test_a_full_pool(api: Api, make_instance: Callable[..., str], tmp_path: Path) -> None:
    api.call("POST", "/1.0/storage-pools", {"name": "small", "driver": "btrfs", "config": {"size": "256MiB"}})
    root = {"root": {"type": "disk", "path": "/", "pool": "small"}}
    url = ""
    try:
        fingerprint = api.upload_image(other_image(tmp_path, 40), "bulk")
        url = f"/1.0/images/{fingerprint}"
        filler = make_instance("filler", devices=root)
        api.execute(filler, "sh", "-c", "dd if=/dev/zero of=/root/fill bs=1M; sync")
        with pytest.raises(ApiError, match=r"(?i)no space|free|full"):
            api.create("unlucky", "bulk", devices=root)
        assert api.get("/1.0/instances") == [f"/1.0/instances/{filler}"]
        # Room again: it works.
        api.execute(filler, "rm", "/root/fill")
        api.execute(filler, "sync")
    finally:
        remove_instance(api, "filler")
        if url:
            api.run("DELETE", url)
        api.call("DELETE", "/1.0/storage-pools/small")


def test_a_client_that_goes_in_the_middle_of_an_upload(daemon: Daemon, api: Api) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(daemon.socket))
        client.sendall(b"POST /1.0/images HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\n")
        client.sendall(b"Content-Length: 100000000\r\n\r\n" + bytes(3_000_000))
    assert api.get("/1.0/images?recursion=1")[0]["aliases"][0]["name"] == "busybox"
    assert len(api.get("/1.0/images")) == 1


def test_a_client_that_goes_while_it_waits(daemon: Daemon, api: Api, victim: str) -> None:
    operation = api.start("POST", "/1.0/instances", {"name": victim, "source": {"type": "image", "alias": "busybox"}})
    waiting = daemon.api(0.001)
    with contextlib.suppress(OSError, http.client.HTTPException):
        waiting.raw("GET", f"{operation}/wait")
    waiting.close()
    api.wait(operation)
    assert status(api) == "Stopped"


def test_a_host_without_ids_for_containers(
    make_daemon: Callable[[], Daemon], busybox_image: Path, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    files = ("/etc/subuid", "/etc/subgid")
    for file in files:
        subprocess.run(["mount", "--bind", empty, file], check=True)
    daemon = make_daemon()
    try:
        daemon.start()
        daemon.set_up("dir")
        with daemon.api() as api:
            api.upload_image(busybox_image, "busybox")
            with pytest.raises(ApiError, match=r"(?i)subuid|uid/gid|idmap"):
                api.create("unprivileged", "busybox")
                api.set_state("unprivileged", "start")
            remove_instance(api, "unprivileged")
            api.create("privileged", "busybox", config={"security.privileged": "true"})
            api.set_state("privileged", "start")
            assert api.execute("privileged", "true") == 0
            remove_instance(api, "privileged")
        daemon.empty()
    finally:
        for file in files:
            subprocess.run(["umount", file], check=True)
        daemon.stop()
