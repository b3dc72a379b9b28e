"""Logs that nobody wrote to for two days go, and what is left of instances that are gone, a day after them."""

import contextlib
import os
import shutil
import time
from pathlib import Path

from corral.server.context import Context
from corral.server.host.threads import in_thread
from corral.server.instances import running
from corral.server.instances.inventory import Inventory
from corral.server.instances.sessions import logs

KEPT_S = 48 * 3600.0
"""Life of a log after its last line."""
STRANGERS_KEPT_S = 24 * 3600.0
"""Life of a directory without an instance after its last change."""
INTERVAL_S = 24 * 3600.0

_OPEN = frozenset({"lxc.log", "console.log"})
"""What the monitor of a running container writes to: it would go on with a file that nobody can see."""
_NEVER = frozenset({"lxc.conf"})


async def expire(context: Context) -> None:
    """Delete old logs. What cannot be deleted now is tried again the next day."""
    found = await context.parts[Inventory].list()
    active = {one.storage_name: running.find(context, one) is not None for one in found}
    await in_thread(expire_directory, context.member.log_dir, active, time.time())


def expire_directory(directory: Path, active: dict[str, bool], now: float) -> None:
    """Do so in the directory of all logs. `active` says of each instance's directory whether it runs."""
    for entry in os.scandir(directory):
        if not entry.is_dir(follow_symlinks=False):
            continue
        with contextlib.suppress(OSError):
            if entry.name in active:
                _expire_files(Path(entry.path), _OPEN if active[entry.name] else frozenset(), now)
            elif now - _newest(Path(entry.path)) >= STRANGERS_KEPT_S:
                shutil.rmtree(entry.path, ignore_errors=True)


def _expire_files(directory: Path, in_use: frozenset[str], now: float) -> None:
    for entry in os.scandir(directory):
        if entry.name in in_use | _NEVER or not _is_log(entry.name):
            continue
        with contextlib.suppress(FileNotFoundError):
            if entry.is_dir(follow_symlinks=False):
                if now - _newest(Path(entry.path)) >= KEPT_S:
                    shutil.rmtree(entry.path, ignore_errors=True)
            elif now - entry.stat(follow_symlinks=False).st_mtime >= KEPT_S:
                os.unlink(entry.path)


def _is_log(name: str) -> bool:
    return name.endswith((".log", ".log.old")) or logs.is_log_name(name)


def _newest(directory: Path) -> float:
    """When a directory or something in it was changed last."""
    moments = [directory.stat().st_mtime]
    moments += [entry.stat(follow_symlinks=False).st_mtime for entry in os.scandir(directory)]
    return max(moments)
