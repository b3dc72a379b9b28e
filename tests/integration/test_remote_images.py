"""Images of other servers: a simplestreams server and a second daemon, both on loopback."""

import contextlib
import http.server
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import streams as streams_harness
from harness.api import Api, ApiError
from harness.daemon import Daemon
from harness.images import tar
from harness.streams import Streams
from harness.waiting import until

DOCUMENT = b"architecture: x86_64\ncreation_date: 1700000000\nproperties: {os: inner}\n"


METADATA = tar({"metadata.yaml": DOCUMENT}, "w:xz")


def root(marker: str) -> bytes:
    return tar({"etc/marker": marker.encode() * 1000, "sbin/init": b""}, "w")


@pytest.fixture(scope="module")
def here(make_daemon: Callable[[], Daemon]) -> Daemon:
    daemon = make_daemon()
    daemon.start()
    daemon.set_up("dir", ipv4="none", ipv6="none")
    return daemon


@pytest.fixture(scope="module")
def there(make_daemon: Callable[[], Daemon]) -> Daemon:
    """A second daemon, which serves HTTPS."""
    daemon = make_daemon()
    daemon.start()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with daemon.api() as api:
        api.call("PATCH", "/1.0", {"config": {"core.https_address": address}})
    return daemon


@pytest.fixture
def api(here: Daemon) -> Iterator[Api]:
    with here.api() as api:
        yield api
        for image in api.get("/1.0/images"):
            api.run("DELETE", image)
    left = [entry.name for entry in (here.state_dir / "images").iterdir()]
    assert not left, "something is left of images that are gone"


@pytest.fixture
def other(there: Daemon) -> Iterator[Api]:
    with there.api() as api:
        yield api
        for image in api.get("/1.0/images"):
            api.run("DELETE", image)


@pytest.fixture
def streams(tmp_path: Path) -> Iterator[Streams]:
    with streams_harness.serve(tmp_path) as streams:
        yield streams


def from_streams(streams: Streams, **source: Any) -> dict[str, Any]:
    return {"type": "image", "mode": "pull", "protocol": "simplestreams", "server": streams.url, **source}


def pull(api: Api, source: dict[str, Any], **more: Any) -> str:
    fingerprint: str = api.run("POST", "/1.0/images", {"source": source, **more})["metadata"]["fingerprint"]
    return fingerprint


def lxd_source(other: Api, **source: Any) -> dict[str, Any]:
    server = other.get("/1.0")
    return {
        "type": "image",
        "mode": "pull",
        "protocol": "lxd",
        "server": f"https://{server['config']['core.https_address']}",
        "certificate": server["environment"]["certificate"],
        **source,
    }


def upload(api: Api, marker: str, **headers: str) -> str:
    """Import a split image."""
    parts = {"metadata": METADATA, "rootfs": root(marker)}
    body = b"".join(
        f'--xyz\r\nContent-Disposition: form-data; name="{name}"; filename="{name}.x"\r\n\r\n'.encode()
        + content
        + b"\r\n"
        for name, content in parts.items()
    )
    sent = {"Content-Type": "multipart/form-data; boundary=xyz", **{f"X-LXD-{k}": v for k, v in headers.items()}}
    _, _, content = api.raw("POST", "/1.0/images", body + b"--xyz--\r\n", sent)
    fingerprint: str = api.wait(json.loads(content)["operation"])["metadata"]["fingerprint"]
    return fingerprint


def secret_of(api: Api, fingerprint: str) -> str:
    secret: str = api.call("POST", f"/1.0/images/{fingerprint}/secret")["metadata"]["metadata"]["secret"]
    return secret


def test_an_alias_of_a_catalog(api: Api, streams: Streams) -> None:
    streams.add("20240101", METADATA, root("old"))
    newest = streams.add("20240201_0100", METADATA, root("new"), requirements={"secureboot": "false"})
    fingerprint = pull(
        api, from_streams(streams, alias="test/1"), auto_update=True, aliases=[{"name": "mine"}], properties={"a": "b"}
    )
    assert fingerprint == newest
    shown = api.get(f"/1.0/images/{fingerprint}")
    assert shown["properties"] == {
        "a": "b",
        "architecture": "amd64",
        "description": "Test One amd64 (20240201_0100)",
        "os": "Test",
        "release": "one",
        "requirements.secureboot": "false",
        "serial": "20240201_0100",
        "type": "root.tar.xz",
    }
    assert shown["created_at"] == "2024-02-01T00:00:00Z"
    assert (shown["auto_update"], shown["cached"], shown["public"]) == (True, False, False)
    assert (shown["filename"], [one["name"] for one in shown["aliases"]]) == ("lxd.tar.xz", ["mine"])
    source = shown["update_source"]
    assert (source["alias"], source["protocol"], source["server"]) == ("test/1", "simplestreams", streams.url)


