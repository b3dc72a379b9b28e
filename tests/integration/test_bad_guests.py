"""Guests that misbehave: the daemon and the other containers go on as before."""

import contextlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from corral.server.instances.limits import host_limits
from harness.api import Api, ApiError
from harness.daemon import Daemon
from harness.waiting import soon, until

Make = Callable[..., str]


def spawn(api: Api, name: str, script: str) -> None:
    """Have a guest run a script of which nobody waits for the end."""
    body = {"command": ["sh", "-c", script], "interactive": False, "wait-for-websocket": False}
    api.start("POST", f"/1.0/instances/{name}/exec", body)


def check_works(api: Api, name: str) -> None:
    """A container runs commands and the daemon answers, both soon."""
    with soon(f"{name} works"):
        assert api.execute(name, "true") == 0
        assert api.get(f"/1.0/instances/{name}/state")["processes"] > 0


def processes(api: Api, name: str) -> int:
    found: int = api.get(f"/1.0/instances/{name}/state")["processes"]
    return found


def test_one_that_forks_without_end(api: Api, make_instance: Make) -> None:
    bad, good = make_instance("bad-forks", config={"limits.processes": "60"}), make_instance("good-forks")
    spawn(api, bad, "f() { f | f & }; f; while :; do sleep 1 & done")
    until(lambda: processes(api, bad) > 50, "the guest is full of processes")
    for _ in range(5):
        check_works(api, good)
    assert processes(api, bad) <= 60
    api.set_state(bad, "stop", force=True)
    api.set_state(bad, "start")
    check_works(api, bad)


def test_one_that_fills_its_disk(daemon: Daemon, api: Api, make_instance: Make) -> None:
    root = {"type": "disk", "path": "/", "pool": "default", "size": "64MiB"}
    bad, good = make_instance("bad-disk", devices={"root": root}), make_instance("good-disk")
    assert api.execute(bad, "sh", "-c", "head -c 200000000 /dev/zero > /filler") != 0
    assert api.execute(good, "sh", "-c", "head -c 80000000 /dev/zero > /filler && rm /filler") == 0
    with pytest.raises(ApiError, match=r"(?i)quota|space"):
        api.call("POST", f"/1.0/instances/{bad}/files?path=/more", "x" * 1000000)
    # All verbs by which one gets out of it.
    api.set_state(bad, "restart", force=True)
    api.run("POST", f"/1.0/instances/{bad}/snapshots", {"name": "full"})
    api.run("DELETE", f"/1.0/instances/{bad}/snapshots/full")
    assert api.execute(bad, "rm", "/filler") == 0
    assert api.execute(bad, "sh", "-c", "echo ok > /again") == 0


def test_one_that_plants_links_where_devices_appear(api: Api, make_instance: Make, tmp_path: Path) -> None:
    name = make_instance()
    victim = tmp_path / "victim"
    victim.mkdir(mode=0o777)
    source = tmp_path / "source"
    source.mkdir()
    # Links that lead to the same path in the host, by name and by way of /proc.
    for link, target in (
        ("abs", str(tmp_path)),
        ("up", f"/../../../../..{tmp_path}"),
        ("root", f"/proc/1/root{tmp_path}"),
    ):
        assert api.execute(name, "ln", "-s", target, f"/dev/{link}") == 0
        devices = {
            "n": {"type": "unix-char", "source": "/dev/null", "path": f"/dev/{link}/victim/node"},
            "d": {"type": "disk", "source": str(source), "path": f"/dev/{link}/victim"},
        }
        for key, device in devices.items():
            with contextlib.suppress(ApiError):
                api.call("PATCH", f"/1.0/instances/{name}", {"devices": {key: device}})
        assert os.listdir(victim) == []
        assert not os.path.ismount(victim)
        present = api.get(f"/1.0/instances/{name}")
        api.call("PUT", f"/1.0/instances/{name}", {**present, "devices": {}})
    check_works(api, name)


WATCHER = """import ctypes, sys
libc = ctypes.CDLL(None)
print(next((n for n in range(int(sys.argv[1])) if libc.inotify_init1(0) < 0), sys.argv[1]), flush=True)
sys.stdin.read()"""


def watch_files(count: int, pid: int = 0) -> "subprocess.Popen[str]":
    """A process in a container's user namespace (0: the host's) that takes inotify instances, tells how many, waits."""
    enter = ["nsenter", "--target", str(pid), "--user"] if pid else []
    argv = ["prlimit", f"--nofile={count + 50}", *enter, "/usr/bin/python3", "-ISc", WATCHER, str(count)]
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_one_that_takes_all_watches_of_files(api: Api, make_instance: Make) -> None:
    bad, good = make_instance("bad-watch"), make_instance("good-watch")
    pids = [api.get(f"/1.0/instances/{name}/state")["pid"] for name in (bad, good)]
    share = host_limits.SHARES["user.max_inotify_instances"]
    watchers = [watch_files(share + 100, pids[0]), watch_files(100, pids[1]), watch_files(100)]
    try:
        # It gets no more than its share; the others and the host have theirs.
        taken = [int(one.stdout.readline()) for one in watchers if one.stdout is not None]
        assert taken[0] <= share
        assert taken[1:] == [100, 100]
    finally:
        for one in watchers:
            one.communicate(timeout=60)


def test_a_web_load_of_many_processes(api: Api, make_instance: Make, daemon: Daemon) -> None:
    server, client = make_instance("web-server"), make_instance("web-client")
    assert (
        api.execute(server, "sh", "-c", "mkdir -p /www && head -c 100000 /dev/zero > /www/page && httpd -h /www") == 0
    )

    def address() -> str:
        network = api.get(f"/1.0/instances/{server}/state")["network"] or {}
        found = [one["address"] for one in network.get("eth0", {}).get("addresses", ()) if one["family"] == "inet"]
        return found[0] if found else ""

    host = until(address, "the server has an address")
    until(
        lambda: api.execute(client, "wget", "-q", "-O", "/dev/null", f"http://{host}/page") == 0, "the page is served"
    )
    one = f"for n in 1 2 3 4 5 6 7 8; do wget -q -O /dev/null http://{host}/page || echo x >> /failed; done"
    script = f"i=0; while [ $i -lt 64 ]; do ({one}) & i=$((i+1)); done; wait; test ! -e /failed"
    assert api.execute(client, "sh", "-c", script) == 0
    check_works(api, server)
