"""Backups under faults: what dies in the middle leaves nothing, what does not fit is refused whole."""

import io
import os
import struct
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import remove_instance
from corral.server.host.filesystems import btrfs
from harness.api import Api, ApiError
from harness.daemon import Daemon

INSTANCE = "/1.0/instances/origin"
UPLOAD = {"Content-Type": "application/octet-stream"}


@pytest.fixture(scope="module")
def origin(daemon: Daemon) -> Iterator[str]:
    """An instance with some bytes that do not compress, changed since its snapshot."""
    with daemon.api() as api:
        api.create("origin", "busybox")
        root = daemon.state_dir / "containers" / "origin" / "rootfs"
        (root / "bulk").write_bytes(os.urandom(12 << 20))
        api.run("POST", f"{INSTANCE}/snapshots", {"name": "before"})
        (root / "more").write_bytes(os.urandom(4 << 20))
    yield "origin"
    with daemon.api() as api:
        remove_instance(api, "origin")


@pytest.fixture
def target(api: Api) -> Iterator[str]:
    """A name whose instance is removed after the test."""
    yield "target"
    remove_instance(api, "target")


def backup(api: Api, **more: object) -> bytes:
    """A backup of the origin as bytes; none stays on the server."""
    api.run("POST", f"{INSTANCE}/backups", {"name": "b", "compression_algorithm": "none", **more})
    content = api.raw("GET", f"{INSTANCE}/backups/b/export")[2]
    api.run("DELETE", f"{INSTANCE}/backups/b")
    return content


def leftovers(daemon: Daemon) -> list[str]:
    """What half-made backups and imports consist of."""
    found = [*(daemon.state_dir / "backups").rglob("*")]
    pools = [*(daemon.state_dir / "storage-pools").glob("*/*/.partial-*")]
    return [str(path) for path in (*found, *pools) if path.name.startswith((".partial", "spool_"))]


@pytest.mark.parametrize("optimized", [False, True])
def test_killed_while_a_backup_is_made(daemon: Daemon, api: Api, origin: str, optimized: bool) -> None:
    body = {"name": "b", "compression_algorithm": "none", "optimized_storage": optimized}
    for delay_ms in (10, 60, 150):
        api.start("POST", f"{INSTANCE}/backups", body)
        time.sleep(delay_ms / 1000)
        daemon.kill()
        daemon.start()
        with daemon.api() as fresh:
            assert leftovers(daemon) == []
            kept = fresh.get(f"{INSTANCE}/backups")
            archives = [path.name for path in (daemon.state_dir / "backups").rglob("*") if path.is_file()]
            assert archives == (["b"] if kept else [])
            if kept:
                content = fresh.raw("GET", f"{INSTANCE}/backups/b/export")[2]
                with tarfile.open(fileobj=io.BytesIO(content)) as tar:
                    assert tar.getnames()[0] == "backup/index.yaml"
                fresh.run("DELETE", f"{INSTANCE}/backups/b")
        api = daemon.api()
    api.close()


@pytest.mark.parametrize("optimized", [False, True])
def test_killed_during_an_import(daemon: Daemon, api: Api, origin: str, optimized: bool) -> None:
    content = backup(api, optimized_storage=optimized)
    for delay_ms in (0, 60, 200):
        with daemon.api() as fresh:
            status, _, _ = fresh.raw("POST", "/1.0/instances", content, {**UPLOAD, "X-LXD-name": "target"})
            assert status == 202
        time.sleep(delay_ms / 1000)
        daemon.kill()
        daemon.start()
        with daemon.api() as fresh:
            assert leftovers(daemon) == []
            if "/1.0/instances/target" in fresh.get("/1.0/instances"):
                # Whole: it runs and goes back.
                fresh.set_state("target", "start")
                fresh.run("PUT", "/1.0/instances/target", {"restore": "before"})
            remove_instance(fresh, "target")
            places = (daemon.state_dir / "storage-pools").glob("*/containers*/target")
            assert list(places) == []


