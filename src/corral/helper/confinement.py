"""The confinement of the helpers that read archives or pack what users own: an empty root with the system's programs.

Standard library only, and nothing may be imported after the root has changed.
"""

import contextlib
import ctypes
import os
import shutil
import subprocess
from collections.abc import Mapping
from typing import BinaryIO, cast

from corral.helper.tar_guard import CHUNK, Refused

_CLONE_NEWUSER = 0x10000000
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
SYS_ADMIN = 21
"""What btrfs needs to find the parents of what it receives."""
_PROGRAM_DIRECTORIES = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32")
_STDERR_LIMIT = 4096

_libc = ctypes.CDLL(None, use_errno=True)


class Program:
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
            preexec_fn=die_with_parent,
            pipesize=CHUNK,
        )

    def __enter__(self) -> "Program":
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


def program(name: str) -> str:
    """The path of a program of the system; Refused where it is not installed."""
    path = shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")
    if path is None:
        raise Refused(f"it needs the program {name!r}, which is not installed")
    return path


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends. A change of its user undoes this."""
    _libc.prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0)


def confine(target: str, shown: Mapping[str, str] | None = None, kept: frozenset[int] = frozenset()) -> None:
    """Give up everything but the programs, the directory `target` (if not empty) as /target, and what is `shown`:
    existing files and directories by the name they get, read only like the programs. `kept` are capabilities that stay
    besides those for files."""
    check(_libc.unshare(_CLONE_NEWNS | _CLONE_NEWUTS | _CLONE_NEWIPC | _CLONE_NEWNET), "unshare")
    _mount("", "/", "", _MS_REC | _MS_PRIVATE)
    target_fd = os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW) if target else -1
    descriptors = {name: os.open(path, os.O_PATH | os.O_NOFOLLOW) for name, path in (shown or {}).items()}
    root = "/tmp"
    _mount("tmpfs", root, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=0755,size=64m")
    for name in _PROGRAM_DIRECTORIES:
        _show(f"/{name}", f"{root}/{name}")
    os.mkdir(f"{root}/dev")
    _show("/dev/null", f"{root}/dev/null", read_only=False)
    os.mkdir(f"{root}/target")
    if target_fd >= 0:
        _mount(f"/proc/self/fd/{target_fd}", f"{root}/target", "", _MS_BIND)
        os.close(target_fd)
    for name, descriptor in descriptors.items():
        os.makedirs(os.path.dirname(f"{root}/{name}"), exist_ok=True)
        _show(f"/proc/self/fd/{descriptor}", f"{root}/{name}")
        os.close(descriptor)
    os.chdir(root)
    check(_libc.syscall(_SYS_PIVOT_ROOT[os.uname().machine], b".", b"."), "pivot_root")
    check(_libc.umount2(b".", _MNT_DETACH), "umount2")
    os.chdir("/")
    os.umask(0)
    for capability in range(64):
        if capability not in _KEPT_CAPABILITIES | kept and _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            break
    check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
    die_with_parent()


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


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    check(
        _libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode()),
        f"mount {target}",
    )


def unshare_user() -> None:
    """Enter a user namespace of its own, whose maps somebody outside writes."""
    check(_libc.unshare(_CLONE_NEWUSER), "unshare")


def check(result: int, what: str) -> None:
    """Raise OSError where a system call failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
