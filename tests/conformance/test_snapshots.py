"""Snapshots, image metadata, templates and instance types as the command line shows them, by both clients."""

import json
import re
from collections.abc import Callable

import pytest

from conftest import client_of
from harness.api import Api
from harness.client import Client
from harness.daemon import Daemon

Make = Callable[..., str]


@pytest.fixture(params=["unmodified", "ours"])
def lxc(request: pytest.FixtureRequest, daemon: Daemon) -> Client:
    """The unmodified client, and our own where the daemon is ours."""
    if request.param == "unmodified":
        return client_of(daemon)
    if daemon.programs.kind != "ours":
        pytest.skip("our client is tested with our daemon")
    return Client(daemon.programs.lxc, daemon)


def test_snapshots_of_an_instance(lxc: Client, api: Api, make_instance: Make) -> None:
    name = make_instance(start=False)
    lxc("snapshot", name)
    lxc("config", "set", name, "snapshots.expiry=1d", "snapshots.pattern=by-%d")
    lxc("snapshot", name)
    lxc("snapshot", name, "--no-expiry")
    lxc("snapshot", name, "own")
    assert "already" in lxc.fails("snapshot", name, "own")
    lxc("snapshot", name, "own", "--reuse")
    assert re.findall(r"\| (snap0|by-0|by-1|own) ", lxc("info", name)) == ["snap0", "by-0", "by-1", "own"]
    never = "expires_at: 0001-01-01T00:00:00Z"
    assert never in lxc("config", "show", f"{name}/snap0")
    assert never not in lxc("config", "show", f"{name}/by-0")
    assert never in lxc("config", "show", f"{name}/by-1")
    lxc("config", "edit", f"{name}/snap0", stdin="expires_at: 2100-01-01T00:00:00Z")
    assert "expires_at: 2100-01-01T00:00:00Z" in lxc("config", "show", f"{name}/snap0")
    lxc("config", "edit", f"{name}/snap0", stdin="expires_at:")
    assert never in lxc("config", "show", f"{name}/snap0")
    lxc("config", "set", name, "user.later=1")
    lxc("restore", name, "own")
    assert lxc("config", "get", name, "user.later").strip() == ""
    lxc("rename", f"{name}/own", f"{name}/other")
    lxc("delete", f"{name}/other")
    assert f"Snapshot {name}/other does not exist" in lxc.fails("restore", name, "other")


@pytest.mark.parametrize("schedule", ["often", "* * * *", "61 * * * *", "@often"])
def test_bad_schedules_are_refused(lxc: Client, instance: str, schedule: str) -> None:
    assert "schedule" in lxc.fails("config", "set", instance, f"snapshots.schedule={schedule}").lower()


@pytest.mark.parametrize(
    "schedule", ["@startup, @daily", "0 6 * * *", "10 2,5-8/2 * * *, @hourly", "0 0 * jan mon-fri"]
)
def test_schedules_are_taken(lxc: Client, instance: str, schedule: str) -> None:
    lxc("config", "set", instance, f"snapshots.schedule={schedule}")
    assert lxc("config", "get", instance, "snapshots.schedule").strip() == schedule


def test_metadata(lxc: Client, make_instance: Make) -> None:
    name = make_instance(start=False)
    shown = lxc("config", "metadata", "show", name)
    assert "os: Busybox" in shown
    assert "template: hostname.tpl" in shown
    lxc("config", "metadata", "edit", name, stdin=shown.replace("Busybox", "Other"))
    assert lxc("config", "metadata", "show", name) == shown.replace("Busybox", "Other")
    assert lxc.fails("config", "metadata", "show", "nobody")


def test_templates(lxc: Client, make_instance: Make) -> None:
    name = make_instance(start=False)
    assert json.loads(lxc("config", "template", "list", name, "--format", "json")) == ["hostname.tpl"]
    lxc("config", "template", "create", name, "my.tpl")
    assert lxc("config", "template", "show", name, "my.tpl") == ""
    lxc("config", "template", "edit", name, "my.tpl", stdin="some content\n")
    assert lxc("config", "template", "show", name, "my.tpl") == "some content\n"
    assert "| my.tpl       |" in lxc("config", "template", "list", name)
    lxc("config", "template", "delete", name, "my.tpl")
    assert "not found" in lxc.fails("config", "template", "show", name, "my.tpl")
    assert "Invalid template filename" in lxc.fails("config", "template", "create", name, "a/b")


def test_instance_types(lxc: Client, api: Api) -> None:
    lxc("init", "busybox", "typed", "-t", "c0.5-m0.2")
    try:
        assert lxc("config", "get", "typed", "limits.cpu").strip() == "1"
        assert lxc("config", "get", "typed", "limits.cpu.allowance").strip() == "50%"
        assert lxc("config", "get", "typed", "limits.memory").strip() == "204MB"
    finally:
        api.delete("typed")
    assert "Provided instance type doesn't exist: aws:none" in lxc.fails("init", "busybox", "typed", "-t", "aws:none")
    assert "Bad custom instance type: cx-m1" in lxc.fails("init", "busybox", "typed", "-t", "cx-m1")


def test_rebuild(lxc: Client, daemon: Daemon, make_instance: Make) -> None:
    if daemon.programs.kind != "ours" or lxc.program != daemon.programs.lxc:
        pytest.skip("the client of LXD 5.0 has no rebuild")
    name = make_instance()
    assert "Instance must be stopped to be rebuilt" in lxc.fails("rebuild", "busybox", name)
    lxc("rebuild", "busybox", name, "--force")
    assert "Status: RUNNING" in lxc("info", name)
