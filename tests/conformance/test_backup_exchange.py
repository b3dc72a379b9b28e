"""Backups go to the real LXD and come from it, optimized and not, with snapshots."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("flags", [["--compression", "squashfs"], ["--optimized-storage"]])
@pytest.mark.parametrize("outwards", [True, False])
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


@pytest.mark.parametrize("flags", [[], ["--optimized-storage"]])
@pytest.mark.parametrize("outwards", [True, False])
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


def pool_of(lxc: Client) -> str:
    """The pool of the default profile."""
    return lxc("profile", "device", "get", "default", "root", "pool").strip()