def test_the_beginning_of_a_fingerprint_and_a_unified_image(api: Api, streams: Streams) -> None:
    unified = tar({"metadata.yaml": DOCUMENT, "rootfs/etc/x": b"x"}, "w:gz")
    expected = streams.add("20240101", unified, None)
    fingerprint = pull(api, from_streams(streams, fingerprint=expected[:12]), auto_update=True, public=True)
    assert fingerprint == expected
    shown = api.get(f"/1.0/images/{fingerprint}")
    assert (shown["public"], shown["auto_update"], shown.get("update_source")) == (True, False, None)


def test_an_instance_of_a_catalog(api: Api, streams: Streams) -> None:
    fingerprint = streams.add("20240101", METADATA, root("instance"))
    body = {"name": "far", "source": from_streams(streams, alias="test/1")}
    api.run("POST", "/1.0/instances", body)
    assert api.get("/1.0/instances/far")["config"]["volatile.base_image"] == fingerprint
    assert api.get("/1.0/instances/far")["config"]["image.serial"] == "20240101"
    shown = api.get(f"/1.0/images/{fingerprint}")
    assert (shown["cached"], shown["auto_update"]) == (True, True)
    api.delete("far")
    # A newer one is there: the one that is kept up to date is taken all the same.
    streams.add("20240301", METADATA, root("newer"))
    api.run("POST", "/1.0/instances", body)
    assert api.get("/1.0/instances/far")["config"]["volatile.base_image"] == fingerprint
    api.delete("far")


def test_a_cached_image_serves_while_its_server_is_away(api: Api, tmp_path: Path) -> None:
    with streams_harness.serve(tmp_path) as streams:
        fingerprint = streams.add("20240101", METADATA, root("away"))
        body = {"name": "away", "source": from_streams(streams, alias="test/1")}
        api.run("POST", "/1.0/instances", body)
        api.delete("away")
    api.run("POST", "/1.0/instances", body)
    assert api.get("/1.0/instances/away")["config"]["volatile.base_image"] == fingerprint
    api.delete("away")


def test_refresh_replaces_an_image(api: Api, streams: Streams) -> None:
    old = streams.add("20240101", METADATA, root("old"))
    pull(api, from_streams(streams, alias="test/1"), auto_update=True, aliases=[{"name": "followed"}])
    assert api.run("POST", f"/1.0/images/{old}/refresh")["metadata"]["refreshed"] is False
    new = streams.add("20240201", METADATA, root("new"))
    api.create("old", "followed")
    assert api.run("POST", f"/1.0/images/{old}/refresh")["metadata"]["refreshed"] is True
    assert api.get("/1.0/images/aliases/followed")["target"] == new
    assert api.get(f"/1.0/images/{new}")["auto_update"] is True
    # The pool that had the old one has the new one.
    assert [url.rpartition("/")[2] for url in api.get("/1.0/storage-pools/default/volumes/image")] == [new]
    api.delete("old")
    with pytest.raises(ApiError, match="404"):
        api.get(f"/1.0/images/{old}")


def test_a_file_that_is_another_one_is_refused(api: Api, here: Daemon, streams: Streams) -> None:
    content = root("right")
    streams.add("20240101", METADATA, content)
    (streams.root / "images/20240101/root.tar.xz").write_bytes(content[:-1] + b"x")
    with pytest.raises(ApiError, match="Hash mismatch"):
        pull(api, from_streams(streams, alias="test/1"))
    (streams.root / "images/20240101/root.tar.xz").write_bytes(content + b"more")
    with pytest.raises(ApiError, match=r"more than the \d+ bytes that it announced"):
        pull(api, from_streams(streams, alias="test/1"))
    (streams.root / "images/20240101/root.tar.xz").unlink()
    with pytest.raises(ApiError, match="not found"):
        pull(api, from_streams(streams, alias="test/1"))
    assert not list((here.state_dir / "images").iterdir())


def test_a_transfer_that_breaks_off_is_taken_up_again(api: Api, streams: Streams) -> None:
    expected = streams.add("20240101", METADATA, root("broken" * 500))
    path = "images/20240101/root.tar.xz"
    streams.cut[path] = 100_000
    assert pull(api, from_streams(streams, alias="test/1")) == expected
    assert [wanted for _, one, wanted in streams.requests if one == path] == ["", "bytes=100000-"]


