"""Where the drivers' suites may work: root, a kernel with the drivers, and an empty directory for each test."""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from corral.product import LXD
from corral.server.context import Context, Member
from corral.server.db import schema
from corral.server.db.database import Database, LocalDatabase
from corral.server.events.bus import Events
from corral.server.host import features
from corral.server.host.filesystems import loopdev, mount
from corral.server.locks import Locks


@pytest.fixture(autouse=True)
def _root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")


@pytest.fixture
def state_dir(tmp_path: Path) -> Iterator[Path]:
    """A state directory that must be free of mounts and loop devices after the test."""
    for name in ("storage-pools", "disks"):
        (tmp_path / name).mkdir(mode=0o711)
    yield tmp_path
    mounts = [entry.target for entry in mount.list_mounts() if entry.target.startswith(str(tmp_path))]
    mount.ensure_tree_unmounted(tmp_path)
    loops = [device for file in (tmp_path / "disks").iterdir() for device in loopdev.find_devices(file)]
    assert not mounts, "the test left mounts"
    assert not loops, "the test left loop devices"


@pytest.fixture
async def context(state_dir: Path) -> AsyncIterator[Context]:
    """A context with an empty database in memory."""
    member = Member(LXD, "here", state_dir, state_dir / "logs", state_dir / "cache")
    context = Context(Database(":memory:"), Events(), Locks(), member)
    local = context.parts.add(LocalDatabase(":memory:"))
    await context.db.open(schema.cluster)
    await local.open(schema.local)
    yield context
    await local.close()
    await context.db.close()


@pytest.fixture(params=["dir", "btrfs"])
def driver_name(request: pytest.FixtureRequest) -> str:
    """Each storage driver that this machine can use."""
    name: str = request.param
    if name == "btrfs" and not features.supports_btrfs():
        pytest.skip("this machine has no btrfs")
    return name
