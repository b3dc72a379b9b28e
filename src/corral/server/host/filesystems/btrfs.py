"""Btrfs subvolumes, snapshots and quota groups by ioctl (linux/btrfs.h).

Paths are those of subvolumes on a mounted btrfs. Nothing here follows a symbolic link inside a subvolume.
"""

import contextlib
import errno
import fcntl
import os
import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_SNAP_CREATE_V2 = 0x50009417
_SUBVOL_CREATE_V2 = 0x50009418
_SNAP_DESTROY = 0x5000940F
_SUBVOL_GETFLAGS = 0x80089419
_SUBVOL_SETFLAGS = 0x4008941A
_SYNC = 0x9408
_TREE_SEARCH = 0xD0009411
_INO_LOOKUP = 0xD0009412
_GET_SUBVOL_ROOTREF = 0xD000943D
_INO_LOOKUP_USER = 0xD000943E
_GET_SUBVOL_INFO = 0x81F8943C
_SET_RECEIVED_SUBVOL = 0xC0C09425
_RECEIVED_SIZE = 192
_SUBVOL_INFO_SIZE, _SUBVOL_UUID_OFFSET = 504, 296
_QUOTA_CTL = 0xC0109428
_QGROUP_CREATE = 0x4010942A
_QGROUP_LIMIT = 0x8030942B
_QUOTA_RESCAN_WAIT = 0x942E

_ARGS = 4096
_RDONLY = 2
_FIRST_INODE = 256
_ROOTREFS = 255
_ROOT_TREE = 1
_ROOT_REF_KEY = 156
_QUOTA_TREE = 8
_QGROUP_INFO_KEY = 242
_QGROUP_LIMIT_KEY = 244
_QUOTA_ENABLE = 1
_MAX_REFERENCED, _MAX_EXCLUSIVE = 1, 2
_NO_LIMIT = 0xFFFFFFFFFFFFFFFF


@dataclass(frozen=True, slots=True)
class QuotaUsage:
    """Bytes of a quota group; limits are None where there are none."""

    referenced: int
    exclusive: int
    max_referenced: int | None = None
    max_exclusive: int | None = None


