"""Helpers that outlive the daemon, and their ends."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from corral.server.host.programs import helpers, pidfd

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"


def test_one_that_hears_no_signal_is_gone_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helpers, "_END_TIMEOUT_S", 0.05)
    pid_file = tmp_path / "helper.pid"
    with subprocess.Popen([sys.executable, "-c", DEAF], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        asyncio.run(helpers.remember(pid_file, process.pid))
        watch = pidfd.open_pidfd(process.pid)
        asyncio.run(helpers.stop(pid_file))
        assert not pidfd.is_alive(watch)
        os.close(watch)
    assert not pid_file.exists()
    asyncio.run(helpers.stop(pid_file))