def test_two_who_want_the_same_share_a_download(api: Api, here: Daemon, streams: Streams) -> None:
    expected = streams.add("20240101", METADATA, root("shared"))
    path = "images/20240101/root.tar.xz"
    gate = streams.gates[path] = threading.Event()
    body = {"source": from_streams(streams, alias="test/1")}
    first = api.start("POST", "/1.0/images", body)
    until(lambda: streams.count(path), "the download has begun")
    second = api.start("POST", "/1.0/images", body)
    waits = "Waiting for the download of the same image"
    until(lambda: (api.get(second)["metadata"] or {}).get("download_progress") == waits, "the second one waits")
    gate.set()
    assert api.wait(first)["metadata"]["fingerprint"] == expected
    assert api.wait(second)["metadata"]["fingerprint"] == expected
    assert streams.count(path) == 1


def test_a_cancelled_download_leaves_nothing(api: Api, here: Daemon, streams: Streams) -> None:
    streams.add("20240101", METADATA, root("cancelled"))
    path = "images/20240101/root.tar.xz"
    streams.gates[path] = threading.Event()
    operation = api.start("POST", "/1.0/images", {"source": from_streams(streams, alias="test/1")})
    until(lambda: "rootfs" in (api.get(operation)["metadata"] or {}).get("download_progress", ""), "it has begun")
    assert api.get(operation)["may_cancel"]
    api.call("DELETE", operation)
    with pytest.raises(ApiError, match="401"):
        api.wait(operation)
    assert not list((here.state_dir / "images").iterdir())


def test_hostile_catalogs(api: Api, streams: Streams) -> None:
    streams.add("20240101", METADATA, root("hostile"))
    items = streams.products["test:1:amd64:default"]["versions"]["20240101"]["items"]
    for path in ("../../etc/passwd", "/etc/passwd", "http://127.0.0.1:1/x", "images/%2e%2e/x", "a?b", ""):
        items["root"]["path"] = path
        streams.write()
        with pytest.raises(ApiError, match="The requested image couldn't be found"):
            pull(api, from_streams(streams, alias="test/1"))
    for text in ("[]", "{", '{"products": 1}', "[" * 100_000):
        (streams.root / streams_harness.PRODUCTS).write_text(text)
        with pytest.raises(ApiError, match=r"Failed decoding the products|couldn't be found"):
            pull(api, from_streams(streams, alias=f"test/{len(text)}"))
    (streams.root / "streams/v1/index.json").write_bytes(b" " * (5 << 20))
    with pytest.raises(ApiError, match="longer than"):
        pull(api, from_streams(streams, alias="other"))


def test_an_image_at_a_url(api: Api, streams: Streams) -> None:
    unified = tar({"metadata.yaml": DOCUMENT, "rootfs/etc/x": b"url"}, "w:gz")
    expected = streams.add("20240101", unified, None)
    (streams.root / "ask").write_text("")
    streams.headers["ask"] = {"LXD-Image-Hash": expected, "LXD-Image-URL": f"{streams.url}/images/20240101/all.tar.gz"}
    assert pull(api, {"type": "url", "url": f"{streams.url}/ask"}) == expected
    assert api.get(f"/1.0/images/{expected}")["properties"] == {"os": "inner"}
    with pytest.raises(ApiError, match="Missing LXD-Image-Hash header"):
        pull(api, {"type": "url", "url": f"{streams.url}/images/20240101/all.tar.gz"})
    streams.headers["ask"]["LXD-Image-Hash"] = "0" * 64
    with pytest.raises(ApiError, match="Hash mismatch"):
        pull(api, {"type": "url", "url": f"{streams.url}/ask"})


def test_a_public_image_of_another_daemon(api: Api, other: Api) -> None:
    expected = upload(other, "public", public="true", properties="a=1")
    other.call("POST", "/1.0/images/aliases", {"name": "pub", "target": expected})
    assert pull(api, lxd_source(other, alias="pub"), auto_update=True) == expected
    shown = api.get(f"/1.0/images/{expected}")
    assert shown["properties"] == {"a": "1", "os": "inner"}
    assert shown["update_source"]["certificate"] == other.get("/1.0")["environment"]["certificate"]
    assert pull(api, lxd_source(other, fingerprint=expected[:8])) == expected


def test_another_certificate_is_refused(api: Api, other: Api) -> None:
    expected = upload(other, "pinned", public="true")
    mine = api.get("/1.0")["environment"]["certificate"]
    with pytest.raises(ApiError, match="shows another certificate"):
        pull(api, {**lxd_source(other, fingerprint=expected), "certificate": mine})
    with pytest.raises(ApiError, match="Failed to reach"):
        pull(api, {**lxd_source(other, fingerprint=expected), "certificate": ""})


