"""Writes a tar archive whose members are texts and the outputs of programs, to standard output.

Run as `python -m corral.helper.send REQUEST`; REQUEST is JSON (`Request`). A member's size stands before its content,
so each program runs twice: once to count what it writes, once into the archive. Nothing is kept on a disk, and the
bytes move inside the kernel. Failures are told on standard error with exit status 1. Standard library only.
"""

import json
import os
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass

from corral.helper.confinement import die_with_parent

CHUNK = 1 << 20
BLOCK = 512
_ERRORS = 4096


class Failed(Exception):
    """A program failed; the text is for the user."""


@dataclass(frozen=True, slots=True)
class Request:
    """What to write: `texts` first, {name: content}, then the outputs of `programs`, [name, argv]."""

    texts: dict[str, str]
    programs: list[tuple[str, list[str]]]


def main() -> int:
    """Do the request."""
    request = Request(**json.loads(sys.argv[1]))
    try:
        for name, text in request.texts.items():
            content = text.encode()
            _write_all(1, header(name, len(content), 0o644) + content + padding(len(content)))
        for name, argv in request.programs:
            _write_program(name, argv)
        _write_all(1, bytes(2 * BLOCK))
    except (Failed, OSError) as error:
        print(error, file=sys.stderr, flush=True)
        return 1
    return 0


def header(name: str, size: int, mode: int) -> bytes:
    """The header of a regular file, with pax records where they are needed."""
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = size, mode, int(time.time())
    return member.tobuf(tarfile.PAX_FORMAT)


def padding(size: int) -> bytes:
    """What fills the last block of a member."""
    return bytes(-size % BLOCK)


def _write_program(name: str, argv: list[str]) -> None:
    sink = os.open(os.devnull, os.O_WRONLY)
    try:
        size = _run(argv, sink)
    finally:
        os.close(sink)
    _write_all(1, header(name, size, 0o600))
    if _run(argv, 1, size) != size:
        raise Failed(f"{argv[0]} wrote {name} with another size than before")
    _write_all(1, padding(size))


def _run(argv: list[str], target: int, limit: int | None = None) -> int:
    """Run a program and move its output to a descriptor; returns how much it was."""
    errors = os.memfd_create("errors")
    with subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=errors,
        preexec_fn=die_with_parent,
        pipesize=CHUNK,
    ) as process:
        assert process.stdout is not None
        moved = 0
        try:
            while count := os.splice(process.stdout.fileno(), target, CHUNK):
                moved += count
                if limit is not None and moved > limit:
                    break
        finally:
            process.stdout.close()
            if sys.exc_info()[0] is not None:
                process.kill()
    if process.returncode != 0 and (limit is None or moved <= limit):
        text = os.pread(errors, _ERRORS, 0).decode(errors="replace").strip()
        raise Failed(f"{argv[0]} failed: {text or process.returncode}")
    os.close(errors)
    return moved


def _write_all(target: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(target, view) :]


if __name__ == "__main__":
    sys.exit(main())