def test_two_imports_of_one_name(daemon: Daemon, api: Api, origin: str, target: str) -> None:
    content = backup(api)
    outcomes: list[str] = []

    def send() -> None:
        with daemon.api() as own:
            try:
                status, _, body = own.raw("POST", "/1.0/instances", content, {**UPLOAD, "X-LXD-name": target})
                assert status == 202, body
                own.wait(own.get("/1.0/operations?recursion=1") and _operation(body))
                outcomes.append("made")
            except ApiError as error:
                outcomes.append(error.message)

    threads = [threading.Thread(target=send) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes)[1] == "made"
    assert "already exists" in sorted(outcomes)[0]
    api.set_state(target, "start")
    assert api.execute(target, "ls", "/more") == 0
    assert leftovers(daemon) == []


def _operation(body: bytes) -> str:
    import json

    found: str = json.loads(body)["operation"]
    return found


@pytest.mark.parametrize("optimized", [False, True])
def test_a_pool_that_is_too_small(daemon: Daemon, api: Api, origin: str, optimized: bool) -> None:
    root = daemon.state_dir / "containers" / "origin" / "rootfs" / "huge"
    root.write_bytes(os.urandom(200 << 20))
    content = backup(api, optimized_storage=optimized, instance_only=True)
    root.unlink()
    api.call("POST", "/1.0/storage-pools", {"name": "small", "driver": "btrfs", "config": {"size": "256MiB"}})
    try:
        status, _, body = api.raw(
            "POST", "/1.0/instances", content, {**UPLOAD, "X-LXD-name": "target", "X-LXD-pool": "small"}
        )
        assert status == 202
        with pytest.raises(ApiError, match=r"(?i)full|no space"):
            api.wait(_operation(body))
        assert api.get("/1.0/instances") == ["/1.0/instances/origin"]
        assert leftovers(daemon) == []
    finally:
        api.call("DELETE", "/1.0/storage-pools/small")


def test_a_disk_that_is_too_small_for_a_backup(daemon: Daemon, api: Api, origin: str) -> None:
    pool = api.get("/1.0/profiles/default")["devices"]["root"]["pool"]
    volumes = f"/1.0/storage-pools/{pool}/volumes/custom"
    api.call("POST", volumes, {"name": "backups", "config": {"size": "8MiB"}})
    config = api.get("/1.0")["config"]
    api.call("PUT", "/1.0", {"config": {**config, "storage.backups_volume": f"{pool}/backups"}})
    try:
        for optimized in (False, True):
            with pytest.raises(ApiError, match=r"(?i)full|no space|quota"):
                api.run("POST", f"{INSTANCE}/backups", {"optimized_storage": optimized})
            assert api.get(f"{INSTANCE}/backups") == []
            assert leftovers(daemon) == []
    finally:
        api.call("PUT", "/1.0", {"config": config})
        api.call("DELETE", f"{volumes}/backups")


def changed(content: bytes, name: str, new: bytes) -> bytes:
    """An archive in which one member has another content."""
    output = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(content)) as old, tarfile.open(fileobj=output, mode="w") as tar:
        for member in old:
            data = old.extractfile(member) if member.isreg() else None
            text = data.read() if data is not None else b""
            if member.name == name:
                text = new or text
                member.size = len(text)
                member.pax_headers = {}
            tar.addfile(member, io.BytesIO(text) if data is not None else None)
    return output.getvalue()


