"""Images over the REST API of a real daemon: import, export, build, aliases, delete, faults."""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.api import Api, ApiError
from harness.daemon import Daemon
from harness.images import tar
from harness.waiting import until

DOCUMENT = b"architecture: x86_64\ncreation_date: 1700000000\nproperties: {os: test, release: '1.10'}\n"


UNFINISHED = b"POST /1.0/images HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\n" + b"\x1f" * 200_000
"""The beginning of an upload."""


def unified(marker: str) -> bytes:
    return tar({"metadata.yaml": DOCUMENT, "rootfs/etc/marker": marker.encode()})


def upload(api: Api, body: bytes, **headers: str) -> dict[str, str]:
    """Post an image and wait; the operation's metadata."""
    status, _, content = api.raw("POST", "/1.0/images", body, {f"X-LXD-{key}": value for key, value in headers.items()})
    envelope = json.loads(content)
    if envelope["type"] == "error":
        raise ApiError(status, envelope["error"])
    metadata: dict[str, str] = api.wait(envelope["operation"])["metadata"]
    return metadata


def form(parts: dict[str, bytes]) -> tuple[bytes, dict[str, str]]:
    body = b"".join(
        f'--xyz\r\nContent-Disposition: form-data; name="{name}"; filename="{name}.file"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n".encode()
        + content
        + b"\r\n"
        for name, content in parts.items()
    )
    return body + b"--xyz--\r\n", {"Content-Type": "multipart/form-data; boundary=xyz"}


def stored(daemon: Daemon) -> list[str]:
    return sorted(entry.name for entry in (daemon.state_dir / "images").iterdir())


def families(api: Api, name: str) -> set[str]:
    """The kinds of global addresses that an instance has."""
    network = api.get(f"/1.0/instances/{name}/state")["network"] or {}
    return {one["family"] for one in network.get("eth0", {}).get("addresses", []) if one["scope"] == "global"}


@pytest.fixture
def image(api: Api) -> Iterator[str]:
    """The fingerprint of an image that is gone after the test."""
    fingerprint = upload(api, unified("fixture"))["fingerprint"]
    yield fingerprint
    with contextlib.suppress(ApiError):
        api.run("DELETE", f"/1.0/images/{fingerprint}")


def test_an_image_shows_its_metadata(api: Api, image: str) -> None:
    shown = api.get(f"/1.0/images/{image[:12]}")
    assert shown["fingerprint"] == image
    assert shown["properties"] == {"os": "test", "release": "1.10"}
    assert (shown["architecture"], shown["type"], shown["public"]) == ("x86_64", "container", False)
    assert (shown["created_at"], shown["expires_at"]) == ("2023-11-14T22:13:20Z", "1970-01-01T00:00:00Z")
    assert shown["profiles"] == ["default"]
    assert f"/1.0/images/{image}" in api.get("/1.0/images")
    found = api.get("/1.0/images?recursion=1&filter=properties.release+eq+1.10")
    assert [one["fingerprint"] for one in found] == [image]


def test_headers_describe_an_upload(api: Api) -> None:
    fingerprint = upload(api, unified("headers"), filename="my.tar", public="true", properties="a=b%20c&os=mine")[
        "fingerprint"
    ]
    shown = api.get(f"/1.0/images/{fingerprint}")
    assert (shown["filename"], shown["public"]) == ("my.tar", True)
    assert shown["properties"] == {"a": "b c", "os": "mine", "release": "1.10"}
    api.run("DELETE", f"/1.0/images/{fingerprint}")


def test_a_split_image_comes_back_as_it_went(daemon: Daemon, api: Api) -> None:
    metadata, rootfs = tar({"metadata.yaml": DOCUMENT}, "w:xz"), tar({"etc/x": b"y" * 3_000_000}, "w:gz")
    body, headers = form({"metadata": metadata, "rootfs": rootfs})
    status, _, content = api.raw("POST", "/1.0/images", body, headers)
    assert status == 202
    fingerprint = api.wait(json.loads(content)["operation"])["metadata"]["fingerprint"]
    assert stored(daemon).count(f"{fingerprint}.rootfs") == 1
    status, reply, content = api.raw("GET", f"/1.0/images/{fingerprint}/export")
    assert status == 200
    assert int(reply["content-length"]) == len(content)
    boundary = reply["content-type"].partition("boundary=")[2].encode()
    parts = content.split(b"--" + boundary)
    assert f'name="metadata"; filename="meta-{fingerprint}.tar.xz"'.encode() in parts[1]
    assert f'name="rootfs"; filename="{fingerprint}.tar.gz"'.encode() in parts[2]
    assert parts[1].partition(b"\r\n\r\n")[2] == metadata + b"\r\n"
    assert parts[2].partition(b"\r\n\r\n")[2] == rootfs + b"\r\n"
    api.run("DELETE", f"/1.0/images/{fingerprint}")
    assert not [name for name in stored(daemon) if name.startswith(fingerprint)]