@contextlib.contextmanager
def _directory(path: str | Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _named_args(offset: int, name: str) -> bytearray:
    encoded = os.fsencode(name)
    if not encoded or len(encoded) > 255 or b"/" in encoded:
        raise OSError(errno.EINVAL, "Not a name of a subvolume", name)
    args = bytearray(_ARGS)
    args[offset : offset + len(encoded)] = encoded
    return args


def create_subvolume(path: str | Path) -> None:
    """Create an empty subvolume."""
    path = Path(path)
    args = _named_args(56, path.name)
    with _directory(path.parent) as parent:
        fcntl.ioctl(parent, _SUBVOL_CREATE_V2, args)


def snapshot(source: str | Path, target: str | Path, *, read_only: bool = False) -> None:
    """Create `target` as a snapshot of the subvolume `source`; nested subvolumes appear as empty directories."""
    target = Path(target)
    args = _named_args(56, target.name)
    with _directory(source) as origin, _directory(target.parent) as parent:
        struct.pack_into("=qQQ", args, 0, origin, 0, _RDONLY if read_only else 0)
        fcntl.ioctl(parent, _SNAP_CREATE_V2, args)


def snapshot_tree(source: str | Path, target: str | Path, *, read_only: bool = False) -> None:
    """Snapshot a subvolume with all that are nested in it, which keep their being read-only.

    `read_only` is for the outermost one. Leaves nothing when it fails.
    """
    source, target = Path(source), Path(target)
    nested = list_nested(source)
    snapshot(source, target, read_only=read_only and not nested)
    try:
        for child in nested:
            _snapshot_nested(source, target, child)
        for child in reversed(nested):
            with _nested_directory(source, child) as origin, _nested_directory(target, child) as copy:
                _set_read_only_fd(copy, bool(_get_flags(origin) & _RDONLY))
        if nested and read_only:
            set_read_only(target, True)
    except BaseException:
        delete_subvolume_tree(target)
        raise


def _snapshot_nested(source: Path, target: Path, child: str) -> None:
    # By descriptors, part by part: a running guest cannot turn a directory on the way into a link to elsewhere.
    parent_name, _, name = child.rpartition("/")
    args = _named_args(56, name)
    with _nested_directory(source, child) as origin, _nested_directory(target, parent_name) as parent:
        os.rmdir(name, dir_fd=parent)
        struct.pack_into("=qQQ", args, 0, origin, 0, 0)
        fcntl.ioctl(parent, _SNAP_CREATE_V2, args)


def delete_subvolume(path: str | Path) -> None:
    """Delete one subvolume; the space comes back in the background. Raises ENOTEMPTY where others are nested in it."""
    path = Path(path)
    args = _named_args(8, path.name)
    with _directory(path.parent) as parent:
        fcntl.ioctl(parent, _SNAP_DESTROY, args)


def delete_subvolume_tree(path: str | Path) -> None:
    """Delete a subvolume and all that are nested in it, read-only ones too."""
    path = Path(path)
    nested = list_nested(path)
    for child in ["", *nested] if nested else []:
        with _nested_directory(path, child) as fd:
            _set_read_only_fd(fd, False)
            # Removing an entry takes space first: a full quota would forbid it.
            with contextlib.suppress(OSError):
                _set_quota_fd(fd, None, None)
    for child in reversed(nested):
        parent_name, _, name = child.rpartition("/")
        with _nested_directory(path, parent_name) as parent:
            fcntl.ioctl(parent, _SNAP_DESTROY, _named_args(8, name))
    delete_subvolume(path)


@contextlib.contextmanager
def _nested_directory(path: Path, relative: str) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for part in filter(None, relative.split("/")):
            child = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            os.close(fd)
            fd = child
        yield fd
    finally:
        os.close(fd)


def is_subvolume(path: str | Path) -> bool:
    """Whether the path is the root of a btrfs subvolume."""
    try:
        if os.lstat(path).st_ino != _FIRST_INODE:
            return False
        with _directory(path) as fd:
            _get_flags(fd)
    except OSError:
        return False
    return True


def is_btrfs(path: str | Path) -> bool:
    """Whether the directory lies on a btrfs."""
    try:
        with _directory(path) as fd:
            _tree_id(fd)
    except OSError:
        return False
    return True


def _get_flags(fd: int) -> int:
    flags = bytearray(8)
    fcntl.ioctl(fd, _SUBVOL_GETFLAGS, flags)
    return int(struct.unpack("=Q", flags)[0])


def is_read_only(path: str | Path) -> bool:
    """Whether the subvolume is read-only."""
    with _directory(path) as fd:
        return bool(_get_flags(fd) & _RDONLY)


def set_read_only(path: str | Path, read_only: bool) -> None:
    """Make a subvolume read-only or writable."""
    with _directory(path) as fd:
        _set_read_only_fd(fd, read_only)


def _set_read_only_fd(fd: int, read_only: bool) -> None:
    flags = _get_flags(fd)
    wanted = flags | _RDONLY if read_only else flags & ~_RDONLY
    if wanted != flags:
        fcntl.ioctl(fd, _SUBVOL_SETFLAGS, struct.pack("=Q", wanted))


def seal_tree(path: str | Path) -> None:
    """Make a subvolume and all that are nested in it read-only."""
    path = Path(path)
    for child in [*reversed(list_nested(path)), ""]:
        with _nested_directory(path, child) as fd:
            _set_read_only_fd(fd, True)


def is_nested_read_only(path: str | Path, child: str) -> bool:
    """Whether a subvolume nested in another is read-only."""
    with _nested_directory(Path(path), child) as fd:
        return bool(_get_flags(fd) & _RDONLY)


def set_nested_read_only(path: str | Path, child: str, read_only: bool) -> None:
    """Make a subvolume nested in another read-only or writable."""
    with _nested_directory(Path(path), child) as fd:
        _set_read_only_fd(fd, read_only)


def move_into(source: str | Path, path: str | Path, child: str) -> None:
    """Move a subvolume to a place in another one; what is there may be an empty directory or nothing."""
    parent, _, name = child.rpartition("/")
    with _nested_directory(Path(path), parent) as fd:
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(name, dir_fd=fd)
        os.rename(source, name, dst_dir_fd=fd)


def forget_origin(path: str | Path) -> None:
    """Have a writable subvolume no longer found by the UUID of what it was received from."""
    with _directory(path) as fd:
        fcntl.ioctl(fd, _SET_RECEIVED_SUBVOL, bytearray(_RECEIVED_SIZE))


def get_uuid(path: str | Path) -> str:
    """The UUID of a subvolume."""
    info = bytearray(_SUBVOL_INFO_SIZE)
    with _directory(path) as fd:
        fcntl.ioctl(fd, _GET_SUBVOL_INFO, info)
    return str(uuid.UUID(bytes=bytes(info[_SUBVOL_UUID_OFFSET : _SUBVOL_UUID_OFFSET + 16])))


def _tree_id(fd: int) -> int:
    args = bytearray(_ARGS)
    struct.pack_into("=QQ", args, 0, 0, _FIRST_INODE)
    fcntl.ioctl(fd, _INO_LOOKUP, args)
    return int(struct.unpack_from("=Q", args)[0])


def list_nested(path: str | Path) -> list[str]:
    """Paths, relative to the subvolume, of all subvolumes nested in it, parents before children."""
    path = Path(path)
    found: list[str] = []
    pending = [""]
    while pending:
        base = pending.pop()
        with _nested_directory(path, base) as fd:
            children = [f"{base}/{name}" if base else name for name in _list_children(fd)]
        found += children
        pending += children
    return sorted(found)


def _list_children(fd: int) -> list[str]:
    children = []
    next_id = 0
    while True:
        args = bytearray(_ARGS)
        struct.pack_into("=Q", args, 0, next_id)
        overflow = False
        try:
            fcntl.ioctl(fd, _GET_SUBVOL_ROOTREF, args)
        except OSError as error:
            if error.errno != errno.EOVERFLOW:
                raise
            overflow = True
        next_id = struct.unpack_from("=Q", args)[0]
        count = args[8 + 16 * _ROOTREFS]
        for index in range(count):
            tree_id, directory = struct.unpack_from("=QQ", args, 8 + 16 * index)
            children.append(_lookup_name(fd, tree_id, directory))
        if not overflow:
            return children


def _lookup_name(fd: int, tree_id: int, directory: int) -> str:
    args = bytearray(_ARGS)
    struct.pack_into("=QQ", args, 0, directory, tree_id)
    fcntl.ioctl(fd, _INO_LOOKUP_USER, args)
    name = bytes(args[16 : 16 + 256]).split(b"\0", 1)[0]
    parent = bytes(args[272:]).split(b"\0", 1)[0]
    return os.fsdecode(parent + name)


def sync(path: str | Path) -> None:
    """Commit the file system that holds the path."""
    with _directory(path) as fd:
        fcntl.ioctl(fd, _SYNC)


def enable_quota(path: str | Path) -> None:
    """Switch quota groups on for the file system and wait for the first scan."""
    with _directory(path) as fd:
        fcntl.ioctl(fd, _QUOTA_CTL, bytearray(struct.pack("=QQ", _QUOTA_ENABLE, 0)))
        with contextlib.suppress(OSError):
            fcntl.ioctl(fd, _QUOTA_RESCAN_WAIT)


def set_quota(path: str | Path, *, max_referenced: int | None = None, max_exclusive: int | None = None) -> None:
    """Limit the quota group of a subvolume in bytes; None removes that limit. Quotas must be enabled."""
    with _directory(path) as fd:
        _set_quota_fd(fd, max_referenced, max_exclusive)


def _set_quota_fd(fd: int, max_referenced: int | None, max_exclusive: int | None) -> None:
    qgroup = _tree_id(fd)
    referenced = _NO_LIMIT if max_referenced is None else max_referenced
    exclusive = _NO_LIMIT if max_exclusive is None else max_exclusive
    args = struct.pack("=6Q", qgroup, _MAX_REFERENCED | _MAX_EXCLUSIVE, referenced, exclusive, 0, 0)
    try:
        fcntl.ioctl(fd, _QGROUP_LIMIT, bytearray(args))
    except FileNotFoundError:
        # The subvolume is older than the quotas of its file system.
        fcntl.ioctl(fd, _QGROUP_CREATE, struct.pack("=QQ", 1, qgroup))
        fcntl.ioctl(fd, _QGROUP_LIMIT, bytearray(args))


def find_quota(path: str | Path) -> QuotaUsage | None:
    """Usage and limits of a subvolume's quota group, or None where quotas are off."""
    with _directory(path) as fd:
        qgroup = _tree_id(fd)
        try:
            info = _search_quota(fd, _QGROUP_INFO_KEY, qgroup)
            limit = _search_quota(fd, _QGROUP_LIMIT_KEY, qgroup)
        except FileNotFoundError:
            return None
    if info is None:
        return None
    _, referenced, _, exclusive, _ = struct.unpack_from("<QQQQQ", info)
    if limit is None:
        return QuotaUsage(referenced, exclusive)
    flags, max_referenced, max_exclusive = struct.unpack_from("<QQQ", limit)
    return QuotaUsage(
        referenced,
        exclusive,
        max_referenced if flags & _MAX_REFERENCED and max_referenced != _NO_LIMIT else None,
        max_exclusive if flags & _MAX_EXCLUSIVE and max_exclusive != _NO_LIMIT else None,
    )


def list_usages(directory: str | Path, *, exclusive: bool = False) -> dict[str, int]:
    """Bytes referenced by the subvolumes that lie directly in a directory, by name; empty where quotas are off.

    `exclusive` counts only what no other subvolume has, too. A few searches for any number of subvolumes.
    """
    field = 3 if exclusive else 1
    with _directory(directory) as fd:
        parent, inode = _tree_id(fd), os.fstat(fd).st_ino
        try:
            counted = {
                qgroup: struct.unpack_from("<QQQQ", data)[field]
                for qgroup, data in _search(fd, _QUOTA_TREE, 0, _QGROUP_INFO_KEY)
            }
        except FileNotFoundError:
            return {}
        usages = {}
        for child, data in _search(fd, _ROOT_TREE, parent, _ROOT_REF_KEY):
            where, _, length = struct.unpack_from("<QQH", data)
            if where == inode and child in counted:
                usages[os.fsdecode(data[18 : 18 + length])] = counted[child]
    return usages


def _search(fd: int, tree: int, object_id: int, key_type: int) -> Iterator[tuple[int, bytes]]:
    """The items of one kind and object in a tree: their offsets and contents."""
    first = 0
    while True:
        args = bytearray(_ARGS)
        struct.pack_into(
            "=QQQQQQQIII",
            args,
            0,
            *(tree, object_id, object_id, first, _NO_LIMIT, 0, _NO_LIMIT, key_type, key_type, 0xFFFFFFFF),
        )
        fcntl.ioctl(fd, _TREE_SEARCH, args)
        found = struct.unpack_from("=I", args, 64)[0]
        position = 104
        for _ in range(found):
            _, _, first, _, length = struct.unpack_from("=QQQII", args, position)
            position += 32
            yield first, bytes(args[position : position + length])
            position += length
        if not found or first == _NO_LIMIT:
            return
        first += 1


def _search_quota(fd: int, key_type: int, qgroup: int) -> bytes | None:
    args = bytearray(_ARGS)
    # tree, min and max of: object, offset, transaction; min and max of type; wanted items
    struct.pack_into("=QQQQQQQIII", args, 0, _QUOTA_TREE, 0, 0, qgroup, qgroup, 0, _NO_LIMIT, key_type, key_type, 1)
    fcntl.ioctl(fd, _TREE_SEARCH, args)
    if struct.unpack_from("=I", args, 64)[0] == 0:
        return None
    length = struct.unpack_from("=QQQII", args, 104)[4]
    return bytes(args[136 : 136 + length])