@pytest.mark.parametrize("damage", ["garbage", "empty", "truncated", "another"])
def test_damaged_streams(daemon: Daemon, api: Api, origin: str, damage: str) -> None:
    content = backup(api, optimized_storage=True)
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        stream = tar.extractfile("backup/container.bin")
        assert stream is not None
        whole = stream.read()
        snapshot = tar.extractfile("backup/snapshots/before.bin")
        assert snapshot is not None
        other = snapshot.read()
    new = {"garbage": b"x" * 5000, "empty": b"", "truncated": whole[: len(whole) // 2], "another": other}[damage]
    bad = changed(content, "backup/container.bin", new or b"\0")
    status, _, body = api.raw("POST", "/1.0/instances", bad, {**UPLOAD, "X-LXD-name": "target"})
    if damage == "another":
        # A stream of something else that is whole: what it holds is what comes back.
        api.wait(_operation(body))
        remove_instance(api, "target")
        return
    assert status == 202
    with pytest.raises(ApiError, match=r"refused|Invalid"):
        api.wait(_operation(body))
    assert api.get("/1.0/instances") == ["/1.0/instances/origin"]
    assert leftovers(daemon) == []


def send_stream(*commands: tuple[int, dict[int, bytes]]) -> bytes:
    """A stream as `btrfs send` writes it (Documentation/dev/dev-send-stream), of commands and their attributes."""
    data = b"btrfs-stream\0" + struct.pack("<I", 1)
    for command, attributes in commands:
        body = b"".join(struct.pack("<HH", kind, len(value)) + value for kind, value in attributes.items())
        checksum = crc32c(struct.pack("<IHI", len(body), command, 0) + body)
        data += struct.pack("<IHI", len(body), command, checksum) + body
    return data


def crc32c(data: bytes) -> int:
    """The checksum of a command: without the usual inversions."""
    value = 0
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value


SUBVOL, MKFILE, SYMLINK, WRITE, END = 1, 3, 8, 15, 21
UUID, TRANSACTION, INODE, PATH, PATH_LINK, OFFSET, DATA = 1, 2, 3, 15, 17, 18, 19


@pytest.mark.parametrize("way", ["absolute", "relative", "dotted"])
def test_a_stream_writes_nowhere_else(daemon: Daemon, api: Api, origin: str, tmp_path: Path, way: str) -> None:
    victim = daemon.state_dir / "victim"
    victim.write_text("untouched")
    other = (daemon.state_dir / "containers" / "origin").resolve() / "rootfs"
    content = backup(api, optimized_storage=True, instance_only=True)
    number = struct.pack("<Q", 257)
    link = {"absolute": str(victim.parent), "relative": "../" * 12 + str(victim.parent)[1:], "dotted": "."}[way]
    path = {"dotted": "../../../../victim"}.get(way, "out/victim").encode()
    stream = send_stream(
        (SUBVOL, {PATH: b"evil", UUID: os.urandom(16), TRANSACTION: number}),
        (SYMLINK, {PATH: b"out", INODE: number, PATH_LINK: link.encode()}),
        (WRITE, {PATH: path, OFFSET: struct.pack("<Q", 0), DATA: b"overwritten"}),
        (MKFILE, {PATH: b"out/origin/rootfs/planted", INODE: number}),
        (END, {}),
    )
    bad = changed(content, "backup/container.bin", stream)
    status, _, body = api.raw("POST", "/1.0/instances", bad, {**UPLOAD, "X-LXD-name": "target"})
    assert status == 202
    with pytest.raises(ApiError, match=r"a stream cannot be received|Invalid"):
        api.wait(_operation(body))
    assert victim.read_text() == "untouched"
    assert not (other / "planted").exists()
    assert api.get("/1.0/instances") == ["/1.0/instances/origin"]
    assert leftovers(daemon) == []
    victim.unlink()


def test_a_stream_without_a_root_file_system(daemon: Daemon, api: Api, origin: str) -> None:
    """It is whole, and what is received is refused all the same: a link to the host's root is no container's."""
    content = backup(api, optimized_storage=True, instance_only=True)
    number = struct.pack("<Q", 257)
    stream = send_stream(
        (SUBVOL, {PATH: b"evil", UUID: os.urandom(16), TRANSACTION: number}),
        (SYMLINK, {PATH: b"rootfs", INODE: number, PATH_LINK: b"/"}),
        (END, {}),
    )
    bad = changed(content, "backup/container.bin", stream)
    status, _, body = api.raw("POST", "/1.0/instances", bad, {**UPLOAD, "X-LXD-name": "target"})
    assert status == 202
    with pytest.raises(ApiError, match="rootfs is not what it should be"):
        api.wait(_operation(body))
    assert api.get("/1.0/instances") == ["/1.0/instances/origin"]
    assert leftovers(daemon) == []


def test_a_restricted_project_takes_no_privileged_snapshot(daemon: Daemon, api: Api, origin: str) -> None:
    content = backup(api)
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        document = tar.extractfile("backup/index.yaml")
        assert document is not None
        text = document.read().decode()
    head, _, tail = text.partition("  snapshots:\n")
    hostile = (
        head + "  snapshots:\n" + tail.replace("    config:\n", '    config:\n      security.privileged: "true"\n', 1)
    )
    assert hostile != text
    pool = api.get("/1.0/profiles/default")["devices"]["root"]["pool"]
    api.call(
        "POST",
        "/1.0/projects",
        {"name": "jail", "config": {"restricted": "true", "restricted.snapshots": "allow", "features.images": "false"}},
    )
    try:
        root = {"root": {"type": "disk", "path": "/", "pool": pool}}
        api.call("PUT", "/1.0/profiles/default?project=jail", {"devices": root})
        for number, archive in enumerate((changed(content, "backup/index.yaml", hostile.encode()), content)):
            status, _, body = api.raw("POST", "/1.0/instances?project=jail", archive, UPLOAD)
            assert status == 202
            if number == 0:
                with pytest.raises(ApiError, match="Privileged containers are forbidden"):
                    api.wait(_operation(body))
                assert api.get("/1.0/instances?project=jail") == []
            else:
                api.wait(_operation(body))
                api.run("DELETE", "/1.0/instances/origin?project=jail")
    finally:
        api.call("DELETE", "/1.0/projects/jail")
    assert leftovers(daemon) == []


def test_subvolumes_in_an_instance_come_back(daemon: Daemon, api: Api, target: str) -> None:
    api.create("nested", "busybox")
    try:
        containers = (daemon.state_dir / "containers" / "nested").resolve().parent
        root = containers / "nested" / "rootfs"
        for path in (root / "a-b", root / "a-b" / "inner", root / "late"):
            if path.name == "late":
                api.run("POST", "/1.0/instances/nested/snapshots", {"name": "before"})
                (root / "a-b" / "inner" / "file").write_text("new")
            btrfs.create_subvolume(path)
            (path / "file").write_text("old")
        (root / "a-b" / "inner" / "file").write_text("new")
        btrfs.set_read_only(root / "late", True)
        api.run("POST", "/1.0/instances/nested/backups", {"name": "b", "optimized_storage": True})
        content = api.raw("GET", "/1.0/instances/nested/backups/b/export")[2]
        assert not btrfs.is_read_only(root / "a-b")
    finally:
        remove_instance(api, "nested")
    status, _, body = api.raw("POST", "/1.0/instances", content, {**UPLOAD, "X-LXD-name": target})
    assert status == 202
    api.wait(_operation(body))
    volume, kept = containers / target, containers.with_name("containers-snapshots") / target / "before"
    assert btrfs.list_nested(volume) == ["rootfs/a-b", "rootfs/a-b/inner", "rootfs/late"]
    assert btrfs.list_nested(kept) == ["rootfs/a-b", "rootfs/a-b/inner"]
    assert (volume / "rootfs" / "a-b" / "inner" / "file").read_text() == "new"
    assert (kept / "rootfs" / "a-b" / "inner" / "file").read_text() == "old"
    flags = [btrfs.is_read_only(path) for path in (volume, volume / "rootfs" / "late", volume / "rootfs" / "a-b", kept)]
    assert flags == [False, True, False, True]
    api.set_state(target, "start")
    assert leftovers(daemon) == []


def test_algorithms_are_names(api: Api, origin: str) -> None:
    for wrong in ("xz -1", "gzip --suffix=x", "sh", "../gzip", "zstd --ultra"):
        with pytest.raises(ApiError) as caught:
            api.run("POST", f"{INSTANCE}/backups", {"compression_algorithm": wrong})
        assert caught.value.status == 400


def test_the_servers_algorithm_may_have_arguments(api: Api, origin: str) -> None:
    api.call("PATCH", "/1.0", {"config": {"backups.compression_algorithm": "xz -0"}})
    try:
        assert backup(api, compression_algorithm="").startswith(b"\xfd7zXZ\0")
    finally:
        api.call("PATCH", "/1.0", {"config": {"backups.compression_algorithm": ""}})