def test_a_unified_image_comes_back_as_it_went(api: Api, image: str) -> None:
    status, reply, content = api.raw("GET", f"/1.0/images/{image}/export")
    assert (status, content) == (200, unified("fixture"))
    assert reply["content-disposition"] == f"inline;filename={image}.tar"
    status, _, content = api.raw("GET", f"/1.0/images/{image}/export", headers={"Range": "bytes=0-9"})
    assert (status, content) == (206, unified("fixture")[:10])


@pytest.mark.parametrize(
    ("body", "headers", "reason"),
    [
        (b"not an image", {}, "Unsupported compression"),
        (b"", {}, "empty"),
        (unified("x"), {"fingerprint": "0" * 64}, "fingerprints don't match"),
        (tar({"rootfs/x": b""}), {}, "missing metadata.yaml"),
        (tar({"metadata.yaml": DOCUMENT}), {}, "neither rootfs/ nor rootfs.img"),
        (tar({"metadata.yaml": b"architecture: vax\ncreation_date: 1\n", "rootfs/x": b""}), {}, "isn't supported: vax"),
        (tar({"metadata.yaml": DOCUMENT, "rootfs/../../x": b""}), {}, "climbs out"),
        (tar({"metadata.yaml": DOCUMENT, "/etc/x": b""}), {}, "absolute path"),
        (unified("y" * 9000)[:9000], {}, "damaged"),
    ],
)
def test_a_bad_upload_is_refused_and_leaves_nothing(
    daemon: Daemon, api: Api, body: bytes, headers: dict[str, str], reason: str
) -> None:
    before = stored(daemon)
    with pytest.raises(ApiError, match=re.escape(reason)):
        upload(api, body, **headers)
    assert stored(daemon) == before


def test_a_bad_form_is_refused(daemon: Daemon, api: Api) -> None:
    before = stored(daemon)
    for parts in ({"rootfs": b"x"}, {"metadata": b"x"}, {"metadata": b"x", "other": b"y"}):
        body, headers = form(parts)
        status, _, content = api.raw("POST", "/1.0/images", body, headers)
        assert status == 400
        assert "Invalid multipart image" in json.loads(content)["error"]
    assert stored(daemon) == before


def test_the_same_image_again_is_told_apart(api: Api, image: str) -> None:
    status, _, content = api.raw("POST", "/1.0/images", unified("fixture"))
    assert status == 202
    done = api.get(json.loads(content)["operation"] + "/wait?timeout=20")
    assert done["err"] == "Image with same fingerprint already exists"
    assert done["metadata"]["fingerprint"] == image


def test_a_client_that_goes_away_leaves_nothing(daemon: Daemon) -> None:
    before = stored(daemon)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(daemon.socket))
        connection.sendall(
            b"POST /1.0/images HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\n" + b"\x1f" * 200_000
        )
        until(lambda: len(stored(daemon)) > len(before), "the upload is being spooled")
    until(lambda: stored(daemon) == before, "the spool is gone")


def test_editing(api: Api, image: str) -> None:
    path = f"/1.0/images/{image}"
    api.call("PATCH", path, {"properties": {"hello": "world"}, "public": True})
    shown = api.get(path)
    assert shown["properties"] == {"os": "test", "release": "1.10", "hello": "world"}
    api.call("PUT", path, {"properties": {"a": "b"}, "auto_update": True, "expires_at": "2030-01-02T03:04:05+01:00"})
    shown = api.get(path)
    assert (shown["properties"], shown["public"], shown["auto_update"]) == ({"a": "b"}, False, True)
    assert shown["expires_at"] == "2030-01-02T02:04:05Z"
    with pytest.raises(ApiError, match="412"):
        api.call("PUT", path, {"properties": {}}, **{"If-Match": '"0123"'})
    with pytest.raises(ApiError, match="Profile 'nope' doesn't exist"):
        api.call("PUT", path, {"profiles": ["nope"]})


