"""The storage drivers by name, and which of them this machine can use."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from corral.errors import CommandFailed, InvalidRequest
from corral.server.context import Member
from corral.server.host.programs import command
from corral.server.storage import model
from corral.server.storage.driver import PoolSite, StorageDriver
from corral.server.storage.drivers.btrfs import BtrfsDriver
from corral.server.storage.drivers.dir import DirDriver
from corral.server.storage.model import Pool

DRIVERS: dict[str, type[StorageDriver]] = {
    "btrfs": BtrfsDriver,
    "dir": DirDriver,
}


@dataclass(frozen=True, slots=True)
class DriverVersion:
    """A driver that this machine can use, for the server's environment."""

    name: str
    version: str
    remote: bool = False


def driver_class(name: str) -> type[StorageDriver]:
    """The driver of this name. Raises InvalidRequest."""
    found = DRIVERS.get(name)
    if found is None:
        raise InvalidRequest(f'Unknown driver "{name}" (known: {", ".join(sorted(DRIVERS))})')
    return found


def open_driver(member: Member, pool: Pool) -> StorageDriver:
    """The driver of a pool."""
    site = PoolSite(
        name=pool.name,
        config=pool.config,
        path=model.pool_path(member, pool.name),
        loop_file=model.loop_file(member, pool.name),
        state_dir=member.state_dir,
    )
    return driver_class(pool.driver)(site)


async def list_supported() -> list[DriverVersion]:
    """The drivers that the kernel and the installed tools allow."""
    found = [DriverVersion("dir", "1")]
    if shutil.which("btrfs") and "\tbtrfs\n" in Path("/proc/filesystems").read_text():
        try:
            text = (await command.run(["btrfs", "--version"], timeout_s=10)).stdout
        except CommandFailed:
            return found
        match = re.search(r"v([0-9.]+)", text)
        found.insert(0, DriverVersion("btrfs", match[1] if match else ""))
    return found
