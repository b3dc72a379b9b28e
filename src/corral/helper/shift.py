"""Changes the owners of trees on a disk from one id map to another. Standard library only."""

import contextlib
import errno
import json
import os
import stat
import struct
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from corral.helper.idmap import IdMap

_CAPABILITY = "security.capability"
_ACLS = ("system.posix_acl_access", "system.posix_acl_default")
_CAP_V2, _CAP_V3, _CAP_VERSION_MASK = 0x02000000, 0x03000000, 0xFF000000
_ACL_ENTRY = struct.Struct("<HHI")
_ACL_USER, _ACL_GROUP = 2, 8


def shift_tree(root: str | Path, old: IdMap, new: IdMap, journal: str | Path | None = None) -> None:
    """Change the owners of a whole tree from one map to another, with ACLs and file capabilities.

    Ids that the old map does not know are left alone. Links are changed themselves and never followed; hard links
    are changed once. Raises OSError EINVAL if an id has no place in the new map.

    With a journal, what each entry was is written there before it changes: where the shift fails all is put back, and
    after the death of the process `undo_shift` does that. The caller removes it once the new map is on record.
    """
    if journal is None:
        walk(root, lambda path, fd: _shift_entry(fd, old, new, None))
        return
    with Journal(Path(journal), Path(root), new) as notes:
        try:
            walk(root, lambda path, fd: _shift_entry(fd, old, new, partial(notes.note, path)))
            return
        except BaseException:
            notes.close()
            undo_shift(journal)
            raise


def shift_known(root: str | Path, old: IdMap, new: IdMap) -> None:
    """The same without a journal, and ids that have no place in the new map are left alone too."""
    walk(root, lambda path, fd: _shift_entry(fd, old, new, None, strict=False))


