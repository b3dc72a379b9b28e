"""Unpacks or only judges an image archive where nothing but the target can be reached.

Run as `python -m corral.helper.unarchive REQUEST` with the archive's descriptor as standard input; REQUEST is JSON
(`Request`). The process takes a mount namespace of its own whose root is an empty tmpfs with the system's programs
(read only) and the target directory, drops the capabilities it does not need, and only then starts the
decompressor and `tar` or `unsquashfs`: whatever the archive says or does to these programs, there is nothing else
to write to. The result is one JSON object on standard output: the contents, or the reason of a refusal (`refused`)
and whether it was for want of space (`for_space`). Standard library only, and nothing may be imported after the root
has changed.
"""

import contextlib
import errno
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from corral.helper.confinement import SYS_ADMIN, Program, confine, program
from corral.helper.tar_guard import (
    BLOCK_DEVICE,
    CHARACTER,
    CHUNK,
    DIRECTORY,
    DOCUMENT_LIMIT,
    FIFO,
    REGULAR,
    SYMBOLIC_LINK,
    Contents,
    Limits,
    Member,
    Policy,
    Refused,
    TarGuard,
    TooLarge,
    relative_path,
)

_SQUASHFS_LINE = re.compile(
    r"([-dlbcpsD])[-rwxsStT]{9} \d+/\d+ +(\d+(?:, *\d+)?) \d{4}-\d\d-\d\d \d\d:\d\d squashfs-root/?(.*)"
)
_SQUASHFS_KINDS = {
    "-": REGULAR,
    "d": DIRECTORY,
    "l": SYMBOLIC_LINK,
    "b": BLOCK_DEVICE,
    "c": CHARACTER,
    "p": FIFO,
    "s": FIFO,
}


@dataclass(frozen=True, slots=True)
class Request:
    """What to do with the archive on standard input.

    `decompress` is the program that turns it into a tar stream (empty: it is one), `squashfs` the file's path for a
    squashfs. `target` is an existing directory, or empty to judge only. With `prefix` only what is below that path of
    the archive is unpacked, without the path. `streams` are members that `btrfs receive` is to read, with the names of
    new directories of `target`, which is then a subvolume, that get what they hold.
    """

    layout: str
    decompress: list[str]
    squashfs: str
    target: str
    size: int
    members: int
    prefix: str = ""
    streams: dict[str, str] = field(default_factory=dict)


def main() -> int:
    """Do the request and report."""
    request = Request(**json.loads(sys.argv[1]))
    try:
        contents = _squashfs(request) if request.squashfs and request.layout != "backup" else _tar(request)
    except Refused as refusal:
        for_space = isinstance(refusal, TooLarge) or os.strerror(errno.ENOSPC) in str(refusal)
        print(json.dumps({"refused": str(refusal), "for_space": for_space}))
        return 0
    document = contents.document
    report = {
        "members": contents.members,
        "size": contents.size,
        "document": document.decode("utf-8", "surrogateescape") if document is not None else None,
        "templates": contents.templates,
        "has_root": contents.has_root,
        "has_disk": contents.has_disk,
        "header": contents.header.decode("utf-8", "surrogateescape") if contents.header is not None else None,
        "streams": contents.streams,
    }
    print(json.dumps(report))
    return 0


def _tar(request: Request) -> Contents:
    decompress = [program(request.decompress[0]), *request.decompress[1:]] if request.decompress else []
    shown = {}
    if request.squashfs:
        decompress, shown = [program("sqfs2tar"), "/archive"], {"archive": request.squashfs}
    receive = [program("btrfs"), "receive", "-q", "-e", "-m", "/target"] if request.streams else []
    extract = [
        *(program("tar"), "--extract", "--file=-", "--directory=/target", "--numeric-owner", "--same-owner"),
        *("--preserve-permissions", "--xattrs", "--xattrs-include=*", "--acls", "--restrict", "--force-local"),
        *("--no-overwrite-dir", "--warning=no-timestamp", "--blocking-factor=128"),
        *([f"--strip-components={request.prefix.count('/') + 1}"] if request.prefix else []),
    ]
    confine(request.target, shown, frozenset({SYS_ADMIN}) if receive else frozenset())
    limits = Limits(request.size, request.members)
    policy = Policy(request.layout, limits, allow_devices=_owns_devices(), prefix=request.prefix)
    with contextlib.ExitStack() as stack:
        decompressor = None
        if decompress:
            decompressor = stack.enter_context(Program(decompress, stdin=0, stdout=subprocess.PIPE))
        descriptor = decompressor.output.fileno() if decompressor is not None else 0
        source = stack.enter_context(open(descriptor, "rb", CHUNK, closefd=False))
        if receive:
            guard = TarGuard(source, policy, receive=lambda name: _receiver(receive, request.streams.get(name)))
            contents = _judge(guard, decompressor)
        elif request.target:
            unpacker = stack.enter_context(Program(extract, stdin=subprocess.PIPE))
            contents = _pass_through(source, policy, unpacker, decompressor)
            unpacker.finish("it cannot be unpacked")
        else:
            contents = _judge(TarGuard(source, policy), decompressor)
        if decompressor is not None:
            decompressor.finish("it is damaged")
        return contents


