"""Profiles, config, operations, events and raw queries by the unmodified client."""

import json
import select
from collections.abc import Callable
from typing import IO

import pytest
import yaml

from harness.client import Client
from harness.waiting import until


def test_profile(lxc: Client, make_instance: Callable[..., str]) -> None:
    lxc("profile", "create", "extra")
    try:
        lxc("profile", "set", "extra", "user.colour", "blue")
        lxc("profile", "device", "add", "extra", "eth9", "none")
        shown = yaml.safe_load(lxc("profile", "show", "extra"))
        assert (shown["config"], shown["devices"]) == ({"user.colour": "blue"}, {"eth9": {"type": "none"}})
        name = make_instance(start=False, profiles=["default", "extra"])
        expanded = json.loads(lxc("query", f"/1.0/instances/{name}"))
        assert expanded["expanded_config"]["user.colour"] == "blue"
        assert "in use" in lxc.fails("profile", "delete", "extra")
        lxc("profile", "remove", name, "extra")
        lxc("profile", "rename", "extra", "extra2")
        lxc("profile", "rename", "extra2", "extra")
        assert "extra" in lxc("profile", "list", "--format", "csv")
    finally:
        lxc("profile", "delete", "extra")
    assert "not found" in lxc.fails("profile", "show", "extra").lower()


def test_config(lxc: Client, make_instance: Callable[..., str]) -> None:
    name = make_instance(start=False)
    lxc("config", "set", name, "limits.memory=256MiB", "user.a=1")
    assert lxc("config", "get", name, "limits.memory").strip() == "256MiB"
    lxc("config", "unset", name, "user.a")
    assert lxc("config", "get", name, "user.a").strip() == ""
    edited = yaml.safe_load(lxc("config", "show", name))
    edited["description"] = "edited"
    lxc("config", "edit", name, stdin=yaml.safe_dump(edited))
    assert yaml.safe_load(lxc("config", "show", name))["description"] == "edited"
    lxc("config", "device", "add", name, "eth1", "none")
    assert lxc("config", "device", "list", name).split() == ["eth1"]
    lxc("config", "device", "remove", name, "eth1")


def test_limits_are_applied_while_it_runs(lxc: Client, instance: str) -> None:
    lxc("config", "set", instance, "limits.processes", "20")
    assert lxc.run("exec", instance, "--", "sh", "-c", "for i in $(seq 40); do sleep 5 & done").stderr != b""
    assert "Invalid value" in lxc.fails("config", "set", instance, "limits.memory", "lots")


def test_query(lxc: Client, instance: str) -> None:
    server = json.loads(lxc("query", "/1.0"))
    assert server["auth"] == "trusted"
    assert server["environment"]["server"] == "lxd"
    assert json.loads(lxc("query", "/1.0/instances")) == [f"/1.0/instances/{instance}"]
    lxc("query", "-X", "PATCH", "-d", '{"config": {"user.q": "1"}}', f"/1.0/instances/{instance}")
    assert lxc("config", "get", instance, "user.q").strip() == "1"
    lxc("query", "--wait", "-X", "PUT", "-d", '{"action": "stop", "force": true}', f"/1.0/instances/{instance}/state")
    assert json.loads(lxc("query", f"/1.0/instances/{instance}/state"))["status"] == "Stopped"
    assert "not found" in lxc.fails("query", "/1.0/instances/missing").lower()
    assert "not found" in lxc.fails("query", "/1.0/no-such-thing").lower()


def test_monitor(lxc: Client, make_instance: Callable[..., str]) -> None:
    monitor = lxc.popen("monitor", "--type=lifecycle", "--format=json")
    try:
        assert monitor.stdout is not None
        stream = monitor.stdout
        until(lambda: _something_is_shown(lxc, stream), "the monitor shows an event")
        name, seen = make_instance("watched"), []
        while "instance-started" not in seen:
            line = stream.readline()
            event = json.loads(line) if line.strip() else None
            if event and event["metadata"]["source"] == f"/1.0/instances/{name}":
                assert event["type"] == "lifecycle"
                seen.append(event["metadata"]["action"])
        assert "instance-created" in seen
    finally:
        monitor.kill()
        monitor.communicate(timeout=60)


def _something_is_shown(lxc: Client, stream: IO[bytes]) -> bool:
    """Make an event; whether the monitor listens by now."""
    lxc("profile", "set", "default", "user.tick", "1")
    lxc("profile", "unset", "default", "user.tick")
    return bool(select.select([stream], [], [], 0.2)[0])


def test_operations(lxc: Client) -> None:
    assert "RUNNING" not in lxc("operation", "list", "--format", "csv")


def test_version_and_info(lxc: Client) -> None:
    assert "Server version" in lxc("version")
    assert yaml.safe_load(lxc("info"))["api_version"] == "1.0"


@pytest.mark.parametrize("noun", ["network", "storage", "profile"])
def test_lists(lxc: Client, noun: str) -> None:
    assert json.loads(lxc(noun, "list", "--format", "json"))
