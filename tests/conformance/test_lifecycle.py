"""The life of an instance by the unmodified `lxc` client."""

import csv
import io
import itertools
import json
from collections.abc import Callable, Iterator

import pytest
import yaml

from harness.api import Api
from harness.client import Client
from harness.waiting import until


@pytest.fixture
def name(api: Api) -> Iterator[str]:
    """A name whose instance is removed after the test."""
    from conftest import remove_instance

    yield "c1"
    remove_instance(api, "c1")


def status(lxc: Client, name: str) -> str:
    return lxc("list", f"^{name}$", "-c", "s", "--format", "csv").strip()


def test_launch_to_delete(lxc: Client, name: str) -> None:
    shown = lxc("launch", "busybox", name)
    assert f"Starting {name}" in shown
    assert status(lxc, name) == "RUNNING"
    assert lxc("exec", name, "--", "hostname").strip() == name
    lxc("pause", name)
    assert status(lxc, name) == "FROZEN"
    lxc("start", name)
    assert status(lxc, name) == "RUNNING"
    lxc("restart", name, "--force")
    assert status(lxc, name) == "RUNNING"
    assert "running" in lxc.fails("delete", name)
    lxc("stop", name, "--force")
    assert status(lxc, name) == "STOPPED"
    lxc("start", name)
    lxc("delete", name, "--force")
    assert lxc("list", "--format", "csv") == ""


def test_graceful_stop(lxc: Client, instance: str) -> None:
    lxc("stop", instance, "--timeout", "30")
    assert status(lxc, instance) == "STOPPED"


def test_init_then_start(lxc: Client, name: str) -> None:
    lxc("init", "busybox", name, "-c", "user.colour=blue", "-c", "limits.processes=200")
    assert status(lxc, name) == "STOPPED"
    assert lxc("config", "get", name, "user.colour").strip() == "blue"
    lxc("start", name)
    assert status(lxc, name) == "RUNNING"


def test_ephemeral_is_gone_after_its_stop(lxc: Client, name: str) -> None:
    lxc("launch", "busybox", name, "--ephemeral")
    lxc("stop", name, "--force")
    until(lambda: lxc("list", "--format", "csv") == "", "the ephemeral instance is deleted")


def test_poweroff_from_inside_is_noticed(lxc: Client, instance: str) -> None:
    lxc.run("exec", instance, "--", "poweroff")
    until(lambda: status(lxc, instance) == "STOPPED", "the daemon notices the poweroff")


def test_reboot_from_inside_is_noticed(lxc: Client, api: Api, instance: str) -> None:
    before = api.get(f"/1.0/instances/{instance}/state")["pid"]
    lxc.run("exec", instance, "--", "reboot")

    def rebooted() -> bool:
        pid: int = api.get(f"/1.0/instances/{instance}/state")["pid"]
        return pid > 0 and pid != before

    until(rebooted, "the container is started again after its reboot")
    assert status(lxc, instance) == "RUNNING"


def test_list_formats(lxc: Client, make_instance: Callable[..., str]) -> None:
    running, stopped = make_instance("one"), make_instance("two", start=False)
    rows = list(csv.reader(io.StringIO(lxc("list", "-c", "nst", "--format", "csv"))))
    assert rows == [[running, "RUNNING", "CONTAINER"], [stopped, "STOPPED", "CONTAINER"]]
    listed = json.loads(lxc("list", "--format", "json"))
    assert [(entry["name"], entry["status"]) for entry in listed] == [(running, "Running"), (stopped, "Stopped")]
    assert listed[0]["state"]["pid"] > 0
    assert [entry["name"] for entry in yaml.safe_load(lxc("list", "--format", "yaml"))] == [running, stopped]
    assert lxc("list", "status=stopped", "-c", "n", "--format", "csv").split() == [stopped]
    table = lxc("list", "-c", "ns4tS").splitlines()
    assert table[0].startswith("+--")
    assert len(table) == 2 * 2 + 3
    compact = lxc("list", "-c", "ns", "--format", "compact").splitlines()
    assert compact[0].split() == ["NAME", "STATE"]


def test_an_address_comes_by_dhcp(lxc: Client, instance: str) -> None:
    address = until(lambda: lxc("list", instance, "-c", "4", "--format", "csv").strip(), "an IPv4 address")
    assert address.endswith("(eth0)")


def test_info(lxc: Client, instance: str) -> None:
    shown = yaml.safe_load(lxc("info", instance).split("Resources:")[0])
    assert shown["Name"] == instance
    assert shown["Status"] == "RUNNING"
    assert shown["Type"] == "container"
    assert shown["PID"] > 1
    assert "Log:" in lxc("info", instance, "--show-log")


def test_console_log(lxc: Client, instance: str) -> None:
    def shown() -> bool:
        return "rc has run" in lxc("console", instance, "--show-log")

    until(shown, "the console's ring buffer shows what the system printed")


def test_console_attach(lxc: Client, instance: str) -> None:
    with lxc.terminal("console", instance) as terminal:
        terminal.expect("To detach from the console")
        # The client says so before its terminal is raw, and knows the two keys only when they come one by one.
        keys = itertools.cycle("\x01q")
        until(lambda: terminal.type_and_end(next(keys)), "the client detaches", interval_s=0.2)
        assert terminal.wait() == 0


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("start", "missing"), "not found"),
        (("delete", "missing"), "not found"),
        (("info", "missing"), "not found"),
        (("launch", "missing", "c9"), "not found"),
        (("launch", "busybox", "bad_name"), "name"),
        (("launch", "busybox", "-leading"), ""),
        (("launch", "busybox", "c9", "--profile", "missing"), "missing"),
        (("launch", "busybox", "c9", "--storage", "missing"), "not found"),
        (("launch", "busybox", "c9", "--network", "missing"), "not found"),
        (("launch", "busybox", "c9", "-c", "limits.memory=much"), "much"),
        (("launch", "busybox", "c9", "-c", "no.such.key=1"), "no.such.key"),
    ],
)
def test_errors_name_the_thing(lxc: Client, args: tuple[str, ...], said: str) -> None:
    assert said in lxc.fails(*args).lower()


def test_a_taken_name_is_refused(lxc: Client, make_instance: Callable[..., str]) -> None:
    name = make_instance(start=False)
    assert "already exists" in lxc.fails("launch", "busybox", name)


def test_wrong_state_is_refused(lxc: Client, instance: str) -> None:
    assert "already running" in lxc.fails("start", instance)
    lxc("stop", instance, "--force")
    assert "already stopped" in lxc.fails("stop", instance)
    assert "not running" in lxc.fails("exec", instance, "--", "true")
