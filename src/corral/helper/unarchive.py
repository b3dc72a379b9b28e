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
import ctypes
import errno
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from typing import BinaryIO, cast

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

_CLONE_NEWNS, _CLONE_NEWUTS, _CLONE_NEWIPC, _CLONE_NEWNET = 0x20000, 0x4000000, 0x8000000, 0x40000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_REMOUNT = 1, 2, 4, 32
_MS_BIND, _MS_REC, _MS_PRIVATE = 4096, 16384, 1 << 18
_MNT_DETACH = 2
_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 24, 38
_SYS_PIVOT_ROOT = {
    "x86_64": 155,
    "aarch64": 41,
    "riscv64": 41,
    "s390x": 217,
    "ppc64le": 203,
    "i686": 217,
    "armv7l": 218,
}
_KEPT_CAPABILITIES = frozenset({0, 1, 3, 4, 27, 31})
"""CHOWN, DAC_OVERRIDE, FOWNER, FSETID, MKNOD, SETFCAP: what gives files their owners, modes, devices and xattrs."""
_PROGRAM_DIRECTORIES = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32")
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
_STDERR_LIMIT = 4096

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Request:
    """What to do with the archive on standard input.

    `decompress` is the program that turns it into a tar stream (empty: it is one), `squashfs` the file's path for a
    squashfs. `target` is an existing directory, or empty to judge only.
    """

    layout: str
    decompress: list[str]
    squashfs: str
    target: str
    size: int
    members: int


class _Program:
    """A child with its standard error in memory; it dies with this process, and is gone when the block is left."""

    def __init__(self, argv: list[str], *, stdin: int = subprocess.DEVNULL, stdout: int = subprocess.DEVNULL) -> None:
        self._errors = os.memfd_create("errors")
        self.process = subprocess.Popen(
            argv,
            stdin=stdin,
            stdout=stdout,
            stderr=self._errors,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
            cwd="/",
            preexec_fn=_die_with_parent,
            pipesize=CHUNK,
        )

    def __enter__(self) -> "_Program":
        return self

    def __exit__(self, *_: object) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        self.process.kill()
        self.process.wait()
        os.close(self._errors)

    @property
    def output(self) -> BinaryIO:
        """Its standard output, as bytes."""
        assert self.process.stdout is not None
        return cast(BinaryIO, self.process.stdout)

    @property
    def input(self) -> BinaryIO:
        """Its standard input."""
        assert self.process.stdin is not None
        return cast(BinaryIO, self.process.stdin)

    def finish(self, what: str) -> None:
        """Wait for its end; Refused where it failed."""
        if self.process.wait() != 0:
            raise Refused(f"{what}: {self.errors() or f'exit status {self.process.returncode}'}")

    def errors(self) -> str:
        """The first lines of its standard error, once it has ended."""
        self.process.wait()
        lines = os.pread(self._errors, _STDERR_LIMIT, 0).decode(errors="replace").strip().splitlines()
        return "; ".join(lines[:3])


def main() -> int:
    """Do the request and report."""
    request = Request(**json.loads(sys.argv[1]))
    try:
        contents = _squashfs(request) if request.squashfs else _tar(request)
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
    }
    print(json.dumps(report))
    return 0


def _tar(request: Request) -> Contents:
    decompress = [_program(request.decompress[0]), *request.decompress[1:]] if request.decompress else []
    extract = [
        *(_program("tar"), "--extract", "--file=-", "--directory=/target", "--numeric-owner", "--same-owner"),
        *("--preserve-permissions", "--xattrs", "--xattrs-include=*", "--acls", "--restrict", "--force-local"),
        *("--no-overwrite-dir", "--warning=no-timestamp", "--blocking-factor=128"),
    ]
    _confine(request.target)
    policy = Policy(request.layout, Limits(request.size, request.members), allow_devices=_owns_devices())
    with contextlib.ExitStack() as stack:
        decompressor = None
        if decompress:
            decompressor = stack.enter_context(_Program(decompress, stdin=0, stdout=subprocess.PIPE))
        descriptor = decompressor.output.fileno() if decompressor is not None else 0
        source = stack.enter_context(open(descriptor, "rb", CHUNK, closefd=False))
        if request.target:
            unpacker = stack.enter_context(_Program(extract, stdin=subprocess.PIPE))
            contents = _pass_through(source, policy, unpacker, decompressor)
            unpacker.finish("it cannot be unpacked")
        else:
            contents = _judge(TarGuard(source, policy), decompressor)
        if decompressor is not None:
            decompressor.finish("it is damaged")
        return contents


