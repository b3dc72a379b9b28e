"""What drivers with a plain directory tree share: making a pool's directory empty, removing trees, measuring space."""

import contextlib
import errno
import os
from collections.abc import Sequence
from pathlib import Path

from corral.errors import CommandFailed
from corral.server.host.programs import command
from corral.server.host.threads import in_thread
from corral.server.storage.driver import Space

COPY_TIMEOUT_S = 6 * 3600.0
"""A deadline for work that grows with the data."""

SYNC_OPTIONS = ("-aHAX", "--numeric-ids", "--sparse", "--delete")
"""Options of rsync for whole trees: all attributes, hard links, numbers for owners, holes stay holes."""

VANISHED, PARTIAL_TRANSFER, DELETE_LIMIT = 24, 23, 25
"""Exit codes of rsync."""

_BATCH = 1000
"""Names for one program's arguments."""


async def remove_tree(path: Path) -> None:
    """Remove a tree, immutable files in it too. Stays on its file system. Repeatable."""
    if os.path.lexists(path):
        await _remove([path])


async def sync_tree(source: Path, target: Path, *, lenient: bool = False) -> None:
    """Make a tree like another one, writing only the files that differ in contents or attributes.

    `lenient` is for a source that changes meanwhile: files that vanish are left out.
    """
    argv = ["rsync", *SYNC_OPTIONS, "--checksum", "--", f"{source}/", f"{target}/"]
    ok = (0, VANISHED) if lenient else (0,)
    try:
        await command.run(argv, timeout_s=COPY_TIMEOUT_S, ok=ok)
    except CommandFailed as error:
        if error.exit_code not in (PARTIAL_TRANSFER, DELETE_LIMIT):
            raise
        # Immutable files of the former contents cannot be replaced.
        await command.run(["chattr", "-R", "-f", "-ai", str(target)], timeout_s=COPY_TIMEOUT_S, ok=(0, 1))
        await command.run(argv, timeout_s=COPY_TIMEOUT_S, ok=ok)


async def empty_directory(path: Path) -> None:
    """Remove all that is in a directory. Repeatable."""
    with contextlib.suppress(FileNotFoundError):
        names = await in_thread(os.listdir, path)
        for start in range(0, len(names), _BATCH):
            await _remove([path / name for name in names[start : start + _BATCH]])


async def _remove(paths: Sequence[Path]) -> None:
    argv = ["rm", "-rf", "--one-file-system", "--", *map(str, paths)]
    try:
        await command.run(argv, timeout_s=COPY_TIMEOUT_S)
    except CommandFailed:
        await command.run(["chattr", "-R", "-f", "-ai", *map(str, paths)], timeout_s=COPY_TIMEOUT_S, ok=(0, 1))
        await command.run(argv, timeout_s=COPY_TIMEOUT_S)


def make_directory(path: Path, mode: int) -> None:
    """Make a directory with exactly this mode, in an existing one."""
    os.mkdir(path, 0o700)
    os.chmod(path, mode)


async def rename(source: Path, target: Path) -> None:
    """Move a tree to a free name. Raises FileExistsError."""
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    await in_thread(os.rename, source, target)


async def measure(path: Path) -> Space:
    """Size and use of the file system that holds a path."""
    found = await in_thread(os.statvfs, path)
    return Space(
        total=found.f_blocks * found.f_frsize,
        used=(found.f_blocks - found.f_bfree) * found.f_frsize,
        available=found.f_bavail * found.f_frsize,
        inodes_total=found.f_files,
        inodes_used=found.f_files - found.f_ffree,
    )