def _receiver(argv: list[str], directory: str | None) -> contextlib.AbstractContextManager[BinaryIO] | None:
    return None if directory is None else _receiving([*argv, f"/target/{directory}"])


@contextlib.contextmanager
def _receiving(argv: list[str]) -> Iterator[BinaryIO]:
    os.mkdir(argv[-1], 0o700)
    with Program(argv, stdin=subprocess.PIPE) as receiver:
        try:
            with receiver.input:
                yield receiver.input
        except BrokenPipeError:
            # It ends with the last command of the stream, or told what is wrong with it.
            pass
        receiver.finish("a stream cannot be received")


def _pass_through(source: BinaryIO, policy: Policy, unpacker: Program, decompressor: Program | None) -> Contents:
    try:
        with unpacker.input, open(unpacker.input.fileno(), "wb", CHUNK, closefd=False) as sink:
            return _judge(TarGuard(source, policy, sink.write), decompressor)
    except BrokenPipeError:
        raise Refused(f"it cannot be unpacked: {unpacker.errors()}") from None


def _judge(guard: TarGuard, decompressor: Program | None) -> Contents:
    try:
        return guard.run()
    except Refused as refusal:
        # A truncated stream is better explained by the program that read the file.
        if decompressor is not None and decompressor.process.poll() and (text := decompressor.errors()):
            raise Refused(f"it is damaged: {text}") from refusal
        raise


def _squashfs(request: Request) -> Contents:
    unsquashfs = program("unsquashfs")
    confine(request.target, {"archive": request.squashfs})
    policy = Policy(request.layout, Limits(request.size, request.members), allow_devices=True)
    dropped: list[str] = []
    has_document = False
    with contextlib.ExitStack() as stack:
        listing = [unsquashfs, "-lln", "-d", "squashfs-root", "/archive"]
        lister = stack.enter_context(Program(listing, stdout=subprocess.PIPE))
        for line in lister.output:
            member = parse_squashfs_line(os.fsdecode(line.rstrip(b"\n")))
            if member is None:
                continue
            has_document |= member.path == "metadata.yaml"
            if not policy.admit(member):
                dropped.append(member.path)
        lister.finish("it is damaged")
        contents = policy.contents
        if request.layout == "image" and has_document:
            contents.document = _squashfs_document(unsquashfs)
        if request.target:
            # The listing and the unpacking read the same file, which nobody else can change.
            unpack = [unsquashfs, "-f", "-n", "-no-progress", "-d", "/target", "/archive"]
            stack.enter_context(Program(unpack)).finish("it cannot be unpacked")
            for path in dropped:
                _remove(os.path.join("/target", path))
    return contents


def _squashfs_document(unsquashfs: str) -> bytes:
    with Program([unsquashfs, "-cat", "/archive", "metadata.yaml"], stdout=subprocess.PIPE) as reader:
        document = reader.output.read(DOCUMENT_LIMIT + 1)
        if len(document) > DOCUMENT_LIMIT:
            raise Refused(f"metadata.yaml is larger than {DOCUMENT_LIMIT} bytes")
        reader.finish("it is damaged")
    return document


def parse_squashfs_line(line: str) -> Member | None:
    """One line of `unsquashfs -lln`; None for the root itself and what continues a name with a line break."""
    match = _SQUASHFS_LINE.fullmatch(line)
    if match is None or not match[3]:
        return None
    kind = _SQUASHFS_KINDS.get(match[1], FIFO)
    name, link = match[3], ""
    if kind == SYMBOLIC_LINK:
        name, _, link = name.partition(" -> ")
    path = relative_path(name)
    if "," in match[2]:
        major, _, minor = match[2].partition(",")
        return Member(path, kind, 0, link, (int(major), int(minor)))
    return Member(path, kind, int(match[2]) if kind == REGULAR else 0, link)


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISDIR(os.lstat(path).st_mode):
            shutil.rmtree(path)
        else:
            os.unlink(path)


def _owns_devices() -> bool:
    """Whether this process may make device nodes: not inside a user namespace."""
    try:
        os.mknod("/probe", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    except OSError:
        return False
    os.unlink("/probe")
    return True


if __name__ == "__main__":
    sys.exit(main())