def test_aliases_may_have_slashes(api: Api, image: str) -> None:
    aliases = "/1.0/images/aliases"
    api.call("POST", aliases, {"name": "test/1.10/x", "target": image[:20], "description": "d"})
    with pytest.raises(ApiError, match=r'409: Alias "test/1\.10/x" already exists'):
        api.call("POST", aliases, {"name": "test/1.10/x", "target": image})
    wanted = {"name": "test/1.10/x", "target": image, "description": "d", "type": "container"}
    assert api.get(f"{aliases}/test%2F1.10%2Fx") == api.get(f"{aliases}/test/1.10/x") == wanted
    assert f"{aliases}/test%2F1.10%2Fx" in api.get(aliases)
    assert api.get(f"/1.0/images/{image}")["aliases"] == [{"name": "test/1.10/x", "description": "d"}]
    api.call("PATCH", f"{aliases}/test/1.10/x", {"description": "new"})
    api.call("POST", f"{aliases}/test/1.10/x", {"name": "short"})
    assert api.get(f"{aliases}/short")["description"] == "new"
    api.call("DELETE", f"{aliases}/short")
    with pytest.raises(ApiError, match="404: Image alias not found"):
        api.get(f"{aliases}/short")
    with pytest.raises(ApiError, match="404: Image not found"):
        api.call("POST", aliases, {"name": "a", "target": "0" * 64})


def test_a_secret_is_good_for_one_use(api: Api, image: str) -> None:
    token = api.call("POST", f"/1.0/images/{image}/secret")
    assert (token["metadata"]["class"], token["metadata"]["description"]) == ("token", "Image download token")
    secret = token["metadata"]["metadata"]["secret"]
    assert api.get(f"/1.0/images/{image}?secret={secret}")["fingerprint"] == image
    assert api.raw("GET", f"/1.0/images/{image}/export?secret={secret}")[0] == 200
    until(lambda: api.get(token["operation"])["status"] == "Cancelled", "the token is spent")


def test_an_image_goes_with_its_copies_in_the_pools(daemon: Daemon, api: Api) -> None:
    fingerprint = upload(api, unified("pools"))["fingerprint"]
    api.run("POST", "/1.0/instances", {"name": "pooled", "source": {"type": "image", "fingerprint": fingerprint}})
    volume = f"/1.0/storage-pools/default/volumes/image/{fingerprint}"
    assert api.get(volume)["name"] == fingerprint
    assert api.get(f"/1.0/images/{fingerprint}")["last_used_at"] > "2001"
    assert api.run("POST", f"/1.0/images/{fingerprint}/refresh")["metadata"] == {"refreshed": False}
    with pytest.raises(ApiError, match="404"):
        api.get(volume)
    api.delete("pooled")
    api.run("POST", "/1.0/instances", {"name": "pooled", "source": {"type": "image", "fingerprint": fingerprint}})
    api.run("DELETE", f"/1.0/images/{fingerprint}")
    with pytest.raises(ApiError, match="404"):
        api.get(volume)
    assert not [name for name in stored(daemon) if name.startswith(fingerprint)]
    api.delete("pooled")


def test_what_cannot_be_done_says_so(api: Api) -> None:
    for source, reason in (
        ({"type": "image", "server": "https://127.0.0.1:1", "alias": "a"}, "Failed to reach https://127.0.0.1:1"),
        ({"type": "image", "server": "file:///etc", "alias": "a"}, "Invalid URL 'file:///etc'"),
        ({"type": "image", "server": "https://x", "alias": "a", "protocol": "p"}, "Unsupported protocol: p"),
        ({"type": "image", "server": "https://x"}, "must specify one of alias or fingerprint"),
        ({"type": "url", "url": ""}, "Missing URL"),
        ({"type": "instance", "name": "none"}, "Instance not found"),
        ({"type": "snapshot", "name": "none"}, "Not a snapshot"),
        ({"type": "nonsense"}, "unknown type of source 'nonsense'"),
        ({"type": "build", "os": "debian", "release": "7"}, "No recipe for Debian '7'"),
        ({"type": "build", "os": "plan9"}, "No recipe for an image of 'plan9'"),
        ({"type": "build", "os": "debian", "release": "12", "packages": ["a;b"]}, "'a;b' is no name of a package"),
    ):
        with pytest.raises(ApiError, match=reason):
            api.run("POST", "/1.0/images", {"source": source})


