"""Backups that clients send: received into a file and judged as a whole before anything is made of them."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from corral.server.backups.index import Index, parse_index
from corral.server.context import Context
from corral.server.host.threads import in_thread
from corral.server.images import unpack
from corral.server.images.spool import Spool


@dataclass(frozen=True, slots=True)
class Wanted:
    """Where a backup is to go; without a name or a pool, where it came from."""

    project: str
    name: str = ""
    pool: str = ""


@dataclass(frozen=True, slots=True)
class Upload:
    """A backup that was received and judged. Whoever has it discards the spool."""

    spool: Spool
    index: Index
    wanted: Wanted
    header: str | None = None
    streams: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name of the instance or volume to be."""
        return self.wanted.name or self.index.name

    @property
    def archive(self) -> Path:
        """The file that was received."""
        return self.spool.files.main


async def receive(context: Context, chunks: AsyncIterator[bytes], wanted: Wanted, kind: str) -> Upload:
    """Take a backup as it comes and read all of it; raises InvalidRequest for one that is refused."""
    spool = await Spool.make(context.member.state_dir / "backups")
    try:
        spool.begin("backup")
        async for chunk in chunks:
            await spool.write(chunk)
        await spool.end()
        found = await unpack.inspect_backup(spool.files.main)
        index = await in_thread(parse_index, found.index, kind)
        if index.optimized is None:
            # Of a time when only the streams told that they are some.
            index.optimized = "backup/container.bin" in found.streams
        return Upload(spool, index, wanted, found.header, tuple(found.streams))
    except BaseException:
        await spool.discard()
        raise
