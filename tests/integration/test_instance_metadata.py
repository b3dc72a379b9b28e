"""Image metadata and file templates of instances, and instance types, through the API."""

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import remove_instance
from harness.api import Api, ApiError
from harness.daemon import Daemon

Make = Callable[..., str]


def directory_of(daemon: Daemon, name: str) -> Path:
    return daemon.state_dir / "containers" / name


def test_metadata_is_edited(api: Api, make_instance: Make) -> None:
    name = make_instance()
    path = f"/1.0/instances/{name}/metadata"
    _, headers, content = api.raw("GET", path)
    metadata = json.loads(content)["metadata"]
    assert metadata["properties"]["os"] == "Busybox"
    assert metadata["templates"]["/etc/hostname"]["when"] == ["create", "copy"]
    metadata["templates"]["/greeting"] = {"when": ["start"], "template": "greeting.tpl"}
    with pytest.raises(ApiError, match="ETag doesn't match"):
        api.call("PUT", path, metadata, **{"If-Match": "0" * 64})
    api.call("PUT", path, metadata, **{"If-Match": headers["etag"]})
    api.call("PATCH", path, {"properties": {"variant": "test"}, "expiry_date": 7})
    changed = api.get(path)
    assert changed["properties"] == metadata["properties"] | {"variant": "test"}
    assert changed["expiry_date"] == 7
    assert changed["templates"]["/greeting"]["create_only"] is False
    api.raw("POST", f"{path}/templates?path=greeting.tpl", b'{{ config_get("user.word", "null") }}')
    assert api.get(f"{path}/templates") == ["greeting.tpl", "hostname.tpl"]
    api.call("PATCH", f"/1.0/instances/{name}", {"config": {"user.word": "hello"}})
    api.set_state(name, "restart", force=True)
    assert api.raw("GET", f"/1.0/instances/{name}/files?path=/greeting")[2] == b"hello"


def test_templates(api: Api, daemon: Daemon, make_instance: Make) -> None:
    name = make_instance(start=False)
    path = f"/1.0/instances/{name}/metadata/templates"
    for content in (b"", b"null", b"\0\xff" * 1000):
        assert api.raw("POST", f"{path}?path=my.tpl", content)[0] == 200
        status, headers, read = api.raw("GET", f"{path}?path=my.tpl")
        assert (status, read, headers["content-type"]) == (200, content, "application/octet-stream")
    assert (directory_of(daemon, name) / "templates" / "my.tpl").stat().st_mode & 0o777 == 0o644
    api.call("DELETE", f"{path}?path=my.tpl")
    for method in ("GET", "DELETE"):
        with pytest.raises(ApiError, match=r'404: Template "my\.tpl" not found'):
            api.call(method, f"{path}?path=my.tpl")
    for method in ("POST", "DELETE"):
        with pytest.raises(ApiError, match="missing path argument"):
            api.call(method, path)
        with pytest.raises(ApiError, match="Invalid template filename"):
            api.call(method, f"{path}?path=..%2Fmetadata.yaml")


def test_killed_while_metadata_is_edited(daemon: Daemon, api: Api, make_instance: Make) -> None:
    """What is read afterwards is whole: the old contents, or the new ones."""
    name = make_instance(start=False)
    path = f"/1.0/instances/{name}/metadata"
    metadata = {**api.get(path), "properties": {"round": "first", "bulk": "x" * 1000}}
    api.call("PUT", path, metadata)
    api.raw("POST", f"{path}/templates?path=my.tpl", b"first" * 40_000)
    for delay_ms in (0, 2, 5):
        new = {**metadata, "properties": {"round": f"{delay_ms}", "bulk": "y" * 1000}}
        text = f"{delay_ms}....".encode() * 40_000

        def send(new: object = new, text: bytes = text) -> None:
            with daemon.api() as own, contextlib.suppress(OSError, ValueError, http.client.HTTPException, ApiError):
                own.call("PUT", path, new)
                own.raw("POST", f"{path}/templates?path=my.tpl", text)
                own.raw("POST", f"{path}/templates?path=other.tpl", text)
                own.call("DELETE", f"{path}/templates?path=hostname.tpl")

        before = (api.get(path), api.raw("GET", f"{path}/templates?path=my.tpl")[2])
        thread = threading.Thread(target=send)
        thread.start()
        time.sleep(delay_ms / 1000)
        daemon.kill()
        daemon.start()
        thread.join(30)
        assert api.get(path) in (before[0], {**new, "templates": before[0]["templates"]})
        assert api.raw("GET", f"{path}/templates?path=my.tpl")[2] in (before[1], text)
        names = api.get(f"{path}/templates")
        assert set(names) <= {"hostname.tpl", "my.tpl", "other.tpl"}
        if "other.tpl" in names:
            assert api.raw("GET", f"{path}/templates?path=other.tpl")[2] == text
            api.call("DELETE", f"{path}/templates?path=other.tpl")
        # The next edit removes what was only being written.
        api.call("PUT", path, api.get(path))
        api.raw("POST", f"{path}/templates?path=hostname.tpl", b"{{ container.name }}")
    directory = directory_of(daemon, name)
    assert not [one.name for one in (*directory.iterdir(), *(directory / "templates").iterdir()) if ".new" in one.name]