def _pass_through(source: BinaryIO, policy: Policy, unpacker: _Program, decompressor: _Program | None) -> Contents:
    try:
        with unpacker.input, open(unpacker.input.fileno(), "wb", CHUNK, closefd=False) as sink:
            return _judge(TarGuard(source, policy, sink.write), decompressor)
    except BrokenPipeError:
        raise Refused(f"it cannot be unpacked: {unpacker.errors()}") from None


def _judge(guard: TarGuard, decompressor: _Program | None) -> Contents:
    try:
        return guard.run()
    except Refused as refusal:
        # A truncated stream is better explained by the program that read the file.
        if decompressor is not None and decompressor.process.poll() and (text := decompressor.errors()):
            raise Refused(f"it is damaged: {text}") from refusal
        raise


def _squashfs(request: Request) -> Contents:
    unsquashfs = _program("unsquashfs")
    _confine(request.target, request.squashfs)
    policy = Policy(request.layout, Limits(request.size, request.members), allow_devices=True)
    dropped: list[str] = []
    has_document = False
    with contextlib.ExitStack() as stack:
        listing = [unsquashfs, "-lln", "-d", "squashfs-root", "/archive"]
        lister = stack.enter_context(_Program(listing, stdout=subprocess.PIPE))
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
            stack.enter_context(_Program(unpack)).finish("it cannot be unpacked")
            for path in dropped:
                _remove(os.path.join("/target", path))
    return contents


def _squashfs_document(unsquashfs: str) -> bytes:
    with _Program([unsquashfs, "-cat", "/archive", "metadata.yaml"], stdout=subprocess.PIPE) as reader:
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


def _program(name: str) -> str:
    path = shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")
    if path is None:
        raise Refused(f"it needs the program {name!r}, which is not installed")
    return path


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0)


def _confine(target: str, archive: str = "") -> None:
    """Give up everything but the programs (read only), the target and the archive."""
    _check(_libc.unshare(_CLONE_NEWNS | _CLONE_NEWUTS | _CLONE_NEWIPC | _CLONE_NEWNET), "unshare")
    _mount("", "/", "", _MS_REC | _MS_PRIVATE)
    target_fd = os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW) if target else -1
    archive_fd = os.open(archive, os.O_PATH | os.O_NOFOLLOW) if archive else -1
    root = "/tmp"
    _mount("tmpfs", root, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=0700,size=64m")
    for name in _PROGRAM_DIRECTORIES:
        _show(f"/{name}", f"{root}/{name}")
    os.mkdir(f"{root}/dev")
    _show("/dev/null", f"{root}/dev/null", read_only=False)
    os.mkdir(f"{root}/target")
    if target_fd >= 0:
        _mount(f"/proc/self/fd/{target_fd}", f"{root}/target", "", _MS_BIND)
        os.close(target_fd)
    if archive_fd >= 0:
        _show(f"/proc/self/fd/{archive_fd}", f"{root}/archive")
        os.close(archive_fd)
    os.chdir(root)
    _check(_libc.syscall(_SYS_PIVOT_ROOT[os.uname().machine], b".", b"."), "pivot_root")
    _check(_libc.umount2(b".", _MNT_DETACH), "umount2")
    os.chdir("/")
    os.umask(0)
    for capability in range(64):
        if capability not in _KEPT_CAPABILITIES and _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            break
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
    _check(_libc.prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0), "prctl")


def _show(source: str, destination: str, *, read_only: bool = True) -> None:
    """Make a file or directory of the system visible; a link is made again as a link."""
    if os.path.islink(source) and not source.startswith("/proc/self/fd/"):
        os.symlink(os.readlink(source), destination)
        return
    if os.path.isdir(source):
        os.mkdir(destination)
    elif os.path.exists(source):
        os.close(os.open(destination, os.O_CREAT | os.O_WRONLY))
    else:
        return
    _mount(source, destination, "", _MS_BIND)
    if read_only:
        _mount("", destination, "", _MS_BIND | _MS_REMOUNT | _MS_RDONLY | _MS_NOSUID | _MS_NODEV)


def _owns_devices() -> bool:
    """Whether this process may make device nodes: not inside a user namespace."""
    try:
        os.mknod("/probe", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    except OSError:
        return False
    os.unlink("/probe")
    return True


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    _check(
        _libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode()),
        f"mount {target}",
    )


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


if __name__ == "__main__":
    sys.exit(main())
