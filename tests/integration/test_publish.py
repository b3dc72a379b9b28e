"""Instances and snapshots published as images."""

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.api import Api, ApiError
from harness.daemon import Daemon


def publish(api: Api, kind: str, name: str, **more: Any) -> str:
    body = {"source": {"type": kind, "name": name}, **more}
    fingerprint: str = api.run("POST", "/1.0/images", body)["metadata"]["fingerprint"]
    return fingerprint


def members(api: Api, fingerprint: str) -> dict[str, tarfile.TarInfo]:
    _, _, content = api.raw("GET", f"/1.0/images/{fingerprint}/export")
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return {member.name: member for member in archive.getmembers()}


def write(api: Api, name: str, path: str, text: str, **headers: str) -> None:
    sent = {f"X-LXD-{key}": value for key, value in headers.items()}
    status, _, content = api.raw("POST", f"/1.0/instances/{name}/files?path={path}", text.encode(), sent)
    assert status == 200, content


def test_a_published_instance_comes_back(api: Api, make_instance: Callable[..., str]) -> None:
    name = make_instance()
    write(api, name, "/root/mark", "here", uid="1000", gid="1000", mode="0640")
    with pytest.raises(ApiError, match="Cannot export a running instance as an image"):
        publish(api, "instance", name)
    api.set_state(name, "stop", force=True)
    fingerprint = publish(
        api,
        "container",
        name,
        public=True,
        properties={"os": "mine"},
        aliases=[{"name": "published"}],
        expires_at="2040-01-01T00:00:00Z",
        filename="x",
    )
    shown = api.get(f"/1.0/images/{fingerprint}")
    assert (shown["public"], shown["properties"], shown["type"]) == (True, {"os": "mine"}, "container")
    assert (shown["expires_at"], shown["filename"]) == ("2040-01-01T00:00:00Z", "x")
    found = members(api, fingerprint)
    mark = found["rootfs/root/mark"]
    assert (mark.uid, mark.gid, mark.mode, mark.size) == (1000, 1000, 0o640, 4)
    assert (found["metadata.yaml"].uid, found["rootfs"].uid, found["templates/hostname.tpl"].uid) == (0, 0, 0)
    again = make_instance(image="published")
    assert api.execute(again, "grep", "here", "/root/mark") == 0
    api.run("DELETE", f"/1.0/images/{fingerprint}")


@pytest.mark.parametrize(
    ("algorithm", "extension"), [("none", "tar"), ("zstd -3", "tar.zst"), ("xz", "tar.xz"), ("gzip", "tar.gz")]
)
def test_compression(api: Api, make_instance: Callable[..., str], algorithm: str, extension: str) -> None:
    name = make_instance(start=False)
    fingerprint = publish(api, "instance", name, compression_algorithm=algorithm)
    _, headers, _ = api.raw("GET", f"/1.0/images/{fingerprint}/export")
    assert headers["content-disposition"].endswith(f"{fingerprint}.{extension}")
    # The same bytes are the same image.
    with pytest.raises(ApiError, match=f"The image already exists: {fingerprint}"):
        publish(api, "instance", name, compression_algorithm=algorithm)
    api.run("DELETE", f"/1.0/images/{fingerprint}")


def test_a_snapshot_of_a_running_instance(api: Api, make_instance: Callable[..., str]) -> None:
    name = make_instance()
    write(api, name, "/root/then", "then")
    api.run("POST", f"/1.0/instances/{name}/snapshots", {"name": "s"})
    write(api, name, "/root/later", "later")
    with pytest.raises(ApiError, match="This is a snapshot"):
        publish(api, "instance", f"{name}/s")
    with pytest.raises(ApiError, match="not found"):
        publish(api, "snapshot", f"{name}/none")
    fingerprint = publish(api, "snapshot", f"{name}/s")
    found = members(api, fingerprint)
    assert "rootfs/root/then" in found
    assert "rootfs/root/later" not in found
    api.run("DELETE", f"/1.0/images/{fingerprint}")


def test_a_wrong_compression_leaves_nothing(daemon: Daemon, api: Api, make_instance: Callable[..., str]) -> None:
    name = make_instance(start=False)
    before = sorted(os.listdir(daemon.state_dir / "images"))
    with pytest.raises(ApiError, match='Invalid compression algorithm "nonsense"'):
        publish(api, "instance", name, compression_algorithm="nonsense")
    with pytest.raises(ApiError, match="Failed to pack the instance"):
        publish(api, "instance", name, compression_algorithm="gzip --no-such-option")
    assert sorted(os.listdir(daemon.state_dir / "images")) == before


def test_shifted_owners_are_translated(tmp_path: Path) -> None:
    """What the disk holds with the host's ids gets those that the users have inside."""
    for name in ("parts", "rootfs"):
        (tmp_path / name).mkdir(mode=0o755)
    (tmp_path / "parts/metadata.yaml").write_text("x")
    (tmp_path / "rootfs/secret").write_text("s")
    (tmp_path / "rootfs/secret").chmod(0o600)
    (tmp_path / "rootfs/user").mkdir(mode=0o700)
    (tmp_path / "rootfs/user/file").write_text("f")
    (tmp_path / "rootfs/link").symlink_to("/etc/passwd")
    for path in (tmp_path, *tmp_path.rglob("*")):
        os.chown(path, 1_000_000, 1_000_000, follow_symlinks=False)
    for path in (tmp_path / "rootfs/user", tmp_path / "rootfs/user/file"):
        os.chown(path, 1_001_000, 1_001_000)
    request = {
        "parts": str(tmp_path / "parts"),
        "rootfs": str(tmp_path / "rootfs"),
        "compress": [],
        "output": "",
        "uid_map": "0 1000000 65536\n",
        "gid_map": "0 1000000 65536\n",
    }
    argv = [sys.executable, "-s", "-S", "-P", "-m", "corral.helper.pack", json.dumps(request)]
    source = Path(__file__).parents[2] / "src"
    with open(tmp_path / "archive", "wb") as output:
        subprocess.run(argv, stdout=output, env={"PYTHONPATH": str(source)}, check=True, timeout=60)
    with tarfile.open(tmp_path / "archive") as archive:
        owners = {member.name: (member.uid, member.gid) for member in archive.getmembers()}
    assert owners == {
        "metadata.yaml": (0, 0),
        "rootfs": (0, 0),
        "rootfs/link": (0, 0),
        "rootfs/secret": (0, 0),
        "rootfs/user": (1000, 1000),
        "rootfs/user/file": (1000, 1000),
    }
