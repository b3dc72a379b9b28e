"""Indexes of backups, the arguments of tar, and the rows of backups."""

import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from corral.errors import AlreadyExists, InvalidRequest, NotFound, NotSupported
from corral.server.db import schema
from corral.server.db.database import Database, Tx
from corral.server.instances import backup_store, backups
from corral.server.instances.backup_import import parse_index, with_root_in
from corral.server.instances.backup_store import Backup

INDEX = """
name: c1
backend: dir
pool: default
snapshots: [snap0]
optimized: false
type: container
config:
  container:
    architecture: x86_64
    config: {user.a: "1"}
    created_at: 2022-01-01T00:00:00Z
    devices: {}
    ephemeral: false
    profiles: [default]
    name: c1
  snapshots:
  - {name: snap0, created_at: 2022-01-01T00:00:00.5Z, expires_at: 0001-01-01T00:00:00Z, config: {}, devices: {}}
  pool: null
  volume: {name: c1, config: {}}
"""


def test_an_index_of_lxd_is_read() -> None:
    index = parse_index(INDEX)
    assert index.config is not None
    assert index.config.container is not None
    assert index.config.container.config == {"user.a": "1"}
    assert index.config.snapshots is not None
    assert index.config.snapshots[0].created_at == "2022-01-01T00:00:00.5Z"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", InvalidRequest),
        ("[", InvalidRequest),
        ("name: c1", InvalidRequest),
        (INDEX.replace("optimized: false", "optimized: true"), NotSupported),
        (INDEX.replace("type: container", "type: virtual-machine"), NotSupported),
        (INDEX.replace("[snap0]", "[snap0, snap1]"), InvalidRequest),
        (INDEX.replace("snap0", "../x"), InvalidRequest),
        (INDEX.replace('{user.a: "1"}', "5"), InvalidRequest),
        ("a: &a [x]\nb: [*a, *a]\n" + INDEX, InvalidRequest),
    ],
)
def test_bad_indexes(text: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        parse_index(text)


def test_the_root_disk_goes_to_the_pool() -> None:
    root = {"type": "disk", "path": "/", "pool": "old"}
    assert with_root_in("new", {"root": root}, {})["root"]["pool"] == "new"
    assert with_root_in("old", {}, {"root": root}) == {}
    assert with_root_in("new", {}, {"root": {**root, "size": "1GiB"}}) == {
        "root": {"type": "disk", "path": "/", "pool": "new", "size": "1GiB"}
    }
    assert with_root_in("new", {}, {}) == {"root": {"type": "disk", "path": "/", "pool": "new"}}


@pytest.mark.parametrize("compress", [[], ["gzip", "-1"]])
def test_tar_packs_under_the_names_of_a_backup(tmp_path: Path, compress: list[str]) -> None:
    volume, snapshot = tmp_path / "containers" / "c1", tmp_path / "containers-snapshots" / "c1" / "a.b"
    for directory in (volume, snapshot):
        (directory / "rootfs").mkdir(parents=True)
        (directory / "rootfs" / "file").write_text("x")
        (directory / "rootfs" / "hard").hardlink_to(directory / "rootfs" / "file")
        (directory / "rootfs" / "soft").symlink_to(f"{directory}/rootfs/file")
    index = tmp_path / "index.yaml"
    index.write_text("name: c1\n")
    parts = [(index, "backup/index.yaml"), (snapshot, "backup/snapshots/a.b"), (volume, "backup/container")]
    archive = tmp_path / "archive"
    subprocess.run(backups.pack_command(parts, compress, archive), check=True)
    listed = subprocess.run(["tar", "-tvf", archive], check=True, capture_output=True, text=True).stdout.splitlines()
    assert listed[0].endswith("backup/index.yaml")
    assert any(line.endswith(f"backup/container/rootfs/soft -> {volume}/rootfs/file") for line in listed)
    linked = [line for line in listed if " link to " in line]
    assert len(linked) == 2
    for line in linked:
        name, _, target = line.rpartition(" link to ")
        assert name.split()[-1].rpartition("/")[0] == target.rpartition("/")[0]
        assert target.startswith("backup/")


@pytest.mark.parametrize("name", ["", "a/b", ".", "..", ".hidden", "a\n", "x" * 201])
def test_names(name: str) -> None:
    with pytest.raises(InvalidRequest):
        backups.check_name(name)


def test_compression() -> None:
    assert backups.compressor("none") == []
    assert backups.compressor("xz -1") == ["xz", "-1"]
    with pytest.raises(InvalidRequest):
        backups.compressor("/bin/sh")
    with pytest.raises(InvalidRequest):
        backups.compressor("no-such-program")


@pytest.fixture
async def database() -> AsyncIterator[Database]:
    opened = Database(":memory:")
    await opened.open(schema.cluster)
    await opened.write(_insert_instance)
    yield opened
    await opened.close()


def _insert_instance(tx: Tx) -> None:
    tx.execute(
        "INSERT INTO instances (id, node_id, name, architecture, type, creation_date, project_id)"
        " VALUES (1, 1, 'c1', 2, 0, '', 1)"
    )


async def test_rows(database: Database) -> None:
    new = Backup(0, 1, "foo", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", True)
    backup_id = await database.write(backup_store.insert_backup, new)
    with pytest.raises(NotFound):
        await database.read(backup_store.get_backup, 1, "foo")
    await database.write(backup_store.finish_backup, backup_id)
    found = await database.read(backup_store.get_backup, 1, "foo")
    assert (found.id, found.instance_only, found.expires_at) == (backup_id, True, "2026-01-02T00:00:00Z")
    with pytest.raises(AlreadyExists):
        await database.write(backup_store.insert_backup, new)
    assert await database.read(backup_store.list_expired, "2026-01-01T12:00:00Z") == []
    assert await database.read(backup_store.list_expired, "2026-01-02T12:00:00Z") == [found]
    await database.write(backup_store.rename_backup, found, "bar")
    assert await database.read(backup_store.names_by_instance) == {1: {"bar"}}
    await database.write(lambda tx: tx.execute("DELETE FROM instances"))
    assert await database.read(backup_store.names_by_instance) == {}
