"""What becomes of instances when the daemon ends, is killed or starts."""

import http.client
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest

from harness.api import Api, ApiError
from harness.daemon import Daemon
from harness.waiting import until

Make = Callable[..., str]


@pytest.fixture(autouse=True)
def running_again(daemon: Daemon) -> Iterator[None]:
    """Whatever a test did to the daemon, the next one and the clean-up find it running."""
    yield
    if not daemon.running:
        daemon.start()


def status(daemon: Daemon, name: str) -> str:
    with daemon.api() as api:
        found: str = api.get(f"/1.0/instances/{name}")["status"]
    return found


def pid_of(daemon: Daemon, name: str) -> int:
    with daemon.api() as api:
        pid: int = api.get(f"/1.0/instances/{name}/state")["pid"]
    return pid


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_containers_outlive_the_daemon(daemon: Daemon, instance: str, number: signal.Signals) -> None:
    before = pid_of(daemon, instance)
    daemon.kill(number)
    assert Path(f"/proc/{before}").exists()
    daemon.start()
    assert pid_of(daemon, instance) == before
    with daemon.api() as api:
        api.set_state(instance, "freeze")
    daemon.kill(number)
    daemon.start()
    assert status(daemon, instance) == "Frozen"
    with daemon.api() as api:
        api.set_state(instance, "unfreeze")
        api.set_state(instance, "stop", force=True)
    assert status(daemon, instance) == "Stopped"


def test_a_shutdown_stops_and_the_next_start_starts(daemon: Daemon, api: Api, make_instance: Make) -> None:
    running, stopped = make_instance(), make_instance(start=False)
    never = make_instance(config={"boot.autostart": "false"})
    always = make_instance(start=False, config={"boot.autostart": "true", "boot.autostart.priority": "5"})
    before = pid_of(daemon, running)
    daemon.stop()
    assert not Path(f"/proc/{before}").exists()
    daemon.start()
    assert {name: status(daemon, name) for name in (running, stopped, never, always)} == {
        running: "Running",
        stopped: "Stopped",
        never: "Stopped",
        always: "Running",
    }


def test_a_poweroff_while_no_daemon_runs(daemon: Daemon, api: Api, instance: str) -> None:
    pid = pid_of(daemon, instance)
    daemon.kill()
    os.kill(pid, signal.SIGPWR)
    until(lambda: not Path(f"/proc/{pid}").exists(), "the container powers off")
    until(lambda: (daemon.state_dir / "run" / f"{instance}.target").exists(), "the monitor says why")
    daemon.start()
    assert status(daemon, instance) == "Stopped"
    assert not list((daemon.state_dir / "run").iterdir())
    with daemon.api() as own:
        own.set_state(instance, "start")


def test_an_ephemeral_instance_that_ended_meanwhile_is_deleted(daemon: Daemon, api: Api, make_instance: Make) -> None:
    name = make_instance(ephemeral=True)
    pid = pid_of(daemon, name)
    daemon.kill()
    os.kill(pid, signal.SIGPWR)
    until(lambda: (daemon.state_dir / "run" / f"{name}.target").exists(), "the container powers off")
    daemon.start()
    with daemon.api() as own, pytest.raises(ApiError, match="not found"):
        own.get(f"/1.0/instances/{name}")


