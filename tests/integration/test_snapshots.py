"""Snapshots of instances and custom volumes: by schedule, by pattern, with an expiry, restored."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from harness.api import Api, ApiError
from harness.daemon import Daemon
from harness.waiting import until

Make = Callable[..., str]

_minutes = iter(range(3, 60, 3))
"""Each test takes later minutes: none is done twice."""


def next_minute(api: Api) -> float:
    """The beginning of a minute that was not done yet, some minutes from now."""
    return time.time() // 60 * 60 + next(_minutes) * 60


def do_minute(api: Api, moment: float) -> list[str]:
    """Have the daemon do what a minute brings; returns what failed."""
    failed: list[str] = api.call("POST", "/internal/testing/minute", {"time": moment})["metadata"]
    return failed


def names(api: Api, instance: str) -> list[str]:
    return [one["name"] for one in api.get(f"/1.0/instances/{instance}/snapshots?recursion=1")]


def cron_of(moment: float) -> str:
    local = datetime.fromtimestamp(moment).astimezone()
    return f"{local:%-M %-H %-d %-m} *"


@pytest.fixture
def volume(api: Api) -> Iterator[str]:
    """A custom volume."""
    path = "/1.0/storage-pools/default/volumes/custom"
    api.call("POST", path, {"name": "scheduled"})
    yield f"{path}/scheduled"
    api.call("DELETE", f"{path}/scheduled")


def test_what_is_due_is_taken_once(api: Api, make_instance: Make, volume: str) -> None:
    moment = next_minute(api)
    config = {"snapshots.schedule": f"0 0 30 2-3 *, {cron_of(moment)}", "snapshots.expiry": "1d"}
    due = make_instance(config=config)
    stopped = make_instance(start=False, config=config)
    stopped_too = make_instance(start=False, config={**config, "snapshots.schedule.stopped": "true"})
    never = make_instance(config={"snapshots.schedule": "@never"})
    api.call("PATCH", volume, {"config": {"snapshots.schedule": cron_of(moment), "snapshots.pattern": "v%d"}})
    assert do_minute(api, moment - 60) == []
    assert names(api, due) == []
    for _ in range(2):
        assert do_minute(api, moment + 10) == []
    assert do_minute(api, moment + 60) == []
    assert names(api, due) == ["snap0"]
    assert names(api, stopped) == names(api, never) == []
    assert names(api, stopped_too) == ["snap0"]
    assert api.get(f"{volume}/snapshots")[0].endswith("/snapshots/v0")
    taken = api.get(f"/1.0/instances/{due}/snapshots/snap0")
    assert taken["expanded_devices"] == api.get(f"/1.0/instances/{due}")["expanded_devices"]
    assert taken["devices"] == {}
    expires = datetime.fromisoformat(taken["expires_at"].replace("Z", "+00:00"))
    assert timedelta(hours=23) < expires - datetime.now(UTC) < timedelta(hours=25)


def test_a_schedule_of_a_profile(api: Api, make_instance: Make) -> None:
    moment = next_minute(api)
    devices = api.get("/1.0/profiles/default")["devices"]
    api.call(
        "POST",
        "/1.0/profiles",
        {"name": "hourly", "config": {"snapshots.schedule": cron_of(moment)}, "devices": devices},
    )
    name = make_instance(profiles=["hourly"])
    own = make_instance(profiles=["hourly"], config={"snapshots.schedule": "@never"})
    do_minute(api, moment)
    assert (names(api, name), names(api, own)) == (["snap0"], [])
    for one in (name, own):
        api.set_state(one, "stop", force=True)
        api.delete(one)
    api.call("DELETE", "/1.0/profiles/hourly")


def test_a_busy_instance_is_waited_for_and_one_failure_is_not_the_end(
    api: Api, daemon: Daemon, make_instance: Make
) -> None:
    moment = next_minute(api)
    config = {"snapshots.schedule": cron_of(moment), "snapshots.pattern": "{{ creation_date|date:'2006' }}-%d"}
    broken, good = make_instance("a-broken", config=config), make_instance("b-good", config=config)
    # A file is where the snapshots of the first one are to be.
    obstacle = next((daemon.state_dir / "storage-pools" / "default").glob("containers-snapshots")) / broken
    obstacle.write_text("")
    stopping = api.start("PUT", f"/1.0/instances/{good}/state", {"action": "restart", "timeout": 30, "force": True})
    failed = do_minute(api, moment)
    api.wait(stopping)
    assert len(failed) == 1
    assert names(api, good) == [f"{datetime.now().astimezone():%Y}-0"]
    warning = next(one for one in api.get("/1.0/warnings?recursion=1") if "scheduled snapshot" in one["type"])
    assert warning["entity_url"] == f"/1.0/instances/{broken}"
    obstacle.unlink()
    later = next_minute(api)
    api.call("PATCH", f"/1.0/instances/{broken}", {"config": {"snapshots.schedule": cron_of(later)}})
    assert do_minute(api, later) == []
    assert len(names(api, broken)) == 1
    assert api.get(f"/1.0/warnings/{warning['uuid']}")["status"] == "resolved"


def test_a_restart_of_the_daemon_does_no_minute_twice(daemon: Daemon, make_instance: Make) -> None:
    name = make_instance(config={"snapshots.schedule": "* * * * *"})
    with daemon.api() as api:
        moment = next_minute(api)
        do_minute(api, moment)
        before = names(api, name)
        assert before
        daemon.kill(signal.SIGKILL)
        daemon.start()
        do_minute(api, moment + 30)
        assert names(api, name) == before
        api.call("PATCH", f"/1.0/instances/{name}", {"config": {"snapshots.schedule": ""}})


def test_manual_snapshots_use_pattern_and_expiry(api: Api, daemon: Daemon, make_instance: Make) -> None:
    name = make_instance(start=False, config={"snapshots.pattern": "p%d", "snapshots.expiry": "2w"})
    path = f"/1.0/instances/{name}/snapshots"
    for body in ({}, {}, {"expires_at": "0001-01-01T00:00:00Z"}, {"name": "own"}):
        api.run("POST", path, body)
    found = {one["name"]: one["expires_at"][:4] for one in api.get(f"{path}?recursion=1")}
    year = f"{datetime.now(UTC) + timedelta(days=14):%Y}"
    assert found == {"p0": year, "p1": year, "p2": "0001", "own": year}
    link = daemon.state_dir / "snapshots" / name
    assert (link / "p0" / "rootfs").is_dir()
    operations = [api.start("POST", path, {}) for _ in range(4)]
    for operation in operations:
        api.wait(operation)
    assert len(set(names(api, name))) == 8
    for one in names(api, name):
        api.run("DELETE", f"{path}/{one}")
    assert not link.is_symlink()
    for pattern in ("a b", "{{", "%d%d", "{{ creation_date }}"):
        with pytest.raises(ApiError, match=r"400: .*'snapshots\.pattern'"):
            api.call("PATCH", f"/1.0/instances/{name}", {"config": {"snapshots.pattern": pattern}})
    for bad in ("a/b", "a?b", "a&b", "a+b", "..", "a b", "\n", "x" * 201):
        with pytest.raises(ApiError, match="400: Invalid snapshot name"):
            api.run("POST", path, {"name": bad})


def test_a_start_takes_a_snapshot(api: Api, make_instance: Make) -> None:
    name = make_instance(config={"snapshots.schedule": "@startup, @daily"})
    assert names(api, name) == ["snap0"]
    api.set_state(name, "restart", force=True)
    assert names(api, name) == ["snap0", "snap1"]


def test_a_kill_while_snapshots_are_taken(daemon: Daemon, make_instance: Make) -> None:
    made = [make_instance(start=False) for _ in range(3)]
    with daemon.api() as api:
        moment = next_minute(api)
        for name in made:
            api.call(
                "PATCH",
                f"/1.0/instances/{name}",
                {"config": {"snapshots.schedule": cron_of(moment), "snapshots.schedule.stopped": "true"}},
            )

        def work() -> None:
            with daemon.api() as own, pytest.raises(Exception):  # noqa: B017, PT011  (its connection breaks)
                while True:
                    do_minute(own, moment)

        thread = threading.Thread(target=work)
        thread.start()
        until(lambda: any((daemon.state_dir / "snapshots").iterdir()), "the first snapshot begins", interval_s=0.001)
        daemon.kill(signal.SIGKILL)
        thread.join(30)
        daemon.start()
        for name in made:
            for one in names(api, name):
                api.run("PUT", f"/1.0/instances/{name}", {**api.get(f"/1.0/instances/{name}"), "restore": one})
            assert len(names(api, name)) <= 1


def test_restore_brings_configuration_and_devices_back(api: Api, make_instance: Make) -> None:
    name = make_instance(start=False, description="before", config={"user.a": "1", "limits.cpu": "1"})
    path = f"/1.0/instances/{name}"
    volume = f"/1.0/storage-pools/default/volumes/container/{name}"
    api.call("PATCH", volume, {"config": {"user.note": "old"}})
    before = api.get(path)
    api.run("POST", f"{path}/snapshots", {"name": "s"})
    api.call("PATCH", volume, {"config": {"user.note": "new"}})
    changed: dict[str, Any] = {
        "description": "after",
        "config": {"user.a": "2", "user.b": "3", "limits.cpu": "", "security.protection.delete": "true"},
        "devices": {"gone": {"type": "none"}},
    }
    api.call("PATCH", path, changed)
    api.run("PUT", path, {"restore": "s"})
    after = api.get(path)
    assert after["config"].pop("volatile.uuid.generation") != before["config"].pop("volatile.uuid.generation")
    for key in ("description", "config", "devices", "profiles", "ephemeral", "expanded_devices"):
        assert after[key] == before[key], key
    assert api.get(volume)["config"]["user.note"] == "old"
    with pytest.raises(ApiError, match="does not exist"):
        api.run("PUT", path, {"restore": "nothing"})


def test_a_restore_of_a_running_ephemeral_instance(api: Api, make_instance: Make) -> None:
    name = make_instance(ephemeral=True)
    path = f"/1.0/instances/{name}"
    api.run("POST", f"{path}/snapshots", {"name": "s"})
    api.raw("POST", f"{path}/files?path=/later", b"x")
    api.run("PUT", path, {"restore": "s"})
    found = api.get(path)
    assert (found["status"], found["ephemeral"]) == ("Running", True)
    assert api.raw("GET", f"{path}/files?path=/later")[0] == 404


def test_expired_snapshots_go(api: Api, make_instance: Make, volume: str) -> None:
    name = make_instance(start=False)
    soon = (datetime.now(UTC) + timedelta(minutes=50)).isoformat()
    for body in (
        {"name": "gone", "expires_at": soon},
        {"name": "kept"},
        {"name": "zero", "expires_at": "0001-01-01T00:00:00Z"},
    ):
        api.run("POST", f"/1.0/instances/{name}/snapshots", body)
    for body in ({"name": "gone", "expires_at": soon}, {"name": "kept"}):
        api.run("POST", f"{volume}/snapshots", body)
    do_minute(api, next_minute(api))
    assert len(names(api, name)) == 3
    do_minute(api, time.time() + 51 * 60)
    assert names(api, name) == ["kept", "zero"]
    assert [one["name"] for one in api.get(f"{volume}/snapshots?recursion=1")] == ["scheduled/kept"]
