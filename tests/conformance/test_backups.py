"""Backups of instances by the unmodified `lxc` client: exported, imported, refused."""

import contextlib
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.api import Api, ApiError
from harness.client import Client
from harness.daemon import Daemon
from harness.waiting import until


@pytest.fixture
def names(api: Api) -> Iterator[tuple[str, str]]:
    """Two names whose instances are removed after the test."""
    from conftest import remove_instance

    yield "c1", "c2"
    for name in ("c1", "c2"):
        remove_instance(api, name)


def test_an_instance_comes_back_with_its_snapshots(lxc: Client, names: tuple[str, str], tmp_path: Path) -> None:
    first, second = names
    archive = tmp_path / "backup.tar.gz"
    lxc("launch", "busybox", first, "-c", "user.colour=blue")
    lxc("exec", first, "--", "sh", "-c", "echo old > /root/file; ln /root/file /root/hard; ln -s /nowhere /root/soft")
    lxc("snapshot", first, "before")
    lxc("exec", first, "--", "sh", "-c", "echo new > /root/file")
    lxc("export", first, archive)
    with tarfile.open(archive) as tar:
        members = tar.getnames()
    assert members[0] == "backup/index.yaml"
    assert "backup/snapshots/before/rootfs/root/file" in members
    lxc("import", archive, second)
    assert lxc("config", "get", second, "user.colour").strip() == "blue"
    assert lxc("config", "get", second, "volatile.uuid") != lxc("config", "get", first, "volatile.uuid")
    lxc("start", second)
    assert lxc("exec", second, "--", "cat", "/root/file").strip() == "new"
    assert lxc("exec", second, "--", "readlink", "/root/soft").strip() == "/nowhere"
    assert lxc("exec", second, "--", "stat", "-c", "%h %u", "/root/hard").split() == ["2", "0"]
    lxc("restore", second, "before")
    assert lxc("exec", second, "--", "cat", "/root/file").strip() == "old"
    assert "already exists" in lxc.fails("import", archive, second)
    assert lxc("query", f"/1.0/instances/{first}/backups").strip() == "[]"


def test_backups_that_stay_on_the_server(api: Api, names: tuple[str, str], lxc: Client) -> None:
    first, second = names
    lxc("init", "busybox", first)
    api.run("POST", f"/1.0/instances/{first}/backups", {"instance_only": True, "compression_algorithm": "none"})
    assert api.get(f"/1.0/instances/{first}/backups") == [f"/1.0/instances/{first}/backups/backup0"]
    status, headers, content = api.raw("GET", f"/1.0/instances/{first}/backups/backup0/export")
    assert status == 200
    assert headers["content-length"] == str(len(content))
    api.run("POST", f"/1.0/instances/{first}/backups/backup0", {"name": "kept"})
    lxc("rename", first, second)
    assert api.get(f"/1.0/instances/{second}/backups/kept")["instance_only"] is True
    api.run("DELETE", f"/1.0/instances/{second}/backups/kept")
    with pytest.raises(ApiError, match="not found"):
        api.get(f"/1.0/instances/{second}/backups/kept")


@pytest.mark.parametrize("content", [b"", b"no archive", b"\x1f\x8b" + bytes(600)])
def test_what_is_no_backup_is_refused(api: Api, content: bytes) -> None:
    before = len(api.get("/1.0/instances"))
    status, _, _ = api.raw("POST", "/1.0/instances", content, {"Content-Type": "application/octet-stream"})
    assert status == 400
    assert len(api.get("/1.0/instances")) == before


@pytest.fixture
def pool(api: Api) -> Iterator[str]:
    """The default profile's pool, from which the test's volumes are removed."""
    found: str = api.get("/1.0/profiles/default")["devices"]["root"]["pool"]
    yield found
    base = f"/1.0/storage-pools/{found}/volumes/custom"
    for name in ("kept", "again"):
        with contextlib.suppress(ApiError):
            api.call("DELETE", f"{base}/{name}")


@pytest.mark.parametrize("flags", [[], ["--optimized-storage"], ["--volume-only", "--compression", "zstd"]])
def test_a_custom_volume_comes_back(lxc: Client, api: Api, pool: str, tmp_path: Path, flags: list[str]) -> None:
    archive = tmp_path / "volume.tar"
    lxc("storage", "volume", "create", pool, "kept", "user.colour=blue")
    lxc("storage", "volume", "snapshot", pool, "kept", "before")
    lxc("storage", "volume", "export", pool, "kept", archive, *flags)
    assert api.get(f"/1.0/storage-pools/{pool}/volumes/custom/kept/backups") == []
    lxc("storage", "volume", "import", pool, archive, "again")
    assert lxc("storage", "volume", "get", pool, "again", "user.colour").strip() == "blue"
    snapshots = api.get(f"/1.0/storage-pools/{pool}/volumes/custom/again/snapshots")
    assert len(snapshots) == (0 if "--volume-only" in flags else 1)
    assert "already exists" in lxc.fails("storage", "volume", "import", pool, archive, "again")
    # An instance's backup is none of a volume, and the reverse.
    assert lxc.fails("import", archive, "never")


def test_backups_of_volumes_expire(daemon: Daemon, api: Api, pool: str) -> None:
    base = f"/1.0/storage-pools/{pool}/volumes/custom"
    api.call("POST", base, {"name": "kept"})
    api.run("POST", f"{base}/kept/backups", {"name": "stays"})
    api.run("POST", f"{base}/kept/backups", {"name": "goes", "expires_at": "2020-01-01T00:00:00Z"})
    daemon.stop()
    daemon.start()
    with daemon.api() as fresh:
        until(lambda: fresh.get(f"{base}/kept/backups") == [f"{base}/kept/backups/stays"], "the other has expired")
        fresh.call("DELETE", f"{base}/kept")
    assert not (daemon.state_dir / "backups" / "custom" / pool).exists() or not list(
        (daemon.state_dir / "backups" / "custom" / pool).iterdir()
    )
