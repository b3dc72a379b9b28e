"""Mounts: the classic calls, the new mount API with idmapped mounts, and the mount table."""

import contextlib
import errno
import os
import struct
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from corral.server.host import syscalls

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

_OPEN_TREE_CLONE = 1
_OPEN_TREE_CLOEXEC = os.O_CLOEXEC
_AT_RECURSIVE = 0x8000
_AT_EMPTY_PATH = 0x1000
_MOVE_MOUNT_F_EMPTY_PATH = 4
_MOVE_MOUNT_T_EMPTY_PATH = 0x40
_MOUNT_ATTR_RDONLY = 1
_MOUNT_ATTR_IDMAP = 0x100000
_AT_FDCWD = -100

_FLAG_OPTIONS = {
    "ro": MS_RDONLY,
    "nosuid": MS_NOSUID,
    "nodev": MS_NODEV,
    "noexec": MS_NOEXEC,
    "remount": MS_REMOUNT,
    "bind": MS_BIND,
    "rbind": MS_BIND | MS_REC,
    "noatime": 1024,
    "nodiratime": 2048,
    "relatime": 1 << 21,
    "strictatime": 1 << 24,
    "sync": 16,
    "dirsync": 128,
    "mand": 64,
}
_NO_OPTIONS = {"rw", "defaults", "suid", "dev", "exec", "async", "atime", "nofail", "auto"}


@dataclass(frozen=True, slots=True)
class MountEntry:
    """One line of a mountinfo table (proc_pid_mountinfo(5))."""

    mount_id: int
    parent_id: int
    device: str
    root: str
    target: str
    options: str
    fstype: str
    source: str
    super_options: str
    propagation: tuple[str, ...] = ()


def parse_options(options: Iterable[str]) -> tuple[int, str]:
    """Split mount options into the flags and the data string of mount(2)."""
    flags = 0
    rest = []
    for option in options:
        if option in _FLAG_OPTIONS:
            flags |= _FLAG_OPTIONS[option]
        elif option and option not in _NO_OPTIONS:
            rest.append(option)
    return flags, ",".join(rest)


def mount(source: str | Path | None, target: str | Path, fstype: str | None, options: Iterable[str] = ()) -> None:
    """Mount a file system with options as in fstab."""
    flags, data = parse_options(options)
    syscalls.mount(str(source) if source is not None else None, str(target), fstype, flags, data or None)


def bind(source: str | Path, target: str | Path, *, recursive: bool = False, read_only: bool = False) -> None:
    """Bind a directory or file onto an existing one."""
    flags = MS_BIND | (MS_REC if recursive else 0)
    syscalls.mount(str(source), str(target), None, flags, None)
    if read_only:
        try:
            syscalls.mount(None, str(target), None, MS_REMOUNT | MS_RDONLY | MS_BIND, None)
        except OSError:
            syscalls.umount2(str(target), MNT_DETACH)
            raise


def remount_bind(target: str | Path, options: Iterable[str]) -> None:
    """Change the flags of one mount (ro, nosuid, ...). Raises EINVAL for options that only a file system knows."""
    flags, data = parse_options(options)
    if data:
        raise OSError(errno.EINVAL, f"A bind mount takes no option {data}", str(target))
    syscalls.mount(None, str(target), None, MS_REMOUNT | MS_BIND | flags, None)


def unmount(target: str | Path, *, lazy: bool = False) -> None:
    """Unmount what lies on top of a path; never follows a final link. Raises EBUSY, EINVAL where nothing is mounted."""
    syscalls.umount2(str(target), UMOUNT_NOFOLLOW | (MNT_DETACH if lazy else 0))


def ensure_unmounted(target: str | Path) -> None:
    """Unmount everything that is stacked on a path, lazily where it is busy."""
    while True:
        try:
            unmount(target)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT):
                return
            if error.errno != errno.EBUSY:
                raise
            unmount(target, lazy=True)


def ensure_tree_unmounted(root: str | Path) -> None:
    """Unmount everything at and below a directory, deepest first."""
    prefix = str(root).rstrip("/")
    targets = [
        entry.target for entry in list_mounts() if entry.target == prefix or entry.target.startswith(prefix + "/")
    ]
    for target in sorted(targets, key=len, reverse=True):
        ensure_unmounted(target)


def open_tree(path: str | Path, *, recursive: bool = True) -> int:
    """A descriptor of a detached copy of the mount at a path."""
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | (_AT_RECURSIVE if recursive else 0)
    return syscalls.call(syscalls.NR_OPEN_TREE, _AT_FDCWD, os.fsencode(path), flags, path=str(path))