@pytest.mark.skipif(shutil.which("busybox") is None, reason="needs busybox-static")
def test_a_busybox_image_is_built_and_boots(api: Api, make_instance: Callable[..., str]) -> None:
    body = {"source": {"type": "build", "os": "busybox"}, "aliases": [{"name": "built"}], "properties": {"x": "y"}}
    done = api.run("POST", "/1.0/images", body)
    fingerprint = done["metadata"]["fingerprint"]
    shown = api.get(f"/1.0/images/{fingerprint}")
    assert (shown["properties"]["os"], shown["properties"]["x"]) == ("BusyBox", "y")
    with pytest.raises(ApiError, match="Alias already exists: built"):
        api.run("POST", "/1.0/images", body)
    name = make_instance(image="built")

    until(lambda: families(api, name) == {"inet", "inet6"}, "the instance has both addresses")
    api.set_state(name, "stop", timeout_s=20)
    api.run("DELETE", f"/1.0/images/{fingerprint}")


def test_a_killed_daemon_sweeps_what_was_half_imported(make_daemon: Callable[[], Daemon]) -> None:
    daemon = make_daemon()
    daemon.start()
    with daemon.api() as api:
        kept = upload(api, unified("kept"))["fingerprint"]
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(daemon.socket))
        connection.sendall(
            b"POST /1.0/images HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\n" + b"\x1f" * 200_000
        )
        until(lambda: len(stored(daemon)) == 2, "the upload is being spooled")
        daemon.kill()
    (daemon.state_dir / "images" / ("0" * 64)).write_bytes(b"moved, but its row was never written")
    daemon.start()
    assert stored(daemon) == [kept]
    daemon.stop()


BUILD = """
import asyncio, json, sys, urllib.request
from pathlib import Path
from corral import architectures
from corral.server.images import apt, build
from corral.server.images.recipe import Recipe

async def main(work: Path) -> None:
    mirror = apt.choose_mirrors(apt.read_sources()).archive
    try:
        urllib.request.urlopen(f"{mirror}/dists/bookworm/InRelease", timeout=10).close()
    except OSError as error:
        print(json.dumps({"unreachable": f"{mirror}: {error}"}))
        return
    phases = []
    recipe = Recipe("debian", "12", "minimal", architectures.host_architecture())
    files = await build.build(recipe, work, work / "packages", lambda phase, percent: phases.append((phase, percent)))
    print(json.dumps({"metadata": str(files.main), "rootfs": str(files.rootfs), "phases": phases}))

asyncio.run(main(Path(sys.argv[1])))
"""


def network_outside() -> str:
    """The network namespace that the tests were started in, that of the nearest ancestor with another than ours."""
    pid, own = os.getppid(), os.readlink("/proc/self/ns/net")
    while pid > 1 and os.readlink(f"/proc/{pid}/ns/net") == own:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return f"/proc/{pid}/ns/net"


@pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="needs mmdebstrap")
def test_a_debian_image_is_built(tmp_path: Path, api: Api, make_instance: Callable[..., str], daemon: Daemon) -> None:
    """Built in the host's network, since the tests' own has no way out, and booted in the tests'."""
    argv = ["nsenter", f"--net={network_outside()}", sys.executable, "-c", BUILD, str(tmp_path)]
    environment = {"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    built = subprocess.run(argv, env=environment, check=False, capture_output=True, timeout=600)
    assert built.returncode == 0, built.stderr.decode()
    result = json.loads(built.stdout)
    if "unreachable" in result:
        pytest.skip(f"the package mirror cannot be reached: {result['unreachable']}")
    percents = [percent for _, percent in result["phases"]]
    assert percents == sorted(percents)
    body, headers = form(
        {"metadata": Path(result["metadata"]).read_bytes(), "rootfs": Path(result["rootfs"]).read_bytes()}
    )
    _, _, content = api.raw("POST", "/1.0/images", body, headers)
    fingerprint = api.wait(json.loads(content)["operation"])["metadata"]["fingerprint"]
    api.call("POST", "/1.0/images/aliases", {"name": "debian", "target": fingerprint})
    name = make_instance(image="debian")
    root = f"/proc/{api.get(f'/1.0/instances/{name}/state')['pid']}/root"

    until(lambda: families(api, name) == {"inet", "inet6"}, "the instance has both addresses", 30)
    assert Path(root, "etc/hostname").read_text() == f"{name}\n"
    assert Path(root, "etc/resolv.conf").readlink() == Path("../run/systemd/resolve/stub-resolv.conf")
    assert f"search {daemon_domain(daemon)}" in Path(root, "run/systemd/resolve/stub-resolv.conf").read_text()
    api.set_state(name, "stop", timeout_s=20)
    api.run("DELETE", f"/1.0/images/{fingerprint}")


def daemon_domain(daemon: Daemon) -> str:
    """The DNS domain of the daemon's bridge."""
    with daemon.api() as api:
        return str(api.get(f"/1.0/networks/{daemon.bridge}")["config"].get("dns.domain", "lxd"))