def test_a_hostile_image_reaches_nothing(api: Api, daemon: Daemon, make_instance: Make, tmp_path: Path) -> None:
    name = make_instance(start=False)
    path, directory = f"/1.0/instances/{name}/metadata", directory_of(daemon, name)
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (directory / "templates" / "link.tpl").symlink_to(secret)
    (directory / "metadata.yaml").unlink()
    (directory / "metadata.yaml").symlink_to(secret)
    assert api.get(path) == {
        "architecture": "",
        "creation_date": 0,
        "expiry_date": 0,
        "properties": None,
        "templates": None,
    }
    with pytest.raises(ApiError, match="404"):
        api.call("GET", f"{path}/templates?path=link.tpl")
    api.raw("POST", f"{path}/templates?path=link.tpl", b"mine")
    api.call("PUT", path, {"architecture": "x86_64", "creation_date": 1})
    assert secret.read_text() == "secret"
    with pytest.raises(ApiError, match=r"no name of a file in templates/"):
        api.call("PUT", path, {"templates": {"/x": {"when": ["start"], "template": "../../../secret"}}})
    api.set_state(name, "start")


def test_instance_types(api: Api, make_instance: Make) -> None:
    name = make_instance(start=False, instance_type="c0.5-m0.2", config={"limits.memory": "300MB"})
    config = api.get(f"/1.0/instances/{name}")["config"]
    assert config["limits.cpu"] == "1"
    assert config["limits.cpu.allowance"] == "50%"
    assert config["limits.memory"] == "300MB"
    with pytest.raises(ApiError, match="400: Provided instance type doesn't exist: aws:none"):
        api.create("never", "busybox", instance_type="aws:none")


def test_each_trigger_renders_its_templates(api: Api, make_instance: Make) -> None:
    name = make_instance(start=False)
    path = f"/1.0/instances/{name}"
    api.raw("POST", f"{path}/metadata/templates?path=t", b"{{ trigger }} {{ path }} {{ instance.name }}")
    triggers = ("create", "copy", "rename", "start")
    templates: dict[str, object] = {
        f"/deep/{one}/file": {"when": [one], "template": "t", "create_only": one == "start"} for one in triggers
    }
    api.call("PATCH", f"{path}/metadata", {"templates": templates})

    def rendered(instance: str) -> dict[str, str]:
        found = {}
        for one in triggers:
            status, _, content = api.raw("GET", f"/1.0/instances/{instance}/files?path=/deep/{one}/file")
            if status == 200:
                found[one] = content.decode()
        return found

    def start_and_stop(instance: str) -> dict[str, str]:
        api.set_state(instance, "start")
        api.set_state(instance, "stop", force=True)
        return rendered(instance)

    assert rendered(name) == {}
    created = {"create": f"create /deep/create/file {name}", "start": f"start /deep/start/file {name}"}
    assert start_and_stop(name) == created
    api.run("POST", "/1.0/instances", {"name": "the-copy", "source": {"type": "copy", "source": name}})
    try:
        assert rendered("the-copy") == created
        assert start_and_stop("the-copy") == {**created, "copy": "copy /deep/copy/file the-copy"}
        api.run("POST", "/1.0/instances/the-copy", {"name": "renamed"})
        assert start_and_stop("renamed")["rename"] == "rename /deep/rename/file renamed"
    finally:
        for one in ("the-copy", "renamed"):
            remove_instance(api, one)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% include '/etc/passwd' %}", "Failed to render template"),
        ("{{ nonsense( }}", "Failed to render template"),
        (
            "{% for a in 'x'|ljust:99999|make_list %}{% for b in 'x'|ljust:99999|make_list %}{% endfor %}{% endfor %}",
            "too",
        ),
    ],
)
def test_a_template_that_cannot_be_rendered_fails_the_start_clearly(
    api: Api, make_instance: Make, template: str, reason: str
) -> None:
    name = make_instance(start=False)
    path = f"/1.0/instances/{name}"
    api.raw("POST", f"{path}/metadata/templates?path=bad.tpl", template.encode())
    api.call("PATCH", f"{path}/metadata", {"templates": {"/x": {"when": ["start"], "template": "bad.tpl"}}})
    with pytest.raises(ApiError, match=reason) as caught:
        api.set_state(name, "start")
    assert "bad.tpl" in caught.value.message
    api.call("DELETE", f"{path}/metadata/templates?path=bad.tpl")
    with pytest.raises(ApiError, match=r"bad\.tpl"):
        api.set_state(name, "start")
    api.call("PUT", f"{path}/metadata", {})
    api.set_state(name, "start")
