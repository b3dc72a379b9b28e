"""Fixtures of the tests that need a whole machine of their own: they run in the guest of scripts/test-guest only."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.daemon import Daemon
from harness.machine_host import host
from harness.programs import Programs

IN_THE_GUEST = bool(os.environ.get("CORRAL_TEST_GUEST"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """They change the machine: nowhere else may they run."""
    for item in items:
        if Path(__file__).parent in item.path.parents and not IN_THE_GUEST:
            item.add_marker(pytest.mark.skip(reason="runs in a machine of its own: scripts/test-guest"))


@pytest.fixture(scope="session")
def daemon(peer: Programs, busybox_image: Path) -> Iterator[Daemon]:
    """One daemon for all of them, with a pool of directories on ext4 with project quotas."""
    host("systemctl", "start", "apparmor.service")
    daemon = Daemon(peer)
    try:
        daemon.start()
        daemon.set_up("dir")
        with daemon.api() as api:
            api.upload_image(busybox_image, "busybox")
        yield daemon
        daemon.stop()
    finally:
        daemon.remove()