def test_a_private_image_needs_a_secret_which_is_spent(api: Api, other: Api) -> None:
    expected = upload(other, "private")
    with pytest.raises(ApiError, match="Failed getting remote image info: Image not found"):
        pull(api, lxd_source(other, fingerprint=expected))
    secret = secret_of(other, expected)
    with pytest.raises(ApiError, match="Image not found"):
        pull(api, lxd_source(other, fingerprint=expected, secret="0" * 64))
    assert pull(api, lxd_source(other, fingerprint=expected, secret=secret)) == expected
    api.run("DELETE", f"/1.0/images/{expected}")
    with pytest.raises(ApiError, match="Image not found"):
        pull(api, lxd_source(other, fingerprint=expected, secret=secret))
    body = {"name": "private", "source": lxd_source(other, fingerprint=expected, secret=secret_of(other, expected))}
    api.run("POST", "/1.0/instances", body)
    assert api.get(f"/1.0/images/{expected}")["cached"] is True
    api.delete("private")


def test_an_image_is_pushed(api: Api, other: Api) -> None:
    fingerprint = upload(api, "pushed")
    wanted = {"public": True, "aliases": [{"name": "came"}], "properties": {"p": "q"}}
    token = other.call("POST", "/1.0/images", {"source": {"mode": "push", "fingerprint": fingerprint}, **wanted})
    target = lxd_source(other)
    body = {
        "target": target["server"],
        "certificate": target["certificate"],
        "secret": token["metadata"]["metadata"]["secret"],
    }
    api.run("POST", f"/1.0/images/{fingerprint}/export", body)
    shown = other.get("/1.0/images/aliases/came")
    assert shown["target"] == fingerprint
    image = other.get(f"/1.0/images/{fingerprint}")
    assert (image["public"], image["properties"]["p"]) == (True, "q")
    with pytest.raises(ApiError, match="not authorized"):
        api.run("POST", f"/1.0/images/{fingerprint}/export", body)


def test_projects_share_the_files_of_an_image(api: Api, other: Api, here: Daemon) -> None:
    api.call("POST", "/1.0/projects", {"name": "second", "config": {"features.images": "true"}})
    fingerprint = upload(api, "projects")
    source = {"type": "image", "fingerprint": fingerprint, "project": "default"}
    body = {"source": source, "aliases": [{"name": "copied"}]}
    done = api.run("POST", "/1.0/images?project=second", body)
    assert done["metadata"]["fingerprint"] == fingerprint
    assert api.get("/1.0/images/aliases/copied?project=second")["target"] == fingerprint
    api.run("DELETE", f"/1.0/images/{fingerprint}")
    assert (here.state_dir / "images" / fingerprint).exists()
    api.run("DELETE", f"/1.0/images/{fingerprint}?project=second")
    assert not (here.state_dir / "images" / fingerprint).exists()
    api.call("DELETE", "/1.0/projects/second")


def test_a_server_cannot_claim_the_private_image_of_another_project(api: Api, streams: Streams) -> None:
    private = upload(api, "secret of the default project")
    api.call("POST", "/1.0/projects", {"name": "tenant", "config": {"features.images": "true"}})
    streams.add("20240101", METADATA, root("bait"))
    items = streams.products["test:1:amd64:default"]["versions"]["20240101"]["items"]
    items["meta"]["combined_rootxz_sha256"] = private
    streams.write()
    body = {"name": "thief", "source": from_streams(streams, alias="test/1")}
    with pytest.raises(ApiError, match="fingerprint doesn't match"):
        api.run("POST", "/1.0/instances?project=tenant", body)
    assert api.get("/1.0/images?project=tenant") == []
    api.call("DELETE", "/1.0/projects/tenant")


def test_a_disk_limit_of_a_project_holds(api: Api, streams: Streams) -> None:
    streams.add("20240101", METADATA, root("limit"))
    config = {"features.images": "true", "limits.disk": "1kB"}
    api.call("POST", "/1.0/projects", {"name": "small", "config": config})
    with pytest.raises(ApiError, match="exceeds allowed budget of 1000"):
        api.run("POST", "/1.0/images?project=small", {"source": from_streams(streams, alias="test/1")})
    api.call("DELETE", "/1.0/projects/small")


def test_a_server_that_is_none(api: Api) -> None:
    """One that answers with nonsense, and one that says nothing of what it is."""

    class Nonsense(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(
                    b'{"type": "sync", "metadata": {"fingerprint": "../x"}}' if "img" in self.path else b"<p>"
                )

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Nonsense)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        address = f"http://127.0.0.1:{server.server_address[1]}"
        source = {"type": "image", "server": address, "fingerprint": "a" * 64, "secret": "s"}
        with pytest.raises(ApiError, match="is no server of this kind"):
            pull(api, source)
        with pytest.raises(ApiError, match="for a fingerprint"):
            pull(api, {**source, "fingerprint": "img"})
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
