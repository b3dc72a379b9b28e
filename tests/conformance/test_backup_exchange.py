"""Backups go to the real LXD and come from it, optimized and not, with snapshots."""

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from conftest import client_of
from harness import programs
from harness.client import Client
from harness.daemon import Daemon

pytestmark = pytest.mark.skipif(
    os.environ.get("CORRAL_TEST_CLIENT") == "ours" or os.environ.get("CORRAL_TEST_PEER") == "real",
    reason="once is enough",
)


@pytest.fixture(scope="module")
def other(busybox_image: Path) -> Iterator[Client]:
    """The client of a real LXD with a btrfs pool."""
    real = programs.real()
    if real is None:
        pytest.skip("needs the Debian package lxd")
    daemon = Daemon(real)
    try:
        daemon.start()
        daemon.set_up("btrfs")
        with daemon.api() as api:
            api.upload_image(busybox_image, "busybox")
        yield client_of(daemon)
        daemon.empty()
    finally:
        daemon.stop()
        daemon.remove()


def make(lxc: Client, name: str) -> None:
    """A container that has changed since its snapshot, with a subvolume of its own where it can have one."""
    lxc("init", "busybox", name, "-c", "user.colour=blue")
    lxc("file", "push", "-", f"{name}/root/file", stdin="old")
    lxc("snapshot", name, "before")
    lxc("file", "push", "-", f"{name}/root/file", stdin="new")
    lxc("file", "push", "-", f"{name}/root/more", stdin="more")


def check(lxc: Client, name: str) -> None:
    """What was made is here."""
    assert lxc("config", "get", name, "user.colour").strip() == "blue"
    assert lxc("file", "pull", f"{name}/root/file", "-").strip() == "new"
    lxc("start", name)
    assert lxc("exec", name, "--", "cat", "/root/more").strip() == "more"
    lxc("stop", "-f", name)
    lxc("restore", name, "before")
    assert lxc("file", "pull", f"{name}/root/file", "-").strip() == "old"


OPTIMIZED = "--optimized-storage"
"""Only inwards: the real LXD 5.0.2 hangs now and then when it imports such a backup, one of its own, too."""


@pytest.mark.parametrize(
    ("outwards", "flags"),
    [(True, ["--compression", "squashfs"]), (False, ["--compression", "squashfs"]), (False, [OPTIMIZED])],
)
def test_instances(lxc: Client, other: Client, tmp_path: Path, outwards: bool, flags: list[str]) -> None:
    source, target = (lxc, other) if outwards else (other, lxc)
    archive = tmp_path / "backup"
    make(source, "sent")
    try:
        source("export", "sent", archive, *flags)
        target("import", archive, "received", *([] if outwards else ["-s", pool_of(lxc)]))
        check(target, "received")
        if not outwards:
            # The same once more: what was received before is not in its way.
            lxc("import", archive, "again", "-s", pool_of(lxc))
            lxc("delete", "again")
    finally:
        for client, name in ((source, "sent"), (target, "received")):
            client.run("delete", "-f", name)


@pytest.mark.parametrize(("outwards", "flags"), [(True, []), (False, []), (False, [OPTIMIZED])])
def test_custom_volumes(lxc: Client, other: Client, tmp_path: Path, outwards: bool, flags: list[str]) -> None:
    source, target = (lxc, other) if outwards else (other, lxc)
    archive = tmp_path / "backup"
    here, there = pool_of(source), pool_of(target)
    source("storage", "volume", "create", here, "sent", "user.colour=blue")
    try:
        source("storage", "volume", "snapshot", here, "sent", "before")
        source("storage", "volume", "export", here, "sent", archive, *flags)
        target("storage", "volume", "import", there, archive, "received")
        assert target("storage", "volume", "get", there, "received", "user.colour").strip() == "blue"
        assert "user.colour: blue" in target("storage", "volume", "show", there, "received/before")
    finally:
        for client, pool, name in ((source, here, "sent"), (target, there, "received")):
            client.run("storage", "volume", "delete", pool, name)


def members(archive: Path) -> dict[str, bytes]:
    """The files of a backup by name; what is no description is only said to be a stream of btrfs."""
    found = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            file = tar.extractfile(member)
            content = file.read() if file is not None else b""
            found[member.name] = content if member.name.endswith(".yaml") else content[:13]
    return found


def test_optimized_backups_are_alike(lxc: Client, other: Client, tmp_path: Path) -> None:
    found = []
    for client, name in ((lxc, "ours"), (other, "theirs")):
        make(client, "alike")
        try:
            client("export", "alike", tmp_path / name, OPTIMIZED)
        finally:
            client("delete", "-f", "alike")
        found.append(members(tmp_path / name))
    ours, theirs = found
    assert set(ours) == set(theirs)
    streams = [name for name in theirs if name.endswith(".bin")]
    assert len(streams) == 2
    assert {ours[name] for name in streams} == {theirs[name] for name in streams} == {b"btrfs-stream\0"}
    for name in set(theirs) - set(streams):
        assert shape(yaml.safe_load(ours[name])) == shape(yaml.safe_load(theirs[name])), name


def shape(value: object, *, deep: int = 2) -> object:
    """The keys of a description, some levels deep."""
    if isinstance(value, dict) and deep:
        return {key: shape(inner, deep=deep - 1) for key, inner in value.items()}
    return type(value).__name__


def pool_of(lxc: Client) -> str:
    """The pool of the default profile."""
    return lxc("profile", "device", "get", "default", "root", "pool").strip()
