"""Block devices: the file system that they hold, and the devices below a path."""

import os
import stat
from pathlib import Path

from corral.errors import CommandFailed
from corral.server.host.filesystems.mount import find_mount
from corral.server.host.programs import command
from corral.server.host.sysfs import read_text


async def find_fstype(device: str | Path) -> str:
    """The file system on a block device, or an empty text where there is none that blkid knows."""
    try:
        found = await command.run(["blkid", "-p", "-s", "TYPE", "-o", "value", device], timeout_s=10, ok=(0, 2))
    except CommandFailed:
        return ""
    return found.stdout.strip()


def disks_below(path: str | Path) -> list[str]:
    """`major:minor` of the whole disks that hold a path; none where its file system has no block device."""
    try:
        found = os.stat(path)
    except OSError:
        return []
    number = found.st_rdev if stat.S_ISBLK(found.st_mode) else found.st_dev
    device = f"{os.major(number)}:{os.minor(number)}"
    if os.major(number) == 0 and not stat.S_ISBLK(found.st_mode):
        # btrfs and its like have numbers of their own: the mount table names the device.
        entry = find_mount(path)
        return _disks_of_source(entry.source) if entry is not None and entry.source.startswith("/dev/") else []
    return [_whole_disk(device)]


def _disks_of_source(source: str) -> list[str]:
    try:
        number = os.stat(source).st_rdev
    except OSError:
        return []
    return [_whole_disk(f"{os.major(number)}:{os.minor(number)}")] if number else []


def _whole_disk(device: str) -> str:
    """The disk of a partition: limits count for whole disks only."""
    place = Path(f"/sys/dev/block/{device}")
    if (place / "partition").exists():
        return read_text(Path(os.path.realpath(place)).parent / "dev").strip() or device
    return device
