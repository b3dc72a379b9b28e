"""Trees of files over a migration's connection, as LXD does it: rsync at both ends, a text message ends each stream."""

import asyncio
import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from corral.errors import CommandFailed
from corral.server.host.programs import fdio, python_helper
from corral.server.instances.sessions.channels import Channel, Disconnected, pump_out
from corral.server.migration import wire
from corral.server.storage.tree import COPY_TIMEOUT_S, VANISHED
from corral.units import is_true

_SENDER = ("-ar", "--devices", "--numeric-ids", "--partial", "--sparse")
_RECEIVER = ("-vlogDtpre.iLsfx", "--numeric-ids", "--devices", "--partial", "--sparse")
_OURS = frozenset({wire.XATTRS, wire.DELETE, wire.COMPRESS, wire.BIDIRECTIONAL, wire.LINKS_AND_ACLS})
_OLDEST = frozenset({wire.XATTRS, wire.DELETE, wire.COMPRESS})
"""What a side has that does not negotiate yet."""


def offered(pool: Mapping[str, str]) -> frozenset[int]:
    """The features of rsync that a pool's volumes can be sent or received with. Pure."""
    return _OURS if is_true(pool.get("rsync.compression") or "true") else _OURS - {wire.COMPRESS}


def common(ours: frozenset[int], theirs: frozenset[int] | None) -> frozenset[int]:
    """The features that both sides have. Pure."""
    if theirs is None or wire.BIDIRECTIONAL not in theirs:
        return ours & _OLDEST
    return ours & theirs


def options(features: frozenset[int]) -> list[str]:
    """The options of both rsyncs for what was agreed. Pure."""
    found = []
    if wire.XATTRS in features:
        found += ["--xattrs", "--filter=-x security.selinux"]
    if wire.DELETE in features:
        found.append("--delete")
    if wire.COMPRESS in features:
        found += ["--compress", "--compress-level=2"]
    if wire.LINKS_AND_ACLS in features:
        found += ["--checksum", "--hard-links", "--acls"]
    return found


async def send(
    channel: Channel, directory: Path, features: frozenset[int], *, bwlimit: str = "", lenient: bool = False
) -> None:
    """Send what is in a directory."""
    limit = ["--bwlimit", bwlimit] if bwlimit else []
    await _run(channel, "send", directory, [*_SENDER, *limit, *options(features)], lenient=lenient)


async def receive(channel: Channel, directory: Path, features: frozenset[int]) -> None:
    """Make a directory's contents what the other side sends."""
    # Files of one size and second may differ: they are compared by their contents, whatever the source does.
    thorough = [] if wire.LINKS_AND_ACLS in features else ["--ignore-times"]
    await _run(channel, "receive", directory, [*_RECEIVER, *thorough, *options(features)], lenient=True)


async def _run(channel: Channel, direction: str, path: Path, words: Sequence[str], *, lenient: bool) -> None:
    request = json.dumps({"direction": direction, "path": str(path), "options": list(words)})
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()
    for fd in (to_write, from_read):
        os.set_blocking(fd, False)
    feeding = asyncio.create_task(_feed(channel, to_write), name="migration in")
    draining = asyncio.create_task(_drain(channel, from_read), name="migration out")
    try:
        try:
            await python_helper.run(
                "tree_transfer", request, stdin=to_read, stdout=from_write, timeout_s=COPY_TIMEOUT_S
            )
        except CommandFailed as error:
            if not (lenient and error.exit_code == VANISHED):
                raise
        finally:
            os.close(to_read)
            os.close(from_write)
        await draining
        await feeding
    except CommandFailed:
        if feeding.done() and isinstance(feeding.exception(), Disconnected):
            raise Disconnected from None
        raise
    finally:
        for task in (feeding, draining):
            task.cancel()
        await asyncio.gather(feeding, draining, return_exceptions=True)


async def _feed(channel: Channel, fd: int) -> None:
    """What comes, to rsync. It goes on to the end of the stream, also when rsync reads no more."""
    is_read = True
    try:
        while not (message := await channel.receive()).is_text:
            if is_read:
                try:
                    await fdio.write(fd, message.data)
                except OSError:
                    is_read = False
    finally:
        os.close(fd)


async def _drain(channel: Channel, fd: int) -> None:
    try:
        await pump_out(fd, channel)
    finally:
        os.close(fd)
    with contextlib.suppress(Disconnected):
        await channel.send_end()
