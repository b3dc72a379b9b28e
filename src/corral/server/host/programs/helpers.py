"""Helper programs that outlive the daemon: each is started with a description of its work and leaves a pid file."""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import corral
from corral.server.host.programs import command, pidfd, processes
from corral.server.host.threads import in_thread

_START = "import sys; sys.path.insert(0, sys.argv[1]); from corral.helper import {name}; {name}.main()"
_START_TIMEOUT_S = 20.0
_END_TIMEOUT_S = 5.0
_KILL_TIMEOUT_S = 30.0


async def start(name: str, setup: Mapping[str, Any], fds: Sequence[int], pid_file: Path) -> None:
    """Start a helper and wait until it works; it gets the descriptors under their numbers. Raises CommandFailed.

    The pid file holds the pid and the start time, so that no other process is ever taken for it. The helper does
    nothing until that is written, and ends where this daemon dies before (`helper/alone.py`).
    """
    python = getattr(sys, "_base_executable", None) or sys.executable
    source = str(Path(corral.__path__[0]).parent)
    theirs, ours = os.pipe2(os.O_CLOEXEC)
    try:
        argv = [python, "-I", "-S", "-c", _START.format(name=name), source, json.dumps({**setup, "leash": theirs})]
        ended = await command.run(
            argv, pass_fds=[*fds, theirs], env={"PATH": os.defpath}, cwd="/", timeout_s=_START_TIMEOUT_S
        )
        await remember(pid_file, int(ended.stdout))
        os.write(ours, b".")
    finally:
        os.close(theirs)
        os.close(ours)


async def remember(pid_file: Path, pid: int) -> None:
    """Write the pid file of a program that was started otherwise."""
    await in_thread(_write, pid_file, pid)


def _write(pid_file: Path, pid: int) -> None:
    pid_file.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    with contextlib.suppress(OSError):
        pid_file.write_text(f"{pid} {processes.get_start_ticks(pid)}\n")


async def stop(pid_file: Path) -> None:
    """End the helper of a pid file; nothing where there is none or it is gone."""
    fd = await in_thread(find, pid_file)
    if fd is not None:
        try:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, signal.SIGTERM)
            try:
                await pidfd.wait_exit(fd, _END_TIMEOUT_S)
            except TimeoutError:
                pidfd.kill_and_forget(fd)
                # What it holds, such as an address that it listens on, is free only when it is gone.
                with contextlib.suppress(TimeoutError):
                    await pidfd.wait_exit(fd, _KILL_TIMEOUT_S)
        finally:
            os.close(fd)
    await in_thread(pid_file.unlink, missing_ok=True)


def find(pid_file: Path) -> int | None:
    """A pidfd of the helper of a pid file, which the caller closes; None where it is gone."""
    try:
        pid, ticks = map(int, pid_file.read_text().split())
        fd = os.pidfd_open(pid)
    except (OSError, ValueError):
        return None
    try:
        is_ours = processes.get_start_ticks(pid) == ticks
    except OSError:
        is_ours = False
    if not is_ours:
        os.close(fd)
        return None
    return fd
