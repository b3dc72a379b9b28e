"""Archives of backups on this server: packed by programs that write into each other, named, kept and removed."""

import asyncio
import contextlib
import json
import os
import re
import shutil
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path

import yaml

from corral.errors import CommandFailed, InvalidRequest, OutOfSpace
from corral.server.background import alongside
from corral.server.host.programs import command, compressors, python_helper
from corral.server.operations.model import report
from corral.server.storage import pools
from corral.units import format_size

DEADLINE_S = 6 * 3600.0
PARTIAL = ".partial_"
PROGRESS_EVERY_S = 0.5

_ALGORITHMS = ("none", "gzip", "pigz", "bzip2", "lzma", "xz", "zstd", "lz4", "squashfs")

_Base: type = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class _Dumper(_Base):  # type: ignore[misc]
    """Writes what occurs twice twice: not every reader follows references."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def render_yaml(document: Mapping[str, object]) -> str:
    """A document as the files of a backup have it."""
    text: str = yaml.dump(document, Dumper=_Dumper, default_flow_style=False, sort_keys=False)
    return text


def check_name(name: str) -> None:
    """Raise InvalidRequest for a name that no backup can have."""
    if "/" in name:
        raise InvalidRequest("Backup names may not contain slashes")
    if not name or name.startswith(".") or len(name.encode()) > 200 or re.search(r"[\x00-\x1f\x7f]", name):
        raise InvalidRequest(f"Invalid backup name {name!r}: give 1 to 200 bytes without a dot at the beginning")


def next_name(names: Iterable[str]) -> str:
    """The first free name of the series backup0, backup1, ..."""
    numbers = [int(match[1]) for name in names if (match := re.fullmatch(r"backup(\d{1,9})", name))]
    return f"backup{max(numbers, default=-1) + 1}"


def check_algorithm(algorithm: str) -> None:
    """Raise InvalidRequest for a compression algorithm that no client can choose.

    An algorithm is one of some names: a client chooses no arguments of a program that runs as root.
    """
    if algorithm not in _ALGORITHMS:
        known = ", ".join(sorted(_ALGORITHMS))
        raise InvalidRequest(f'Invalid compression algorithm "{algorithm}": it is none of {known}')
    compressors.compose(algorithm)


def compressor(algorithm: str) -> list[str]:
    """The command of a compression algorithm, nothing for none. Raises InvalidRequest."""
    if algorithm == "gzip" and shutil.which("pigz"):
        algorithm = "pigz"
    return compressors.compose(algorithm)


def pack_command(parts: Sequence[tuple[Path, str]]) -> list[str]:
    """The arguments of tar that pack directories and files of the host under the names of the archive."""
    argv = ["tar", "--create", "--file=-", "--force-local", "--absolute-names", "--format=pax"]
    argv += ["--pax-option=exthdr.name=PaxHeaders/%f,delete=atime,delete=ctime", "--numeric-owner", "--sparse"]
    argv += ["--xattrs", "--xattrs-include=*", "--acls", "--warning=no-file-ignored", "--warning=no-file-changed"]
    argv.append("--blocking-factor=128")
    for path, name in parts:
        # Names of members and targets of hard links, never those of symbolic links.
        pattern = re.sub(r"([\\.*\[\]^$,])", r"\\\1", str(path))
        replacement = re.sub(r"([\\&,])", r"\\\1", name)
        argv.append(f"--transform=flags=rhS;s,^{pattern}\\(/\\|$\\),{replacement}\\1,")
    return [*argv, "--", *(str(path) for path, _ in parts)]


async def pack(parts: Sequence[tuple[Path, str]], compress: Sequence[str], target: Path) -> None:
    """Pack directories and files into a new archive, under the names that it gives them."""

    async def produce(output: int) -> None:
        # 1: a file changed while it was read, as those of a running instance do.
        await command.run(pack_command(parts), stdout=output, timeout_s=DEADLINE_S, ok=(0, 1))

    await _write(produce, compress, target)


async def pack_streams(
    texts: Mapping[str, str], streams: Sequence[tuple[str, Sequence[str]]], compress: Sequence[str], target: Path
) -> None:
    """Make a new archive of texts and of what programs write, by the members' names."""
    request = json.dumps({"texts": dict(texts), "programs": [[name, list(argv)] for name, argv in streams]})

    async def produce(output: int) -> None:
        await python_helper.run("send", request, stdout=output, timeout_s=DEADLINE_S)

    await _write(produce, compress, target)


Produce = Callable[[int], Awaitable[None]]
"""Runs a program that writes an archive to a descriptor."""


async def _write(produce: Produce, compress: Sequence[str], target: Path) -> None:
    """Have a program write an archive, through a compressor if one is given, to a new file."""
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        async with alongside("progress of a backup", _tell(target)):
            if compress:
                await _compress(produce, compress, target, fd)
            else:
                await produce(fd)
    except CommandFailed as error:
        if pools.is_for_space(error):
            raise OutOfSpace(f"The disk of {target.parent} is full: no backup was made") from error
        raise
    finally:
        os.close(fd)


async def _compress(produce: Produce, compress: Sequence[str], target: Path, fd: int) -> None:
    async def squeeze(source: int) -> None:
        extra = [str(target)] if compress[0] == compressors.WRITES_FILES else []
        output = fd if not extra else None
        await command.run([*compress, *extra], stdin=source, stdout=output, timeout_s=DEADLINE_S)

    await command.join(produce, squeeze)


async def _tell(target: Path) -> None:
    before = 0
    while True:
        await asyncio.sleep(PROGRESS_EVERY_S)
        with contextlib.suppress(FileNotFoundError):
            size = target.stat().st_size
            speed = format_size(int((size - before) / PROGRESS_EVERY_S))
            report(create_backup_progress=f"{format_size(size)} ({speed}/s)")
            before = size


def make_directory(path: Path) -> None:
    """Make the directory of something's backups. Repeatable."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)


def settle(partial: Path, target: Path) -> None:
    """Give a finished archive its name; it is on the disk before it has it."""
    with open(partial, "rb") as file:
        os.fsync(file.fileno())
    partial.chmod(0o600)
    partial.rename(target)


def remove(path: Path) -> None:
    """Remove an archive, and the directory of its owner's backups with the last one. Repeatable."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
    remove_empty(path.parent)


def remove_empty(directory: Path) -> None:
    """Remove a directory where it is empty. Repeatable."""
    with contextlib.suppress(OSError):
        directory.rmdir()