def walk(root: str | Path, visit: Callable[[str, int], None]) -> None:
    """Call a function with the relative path and an O_PATH descriptor of a tree's root and all entries in it.

    Links are visited themselves and never followed, hard links once.
    """
    seen: set[tuple[int, int]] = set()
    fd = os.open(root, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _walk(fd, "", visit, seen)
    finally:
        os.close(fd)


def _walk(fd: int, path: str, visit: Callable[[str, int], None], seen: set[tuple[int, int]]) -> None:
    status = os.fstat(fd)
    is_directory = stat.S_ISDIR(status.st_mode)
    if not is_directory and status.st_nlink > 1:
        if (status.st_dev, status.st_ino) in seen:
            return
        seen.add((status.st_dev, status.st_ino))
    visit(path, fd)
    if not is_directory:
        return
    directory = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
    try:
        with os.scandir(directory) as entries:
            names = [entry.name for entry in entries]
        for name in names:
            child = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            try:
                _walk(child, f"{path}/{name}" if path else name, visit, seen)
            finally:
                os.close(child)
    finally:
        os.close(directory)


class Journal:
    """A file that says what entries were before they changed: a line each, after a line that says which tree it is."""

    def __init__(self, path: Path, root: Path, new: IdMap) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            self._write({"root": str(root), "new": new.to_json()})
            os.fsync(self._fd)
        except BaseException:
            self.close()
            path.unlink()
            raise

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write no more."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def note(self, path: str, status: os.stat_result, attributes: Mapping[str, bytes]) -> None:
        """Say what an entry is."""
        kept = {name: value.hex() for name, value in attributes.items()}
        self._write([path, status.st_ino, status.st_uid, status.st_gid, status.st_mode, kept])

    def _write(self, line: object) -> None:
        # Names that are no text keep their bytes: surrogates are written as such.
        data = memoryview(json.dumps(line).encode() + b"\n")
        while data:
            data = data[os.write(self._fd, data) :]


def target_of(journal: str | Path) -> IdMap | None:
    """The map that the tree of a journal was to get; None where nothing was changed yet."""
    with open(journal) as file:
        line = file.readline()
    return IdMap.from_json(json.loads(line)["new"]) if line.endswith("\n") else None


def undo_shift(journal: str | Path) -> bool:
    """Make the entries of a journal what they were, and remove it; says whether its tree was there. Repeatable."""
    path = Path(journal)
    with open(path) as file:
        lines = (json.loads(line) for line in file if line.endswith("\n"))
        head = next(lines, None)
        if head is None:
            path.unlink()
            return True
        try:
            root = os.open(head["root"], os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            for line in lines:
                _put_back(root, line)
        finally:
            os.close(root)
    path.unlink()
    return True


def _put_back(root: int, line: tuple[str, int, int, int, int, Mapping[str, str]]) -> None:
    path, inode, uid, gid, mode, attributes = line
    fd = _open_beneath(root, path)
    if fd is None:
        return
    try:
        if os.fstat(fd).st_ino != inode:
            return
        magic = f"/proc/self/fd/{fd}"
        os.chown(magic, uid, gid)
        if not stat.S_ISLNK(mode):
            os.chmod(magic, stat.S_IMODE(mode))
        for name, value in attributes.items():
            os.setxattr(magic, name, bytes.fromhex(value))
    finally:
        os.close(fd)


def _open_beneath(root: int, path: str) -> int | None:
    """An entry of a tree, part by part and through no link; None where it is gone."""
    fd = os.dup(root)
    for name in filter(None, path.split("/")):
        try:
            child = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        except (FileNotFoundError, NotADirectoryError):
            return None
        finally:
            os.close(fd)
        fd = child
    return fd


Note = Callable[[os.stat_result, Mapping[str, bytes]], None]


def _shift_entry(fd: int, old: IdMap, new: IdMap, note: Note | None, *, strict: bool = True) -> None:
    """Shift what an O_PATH descriptor names."""
    status = os.fstat(fd)
    uid = _translate(old.inside_uid(status.st_uid), new.outside_uid, status.st_uid, strict=strict)
    gid = _translate(old.inside_gid(status.st_gid), new.outside_gid, status.st_gid, strict=strict)
    magic = f"/proc/self/fd/{fd}"
    is_link = stat.S_ISLNK(status.st_mode)
    attributes = {} if is_link else _read_attributes(magic)
    changed = {
        name: shift_capability(value, old, new) if name == _CAPABILITY else shift_acl(value, old, new, strict=strict)
        for name, value in attributes.items()
    }
    if note is not None:
        note(status, attributes)
    if (uid, gid) != (status.st_uid, status.st_gid):
        # The magic link of an O_PATH descriptor leads to the entry itself, also where that is a link.
        os.chown(magic, uid, gid)
        if status.st_mode & (stat.S_ISUID | stat.S_ISGID) and not is_link:
            os.chmod(magic, stat.S_IMODE(status.st_mode))
    for name, value in changed.items():
        os.setxattr(magic, name, value)


def _translate(inside: int | None, outside: Callable[[int], int | None], unchanged: int, *, strict: bool) -> int:
    if inside is None:
        return unchanged
    found = outside(inside)
    if found is None and not strict:
        return unchanged
    if found is None:
        raise OSError(errno.EINVAL, f"Id {inside} has no place in the new map")
    return found


def _read_attributes(path: str) -> dict[str, bytes]:
    found = {}
    for name in (*_ACLS, _CAPABILITY):
        with contextlib.suppress(OSError):
            found[name] = os.getxattr(path, name)
    return found


def shift_capability(value: bytes, old: IdMap, new: IdMap) -> bytes:
    """Translate the root id of a file capability (version 2 belongs to the host's root)."""
    magic = struct.unpack_from("<I", value)[0]
    version = magic & _CAP_VERSION_MASK
    if version not in (_CAP_V2, _CAP_V3):
        return value
    outside = struct.unpack_from("<I", value, 20)[0] if version == _CAP_V3 else 0
    inside = old.inside_uid(outside)
    target = new.outside_uid(inside) if inside is not None else outside
    flags = magic & ~_CAP_VERSION_MASK
    if not target:
        return struct.pack("<I", _CAP_V2 | flags) + value[4:20]
    return struct.pack("<I", _CAP_V3 | flags) + value[4:20] + struct.pack("<I", target)


def shift_acl(value: bytes, old: IdMap, new: IdMap, *, strict: bool = True) -> bytes:
    """Translate the ids of named users and groups in a POSIX ACL attribute."""
    result = bytearray(value)
    for offset in range(4, len(value) - _ACL_ENTRY.size + 1, _ACL_ENTRY.size):
        tag, permissions, number = _ACL_ENTRY.unpack_from(value, offset)
        if tag == _ACL_USER:
            number = _translate(old.inside_uid(number), new.outside_uid, number, strict=strict)
        elif tag == _ACL_GROUP:
            number = _translate(old.inside_gid(number), new.outside_gid, number, strict=strict)
        _ACL_ENTRY.pack_into(result, offset, tag, permissions, number)
    return bytes(result)
