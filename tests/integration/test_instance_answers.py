"""What answers about instances say, beyond what `lxc` shows of them."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from harness.api import Api, ApiError

Make = Callable[..., str]
NEVER = "0001-01-01T00:00:00Z"


def test_a_body_without_a_type_is_json(api: Api, make_instance: Make) -> None:
    name = make_instance(start=False)
    body = {"name": name, "source": {"type": "none"}}
    status, _, content = api.raw("POST", "/1.0/instances", json.dumps(body).encode())
    assert status == 202
    with pytest.raises(ApiError, match="already exists"):
        api.wait(json.loads(content)["operation"])


def test_full_instances_have_their_backups(api: Api, make_instance: Make) -> None:
    name = make_instance(start=False)
    path = f"/1.0/instances/{name}"
    assert api.get(f"{path}?recursion=1")["backups"] is None
    api.run("POST", f"{path}/backups", {"name": "b0", "expires_at": "2100-01-01T00:00:00Z", "instance_only": True})
    (backup,) = api.get(f"{path}/backups?recursion=1")
    assert backup["name"] == "b0"
    assert api.get(f"{path}?recursion=1")["backups"] == [backup]
    (listed,) = [one for one in api.get("/1.0/instances?recursion=2") if one["name"] == name]
    assert listed["backups"] == [backup]
    assert "restore" not in listed


def test_snapshots_renamed_and_changed(api: Api, make_instance: Make) -> None:
    path = f"/1.0/instances/{make_instance(start=False)}"
    for name in ("one", "two"):
        api.run("POST", f"{path}/snapshots", {"name": name, "expires_at": "2100-01-01T00:00:00Z"})
    for taken in ("one", "two"):
        with pytest.raises(ApiError, match=f'{taken}" already in use') as caught:
            api.call("POST", f"{path}/snapshots/one", {"name": taken})
        assert caught.value.status == 409
    for body, expiry in (
        ({}, "2100"),
        ({"expires_at": None}, "2100"),
        ({"expires_at": "0001-01-01T00:00:00Z"}, "0001"),
    ):
        api.run("PUT", f"{path}/snapshots/one", body)
        assert api.get(f"{path}/snapshots/one")["expires_at"].startswith(expiry)
    with pytest.raises(ApiError, match="restore mode"):
        api.call("PATCH", path, {"restore": "one"})


def test_a_copy_has_the_profiles_of_its_origin(api: Api, make_instance: Make) -> None:
    name = make_instance(start=False)
    api.call("POST", "/1.0/profiles", {"name": "answers", "config": {"user.from": "profile"}})
    api.call("PATCH", f"/1.0/instances/{name}", {"profiles": ["default", "answers"]})
    copy = f"{name}-copy"
    body: dict[str, Any] = {"name": copy, "source": {"type": "copy", "source": name}, "stateful": False}
    done = api.run("POST", "/1.0/instances", body)
    try:
        assert done["resources"]["instances"] == [f"/1.0/instances/{copy}", f"/1.0/instances/{name}"]
        assert api.get(f"/1.0/instances/{copy}")["profiles"] == ["default", "answers"]
    finally:
        for one in (name, copy):
            api.call("PATCH", f"/1.0/instances/{one}", {"profiles": ["default"]})
        api.delete(copy)
        api.call("DELETE", "/1.0/profiles/answers")


def test_a_refresh_from_a_snapshot(api: Api, make_instance: Make) -> None:
    name = make_instance(start=False)
    copy = f"{name}-copy"
    file = f"/1.0/instances/{name}/files?path=/mark"
    api.raw("POST", file, b"old")
    api.run("POST", f"/1.0/instances/{name}/snapshots", {"name": "s0"})
    api.raw("POST", file, b"new")
    api.run("POST", "/1.0/instances", {"name": copy, "source": {"type": "copy", "source": name}})
    try:
        source = {"type": "copy", "source": f"{name}/s0", "refresh": True}
        api.run("POST", "/1.0/instances", {"name": copy, "source": source})
        assert api.raw("GET", f"/1.0/instances/{copy}/files?path=/mark")[2] == b"old"
        assert api.get(f"/1.0/instances/{copy}/snapshots") == [f"/1.0/instances/{copy}/snapshots/s0"]
    finally:
        api.delete(copy)


def test_what_never_started_is_imported_with_its_templates_pending(api: Api, make_instance: Make) -> None:
    name = make_instance(start=False)
    path = f"/1.0/instances/{name}"
    api.run("POST", f"{path}/backups", {"name": "b0", "compression_algorithm": "none"})
    content = api.raw("GET", f"{path}/backups/b0/export")[2]
    assert b"/storage-pools/" not in content.partition(b"backup/index.yaml")[0]
    headers = {"Content-Type": "application/octet-stream", "X-LXD-name": f"{name}-new"}
    status, _, answer = api.raw("POST", "/1.0/instances", content, headers)
    assert status == 202
    api.wait(json.loads(answer)["operation"])
    try:
        assert api.get(f"{path}-new")["config"]["volatile.apply_template"] == "create"
    finally:
        api.delete(f"{name}-new")


def test_the_operation_of_a_command_tells_what_is_run(api: Api, make_instance: Make) -> None:
    name = make_instance()
    body = {"command": ["true"], "environment": {"A": "b"}, "wait-for-websocket": True}
    operation = api.call("POST", f"/1.0/instances/{name}/exec", body)
    assert operation["metadata"]["resources"] == {
        "instances": [f"/1.0/instances/{name}"],
        "containers": [f"/1.0/containers/{name}"],
    }
    environment = operation["metadata"]["metadata"]["environment"]
    assert environment["A"] == "b"
    assert environment["HOME"] == "/root"
    assert "/usr/bin" in environment["PATH"]
    recorded = {"command": [""], "wait-for-websocket": False}
    with pytest.raises(ApiError, match="Command not found"):
        api.run("POST", f"/1.0/instances/{name}/exec", recorded)
