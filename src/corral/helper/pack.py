"""Packs an instance's root file system into an image archive, with the ids that its users have inside.

Run as `python -m corral.helper.pack REQUEST` with the archive as standard output; REQUEST is JSON (`Request`). `tar`
runs where nothing but the root file system and the metadata can be read and nothing can be written, in a user
namespace with the instance's map where files on the disk are owned by shifted ids: there the kernel translates
owners, capabilities and ACLs. Failures are told on standard error with exit status 1. Standard library only.
"""

import contextlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass

from corral.helper.confinement import Program, confine, die_with_parent, program, unshare_user
from corral.helper.tar_guard import Refused

_FAILED = 1


@dataclass(frozen=True, slots=True)
class Request:
    """What to pack: `parts` is a directory with metadata.yaml and perhaps templates/, `rootfs` the root file system.

    `compress` is the program that the archive goes through (empty: none). `output` is empty, or the path of the archive
    for a program that cannot write to standard output; its name is then added to the arguments. `uid_map` and
    `gid_map` are lines for the kernel, empty where the disk holds the ids as they are inside.
    """

    parts: str
    rootfs: str
    compress: list[str]
    output: str
    uid_map: str
    gid_map: str


def main() -> int:
    """Do the request: this process compresses, a child of it reads."""
    request = Request(**json.loads(sys.argv[1]))
    tar = [
        *(program("tar"), "--create", "--file=-", "--format=pax", "--numeric-owner", "--sort=name", "--sparse"),
        *("--pax-option=delete=atime,delete=ctime,exthdr.name=PaxHeaders/%f", "--xattrs", "--xattrs-include=*"),
        *("--acls", "--warning=no-file-ignored", "--blocking-factor=128", "--directory=/parts"),
        *sorted(os.listdir(request.parts)),
        *("--directory=/", "rootfs"),
    ]
    compress = [program(request.compress[0]), *request.compress[1:]] if request.compress else []
    reading, writing = os.pipe()
    mapped, ready = _Signal(), _Signal()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os._exit(_guarded(lambda: _read(request, tar, writing, (ready, mapped))))
    os.close(writing)
    status = _guarded(lambda: _write(request, compress, reading, (child, ready, mapped)))
    os.close(reading)
    _, ended = os.waitpid(child, 0)
    return status or os.waitstatus_to_exitcode(ended)


class _Signal:
    """One process waits for another."""

    def __init__(self) -> None:
        self._reading, self._writing = os.pipe()

    def send(self) -> None:
        os.write(self._writing, b"1")

    def wait(self) -> None:
        """Wait for it; Refused where the sender ended without."""
        os.close(self._writing)
        if os.read(self._reading, 1) != b"1":
            raise Refused("the other half of the helper failed")


def _guarded(work: Callable[[], object]) -> int:
    try:
        work()
    except (Refused, OSError) as error:
        print(error, file=sys.stderr, flush=True)
        return _FAILED
    return 0


def _read(request: Request, tar: list[str], output: int, signals: tuple[_Signal, _Signal]) -> None:
    ready, mapped = signals
    confine("", {"parts": request.parts, "rootfs": request.rootfs})
    if request.uid_map:
        unshare_user()
        ready.send()
        mapped.wait()
        os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        die_with_parent()
    with Program(tar, stdout=output) as packer:
        os.close(output)
        packer.finish("the instance cannot be packed")


def _write(request: Request, compress: list[str], source: int, worker: tuple[int, _Signal, _Signal]) -> None:
    child, ready, mapped = worker
    if request.uid_map:
        ready.wait()
        for name, lines in (("uid_map", request.uid_map), ("gid_map", request.gid_map)):
            with open(f"/proc/{child}/{name}", "w") as file:
                file.write(lines)
        mapped.send()
    if not compress:
        _copy(source)
        return
    directory, name = os.path.split(request.output)
    confine(directory)
    extra = [f"/target/{name}"] if request.output else []
    with Program([*compress, *extra], stdin=source, stdout=1) as compressor:
        compressor.finish("the image cannot be compressed")


def _copy(source: int) -> None:
    """Move the bytes inside the kernel."""
    with contextlib.suppress(BrokenPipeError):
        while os.splice(source, 1, 1 << 20):
            pass


if __name__ == "__main__":
    sys.exit(main())