VERBS = {
    "create": ("POST", "/1.0/instances", {"name": "victim", "source": {"type": "image", "alias": "busybox"}}),
    "start": ("PUT", "/1.0/instances/victim/state", {"action": "start"}),
    "stop": ("PUT", "/1.0/instances/victim/state", {"action": "stop", "force": True}),
    "delete": ("DELETE", "/1.0/instances/victim", None),
    "rename": ("POST", "/1.0/instances/victim", {"name": "renamed"}),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("delay_ms", [1, 4, 8, 15, 30])
def test_a_kill_in_the_middle_of_a_verb(daemon: Daemon, verb: str, delay_ms: int) -> None:
    """Afterwards the verb is done or undone, the instance can be used, and nothing is left when it is deleted."""
    if verb != "create":
        with daemon.api() as api:
            api.create("victim", "busybox")
            if verb == "stop":
                api.set_state("victim", "start")
    method, path, body = VERBS[verb]

    def request() -> None:
        try:
            with daemon.api() as own:
                own.run(method, path, body)
        except (ApiError, OSError, ValueError, http.client.HTTPException):
            return

    thread = threading.Thread(target=request)
    thread.start()
    time.sleep(delay_ms / 1000)  # the moment of the fault is what varies
    daemon.kill()
    thread.join()
    daemon.start()
    with daemon.api() as api:
        names = [url.rpartition("/")[2] for url in api.get("/1.0/instances")]
        assert names in ([], ["victim"], ["renamed"])
        for name in names:
            if api.get(f"/1.0/instances/{name}")["status"] == "Stopped":
                api.set_state(name, "start")
            api.set_state(name, "stop", force=True)
            api.delete(name)
    volumes = daemon.state_dir / "storage-pools/default/containers"
    assert [path.name for path in volumes.iterdir()] == []
    assert [path.name for path in (daemon.state_dir / "containers").iterdir()] == []
    assert [path.name for path in (daemon.state_dir / "run").iterdir()] == []


def test_what_a_daemon_that_died_did_not_write_is_written(daemon: Daemon, api: Api, make_instance: Make) -> None:
    """The description in an instance's volume, which counts when the database is lost, agrees with its record again."""
    name = make_instance(start=False, config={"user.word": "old"})
    file = daemon.state_dir / "containers" / name / "backup.yaml"
    old = file.read_text()
    api.call("PATCH", f"/1.0/instances/{name}", {"config": {"user.word": "new"}})
    new = file.read_text()
    assert old != new
    daemon.kill()
    # As if it had died between the record and the file.
    file.chmod(0o600)
    file.write_text(old)
    daemon.start()
    until(lambda: file.read_text() == new, "the file is written again")
    # After an end in order nothing is looked through.
    daemon.kill(signal.SIGTERM)
    assert not (daemon.state_dir / ".running").exists()
    daemon.start()


def test_the_order_of_starts(daemon: Daemon, api: Api, make_instance: Make) -> None:
    config = {"boot.autostart": "true"}
    late = make_instance("a-late", start=False, config=config)
    early = make_instance(
        "b-early", start=False, config={**config, "boot.autostart.priority": "7", "boot.autostart.delay": "1"}
    )
    middle = make_instance("c-middle", start=False, config={**config, "boot.autostart.priority": "3"})
    daemon.kill(signal.SIGKILL)
    daemon.start()
    until(lambda: all(status(daemon, name) == "Running" for name in (late, early, middle)), "all run")
    used = {
        name: datetime.fromisoformat(api.get(f"/1.0/instances/{name}")["last_used_at"].replace("Z", "+00:00"))
        for name in (late, early, middle)
    }
    assert used[early] < used[middle] < used[late]
    assert (used[middle] - used[early]).total_seconds() >= 1


def test_the_order_of_stops_and_their_patience(daemon: Daemon, api: Api, make_instance: Make) -> None:
    # sleep as the first process hears no signal that asks it to end.
    deaf = {"raw.lxc": "lxc.init.cmd = /bin/sleep 1000", "boot.host_shutdown_timeout": "1"}
    first = make_instance("z-first", config={**deaf, "boot.stop.priority": "9"})
    second = make_instance("m-second", config={"boot.stop.priority": "5"})
    last = make_instance("a-last")
    offset = daemon.log_size()
    before = time.monotonic()
    daemon.stop()
    assert 1 <= time.monotonic() - before < 25
    text = daemon.log_since(offset)
    assert f"{first} did not shut down and is killed" in text
    ends = [text.index(f"Container {name} ended") for name in (first, second, last)]
    assert ends == sorted(ends)
    daemon.start()
    until(lambda: all(status(daemon, name) == "Running" for name in (first, second, last)), "all run again")


def test_a_failing_autostart_holds_up_nobody(daemon: Daemon, api: Api, make_instance: Make) -> None:
    config = {"boot.autostart": "true", "boot.autostart.priority": "9", "linux.kernel_modules": "no_such_module"}
    broken = make_instance("broken", start=False, config=config)
    good = make_instance("good", start=False, config={"boot.autostart": "true"})
    daemon.kill(signal.SIGKILL)
    daemon.start()
    until(lambda: status(daemon, good) == "Running", "the other one runs", timeout_s=40)
    assert status(daemon, broken) == "Stopped"
    warning = until(
        lambda: [one for one in api.get("/1.0/warnings?recursion=1") if one["type"] == "Failed to autostart instance"],
        "the failure is a warning",
    )[0]
    assert warning["entity_url"] == f"/1.0/instances/{broken}"


def test_a_forced_shutdown_waits_for_no_operation(daemon: Daemon, api: Api, instance: str) -> None:
    body = {"command": ["sleep", "300"], "interactive": False, "wait-for-websocket": False}
    api.start("POST", f"/1.0/instances/{instance}/exec", body)
    argv = [str(daemon.programs.lxd), "shutdown", "--force", "--timeout=60"]
    started = time.monotonic()
    subprocess.run(argv, env=daemon.environment, check=True, timeout=70)
    assert time.monotonic() - started < 45
    until(lambda: not daemon.running, "the daemon has ended")
    daemon.start()


def test_the_host_went_down_without_a_word(daemon: Daemon, api: Api, make_instance: Make, tmp_path: Path) -> None:
    """Nothing of a run is left but files: what ran is started again with its devices, what was stopped is not."""
    tmp_path.chmod(0o755)
    (tmp_path / "shown").touch()
    devices = {
        "eth0": {"type": "none"},
        "disk": {"type": "disk", "source": str(tmp_path), "path": "/mnt/shown"},
        "door": {"type": "proxy", "listen": f"unix:{tmp_path}/door", "connect": "tcp:127.0.0.1:1"},
        "node": {"type": "unix-char", "source": "/dev/null", "path": "/dev/extra"},
    }
    ran, stopped = make_instance(devices=devices), make_instance(start=False)
    never = make_instance(config={"boot.autostart": "false"})
    pids = [api.get(f"/1.0/instances/{name}/state")["pid"] for name in (ran, never)]
    daemon.kill()
    place = daemon.state_dir / "devices" / ran
    helper = int((place / "proxy.door").read_text().split()[0])
    for pid in (*pids, helper):
        os.kill(pid, signal.SIGKILL)
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "the containers are gone")
    subprocess.run(["umount", "-l", *place.glob("disk.*"), *place.glob("unix.*")], check=False, capture_output=True)
    shutil.rmtree(daemon.state_dir / "run")
    daemon.start()
    until(lambda: api.get(f"/1.0/instances/{ran}")["status"] == "Running", "it runs again")
    assert api.execute(ran, "sh", "-c", "test -e /mnt/shown/shown && test -c /dev/extra") == 0
    assert (tmp_path / "door").is_socket()
    assert api.get(f"/1.0/instances/{ran}/state")["pid"] not in pids
    for name in (stopped, never):
        assert api.get(f"/1.0/instances/{name}")["status"] == "Stopped"
