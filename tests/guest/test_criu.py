"""The state of containers that CRIU saves and restores: at a stop, in a snapshot, when it fails, without a daemon."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.api import Api, ApiError
from harness.client import Client
from harness.daemon import Daemon
from harness.waiting import until

Make = Callable[..., str]

COUNT = "n=0; while true; do n=$((n+1)); echo $n > /run/count; sleep 1; done"


def get(api: Api, name: str, what: str = "") -> Any:
    return api.get(f"/1.0/instances/{name}{what}")


def start_counting(api: Api, name: str) -> None:
    """Run something in a container whose memory tells whether it is the same process."""
    script = f"echo '{COUNT}' > /run/script; setsid sh /run/script < /dev/null > /dev/null 2>&1 &"
    assert api.execute(name, "sh", "-c", script) == 0
    until(lambda: count(api, name) >= 2, "it counts")


def count(api: Api, name: str) -> int:
    """How far it has counted."""
    pid = get(api, name, "/state")["pid"]
    try:
        return int(Path(f"/proc/{pid}/root/run/count").read_text() or 0)
    except FileNotFoundError:
        return 0


def state_of(daemon: Daemon, name: str) -> Path:
    return daemon.dir / "lxd/containers" / name / "state"


def test_stop_and_start(daemon: Daemon, api: Api, lxc: Client, make_instance: Make) -> None:
    name = make_instance(config={"limits.memory": "100MiB"})
    start_counting(api, name)
    lxc("stop", "--stateful", name)
    found = get(api, name)
    assert (found["status"], found["stateful"]) == ("Stopped", True)
    state = state_of(daemon, name)
    assert state.stat().st_mode & 0o7777 == 0o700
    lxc("start", name)
    found = get(api, name)
    assert (found["status"], found["stateful"]) == ("Running", False)
    assert not state.exists()
    before = count(api, name)
    assert before >= 2
    until(lambda: count(api, name) > before, "it counts on")
    # What liblxc and CRIU do not set again.
    pid = get(api, name, "/state")["pid"]
    group = Path("/sys/fs/cgroup", Path(f"/proc/{pid}/cgroup").read_text().strip().removeprefix("0::/"))
    assert (group / "memory.max").read_text() == f"{100 << 20}\n"
    assert lxc("exec", name, "--", "stat", "-c", "%u %U", "/root").split() == ["0", "root"]
    assert get(api, name, "/state")["network"]["eth0"]["host_name"]
    with lxc.terminal("console", name) as terminal:
        terminal.expect("since its state was restored", 60)
    # The next daemon takes it over like any other.
    daemon.kill()
    daemon.start()
    with daemon.api() as fresh:
        assert get(fresh, name)["status"] == "Running"
        assert fresh.execute(name, "true") == 0
        # CRIU cannot save namespaces of users that are within others: it runs on, without a state.
        nested = "setsid unshare -U sleep 1000 < /dev/null > /dev/null 2>&1 &"
        assert fresh.execute(name, "sh", "-c", nested) == 0
        until(lambda: fresh.execute(name, "pidof", "sleep") == 0, "it has a namespace of its own")
        with pytest.raises(ApiError, match="Failed to save the state"):
            fresh.set_state(name, "stop", stateful=True)
        assert (get(fresh, name)["status"], get(fresh, name)["stateful"]) == ("Running", False)
        assert not state.exists()
        before = count(fresh, name)
        until(lambda: count(fresh, name) > before, "it counts on")
        fresh.set_state(name, "stop", force=True)


def test_snapshots(daemon: Daemon, api: Api, lxc: Client, make_instance: Make) -> None:
    name = make_instance(config={"security.privileged": "true"})
    lxc("snapshot", "--stateful", name, "live")
    assert get(api, name, "/snapshots/live")["stateful"]
    assert get(api, name)["status"] == "Running"
    assert not state_of(daemon, name).exists()
    api.execute(name, "touch", "/run/later", "/root/later")
    lxc("restore", "--stateful", name, "live")
    assert get(api, name)["status"] == "Running"
    assert api.execute(name, "test", "-e", "/run/later") != 0
    assert api.execute(name, "test", "-e", "/root/later") != 0
    # The rules for devices are the kernel's as before.
    assert api.execute(name, "mknod", "/root/disk", "b", "254", "0") == 0
    assert api.execute(name, "dd", "if=/dev/zero", "of=/dev/null", "count=1") == 0
    assert api.execute(name, "dd", "if=/root/disk", "of=/dev/null", "count=1") != 0
    api.set_state(name, "stop", force=True)


def test_a_dead_daemon(daemon: Daemon, api: Api, make_instance: Make) -> None:
    name = make_instance(config={"security.privileged": "true"})
    assert api.execute(name, "touch", "/run/mark") == 0
    body = {"action": "stop", "stateful": True, "timeout": -1}
    api.start("PUT", f"/1.0/instances/{name}/state", body)
    until((state_of(daemon, name) / "dump.log").exists, "the state is being saved")
    daemon.kill()
    daemon.start()
    with daemon.api() as fresh:
        found = get(fresh, name)
        assert (found["status"], found["stateful"]) == ("Stopped", True)
        # What cannot be restored stays, and the instance stopped.
        state = state_of(daemon, name)
        (state / "pstree.img").rename(state / "aside")
        with pytest.raises(ApiError, match="Failed to restore the state"):
            fresh.set_state(name, "start", stateful=True)
        found = get(fresh, name)
        assert (found["status"], found["stateful"]) == ("Stopped", True)
        (state / "aside").rename(state / "pstree.img")
        (state / "restore.log").unlink()
        fresh.start("PUT", f"/1.0/instances/{name}/state", {"action": "start", "stateful": True, "timeout": -1})
        until((state / "restore.log").exists, "the state is being restored")
    daemon.kill()
    daemon.start()
    with daemon.api() as later:
        found = get(later, name)
        assert (found["status"], found["stateful"]) in (("Stopped", True), ("Running", False))
        if found["status"] == "Stopped":
            assert (state / "pstree.img").exists()
            # Started without it, the state is gone.
            later.set_state(name, "start")
        assert later.execute(name, "true") == 0
        assert not get(later, name)["stateful"]
        assert not state.exists()
        later.set_state(name, "stop", force=True)
