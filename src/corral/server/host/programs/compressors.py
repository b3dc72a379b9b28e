"""Compression algorithms as configs and clients name them, and the programs that they stand for."""

import shlex
import shutil
from collections.abc import Mapping

from corral.errors import InvalidRequest

WRITES_FILES = "tar2sqfs"
"""A program that cannot write to its standard output: it gets the archive's path as its last argument."""

_OPTIONS: Mapping[str, tuple[str, ...]] = {
    # Without a name and a time: the same bytes are compressed to the same bytes.
    "gzip": ("-n",),
    "pigz": ("-n",),
    "zstd": ("-q",),
    "lz4": ("-q",),
}


def compose(algorithm: str) -> list[str]:
    """The command that compresses its standard input to its standard output, or a tar to a file (`WRITES_FILES`).

    An algorithm is a program's name with arguments, as in `zstd -9`, or `squashfs`; nothing comes of `none`. Raises
    InvalidRequest where the program is not installed. Only who may run programs as root may choose arguments.
    """
    try:
        words = shlex.split(algorithm)
    except ValueError as error:
        raise InvalidRequest(f'Invalid compression algorithm "{algorithm}": {error}') from error
    if not words or words == ["none"]:
        return []
    program, arguments = words[0], words[1:]
    if program == "squashfs":
        argv = [WRITES_FILES, *arguments, "-q", "--no-skip", "--force", "--compressor", "xz"]
    else:
        argv = [program, "-c", *arguments, *_OPTIONS.get(program, ())]
    if "/" in program or shutil.which(argv[0]) is None:
        raise InvalidRequest(f'Invalid compression algorithm "{algorithm}"')
    return argv