def set_tree_idmap(tree: int, userns: int, *, recursive: bool = False) -> None:
    """Give a detached tree the idmap of a user namespace. Raises EINVAL where the file system cannot."""
    _setattr(tree, _MOUNT_ATTR_IDMAP, userns, recursive)


def set_tree_read_only(tree: int, *, recursive: bool = False) -> None:
    """Make a detached tree read-only."""
    _setattr(tree, _MOUNT_ATTR_RDONLY, 0, recursive)


def _setattr(tree: int, attributes: int, userns: int, recursive: bool) -> None:
    args = struct.pack("=QQQQ", attributes, 0, 0, userns)
    flags = _AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)
    syscalls.call(syscalls.NR_MOUNT_SETATTR, tree, b"", flags, args, len(args))


def attach_tree(tree: int, target: str | Path | int) -> None:
    """Mount a detached tree on a path, or on an O_PATH descriptor; the caller still closes the tree."""
    if isinstance(target, int):
        flags = _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH
        syscalls.call(syscalls.NR_MOVE_MOUNT, tree, b"", target, b"", flags)
        return
    flags = _MOVE_MOUNT_F_EMPTY_PATH
    syscalls.call(syscalls.NR_MOVE_MOUNT, tree, b"", _AT_FDCWD, os.fsencode(target), flags, path=str(target))


def bind_idmapped(source: str | Path, target: str | Path, userns: int, *, recursive: bool = False) -> None:
    """Bind a directory through the idmap of a user namespace."""
    tree = open_tree(source, recursive=recursive)
    try:
        set_tree_idmap(tree, userns, recursive=recursive)
        attach_tree(tree, target)
    finally:
        os.close(tree)


@contextlib.contextmanager
def user_namespace(uid_map: str, gid_map: str) -> Iterator[int]:
    """A descriptor of a new user namespace with these maps (text of /proc/PID/uid_map)."""
    # A program holds the namespace while the maps are written: a threaded Python must not fork by itself.
    with subprocess.Popen(
        ["unshare", "--user", "--", "sh", "-c", "echo ready; read -r line"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as holder:
        try:
            if holder.stdout is None or not holder.stdout.readline():
                raise OSError(errno.EPERM, "Creating a user namespace is not permitted")
            Path(f"/proc/{holder.pid}/uid_map").write_text(uid_map)
            Path(f"/proc/{holder.pid}/gid_map").write_text(gid_map)
            fd = os.open(f"/proc/{holder.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            holder.kill()
    try:
        yield fd
    finally:
        os.close(fd)


def supports_idmapped_mounts(path: str | Path) -> bool:
    """Whether the file system that holds a directory can be mounted with an idmap; leaves nothing behind."""
    try:
        with user_namespace("0 100000 1", "0 100000 1") as userns:
            tree = open_tree(path, recursive=False)
            try:
                set_tree_idmap(tree, userns)
            finally:
                os.close(tree)
    except OSError:
        return False
    return True


def parse_mountinfo(text: str) -> list[MountEntry]:
    """Parse the text of a mountinfo file."""
    entries = []
    for line in text.splitlines():
        left, separator, right = line.partition(" - ")
        fields, tail = left.split(" "), right.split(" ")
        if not separator or len(fields) < 6 or len(tail) < 3:
            continue
        entries.append(
            MountEntry(
                mount_id=int(fields[0]),
                parent_id=int(fields[1]),
                device=fields[2],
                root=_unescape(fields[3]),
                target=_unescape(fields[4]),
                options=fields[5],
                fstype=tail[0],
                source=_unescape(tail[1]),
                super_options=tail[2],
                propagation=tuple(fields[6:]),
            )
        )
    return entries


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text


def list_mounts(pid: int | str = "self") -> list[MountEntry]:
    """The mount table of a process, oldest first."""
    with open(f"/proc/{pid}/mountinfo", errors="surrogateescape") as table:
        return parse_mountinfo(table.read())


def is_mount_point(path: str | Path) -> bool:
    """Whether something is mounted exactly there (bind mounts too)."""
    target = os.path.realpath(path)
    return any(entry.target == target for entry in list_mounts())


def find_mount(path: str | Path) -> MountEntry | None:
    """The mount that a path lies on."""
    target = os.path.realpath(path)
    best: MountEntry | None = None
    for entry in list_mounts():
        covers = target == entry.target or target.startswith(entry.target.rstrip("/") + "/")
        if covers and (best is None or len(entry.target) >= len(best.target)):
            best = entry
    return best
