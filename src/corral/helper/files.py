"""Serves the files of one instance to the daemon: small requests in, answers and open descriptors out.

Runs as root of the instance with its root directory as "/", so whatever links the guest planted lead nowhere else.
A request is JSON on a SEQPACKET socket: {"op", "path", ...}; the answer {"ok": ...} or {"error", "errno"}. Opened
files travel as descriptors, so the bytes never pass through here. Ends when the socket closes.
"""

import contextlib
import ctypes
import errno
import json
import os
import socket
import stat
import struct
from collections.abc import Callable
from typing import Any

_NR_OPEN_TREE = 428
_NR_MOUNT_SETATTR = 442
_OPEN_TREE_CLONE = 1
_AT_EMPTY_PATH = 0x1000
_ATTR_NOSUID, _ATTR_NODEV = 2, 4
_CLONE_NEWUSER = 0x10000000
_MAX_MESSAGE = 262144
_LARGE = 131072
_NEW_FILE_MODE = 0o644
_NEW_DIRECTORY_MODE = 0o750

_libc = ctypes.CDLL(None, use_errno=True)

Request = dict[str, Any]
Answer = tuple[Any, list[int]]


def _syscall(number: int, *args: Any) -> int:
    result = int(_libc.syscall(ctypes.c_long(number), *args))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def enter_root(directory: int, uid_map: str, gid_map: str) -> None:
    """Make a directory the root of this process: without devices and, where maps are given, through those.

    The detached copy of the mount keeps nothing else of the host in use.
    """
    tree = _syscall(
        _NR_OPEN_TREE, ctypes.c_int(directory), b"", ctypes.c_uint(_OPEN_TREE_CLONE | os.O_CLOEXEC | _AT_EMPTY_PATH)
    )
    attributes = struct.pack("=QQQQ", _ATTR_NOSUID | _ATTR_NODEV, 0, 0, 0)
    _syscall(
        _NR_MOUNT_SETATTR,
        ctypes.c_int(tree),
        b"",
        ctypes.c_uint(_AT_EMPTY_PATH),
        attributes,
        ctypes.c_size_t(len(attributes)),
    )
    if uid_map:
        _enter_user_namespace(uid_map, gid_map)
    os.fchdir(tree)
    os.chroot(".")
    os.close(tree)


def _enter_user_namespace(uid_map: str, gid_map: str) -> None:
    """Enter a new user namespace whose maps a child, left behind in the old one, writes."""
    go, ready = os.pipe2(os.O_CLOEXEC)
    target = os.getpid()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(ready)
            os.read(go, 1)
            for name, text in (("uid_map", uid_map), ("gid_map", gid_map)):
                with open(f"/proc/{target}/{name}", "w") as file:
                    file.write(text)
            code = 0
        finally:
            os._exit(code)
    os.close(go)
    failed = _libc.unshare(_CLONE_NEWUSER)
    number = ctypes.get_errno()
    os.close(ready)
    _, status = os.waitpid(child, 0)
    if failed:
        raise OSError(number, os.strerror(number))
    if status:
        raise OSError(errno.EINVAL, "The ids of the instance could not be mapped")


def serve(channel: int) -> None:
    """Answer requests until the daemon hangs up."""
    with socket.socket(fileno=channel) as connection:
        _serve(connection)


def _serve(connection: socket.socket) -> None:
    while True:
        message = connection.recv(_MAX_MESSAGE)
        if not message:
            return
        request = json.loads(message)
        fds: list[int] = []
        try:
            result, fds = OPERATIONS[request["op"]](request)
            reply = {"ok": result}
        except OSError as error:
            reply = {"error": error.strerror or str(error), "errno": error.errno or errno.EIO}
        except (KeyError, ValueError) as error:
            reply = {"error": f"Bad request: {error}", "errno": errno.EINVAL}
        _send(connection, json.dumps(reply).encode(), fds)
        for fd in fds:
            os.close(fd)


def _send(connection: socket.socket, message: bytes, fds: list[int]) -> None:
    if len(message) < _LARGE:
        socket.send_fds(connection, [message], fds)
        return
    large = os.memfd_create("answer", os.MFD_CLOEXEC)
    try:
        with open(large, "wb", closefd=False) as file:
            file.write(message)
        os.lseek(large, 0, os.SEEK_SET)
        socket.send_fds(connection, [b'{"memfd":1}'], [large, *fds])
    finally:
        os.close(large)


def describe(status: os.stat_result) -> dict[str, Any]:
    """The facts of a stat result that the API shows."""
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink"}
    return {
        "type": kinds.get(stat.S_IFMT(status.st_mode), "other"),
        "mode": stat.S_IMODE(status.st_mode),
        "uid": status.st_uid,
        "gid": status.st_gid,
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
    }


def _exists(path: str) -> bool:
    try:
        os.stat(path)
    except OSError:
        return False
    return True


def _check_regular(fd: int) -> None:
    mode = os.fstat(fd).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "Not a regular file")
    os.set_blocking(fd, True)


def op_stat(request: Request) -> Answer:
    """The facts of a path itself (links are not followed)."""
    return describe(os.lstat(request["path"])), []


def op_read(request: Request) -> Answer:
    """Open a regular file for reading."""
    # Without waiting: a FIFO of that name must not hold the server up.
    fd = os.open(request["path"], os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        _check_regular(fd)
        return describe(os.fstat(fd)), [fd]
    except OSError:
        os.close(fd)
        raise


def op_write(request: Request) -> Answer:
    """Open a regular file for writing: `append` needs it to exist; else it is made or emptied.

    `mode`, `uid` and `gid` (None: leave) apply to a new file; to one that is there, those that `modify` names.
    """
    path = request["path"]
    is_new = not _exists(path)
    flags = os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    flags |= os.O_APPEND if request["append"] else os.O_CREAT
    fd = os.open(path, flags, _NEW_FILE_MODE)
    try:
        _check_regular(fd)
        if not request["append"]:
            os.ftruncate(fd, 0)
        _set_owner_and_mode(fd, request if is_new else _modified(request))
        return {"new": is_new}, [fd]
    except OSError:
        os.close(fd)
        raise


def _modified(request: Request) -> Request:
    return {name: request.get(name) for name in request.get("modify", ()) if name in ("uid", "gid", "mode")}


def _set_owner_and_mode(fd: int, request: Request) -> None:
    uid, gid, mode = request.get("uid"), request.get("gid"), request.get("mode")
    if uid is not None or gid is not None:
        os.fchown(fd, -1 if uid is None else uid, -1 if gid is None else gid)
    if mode is not None:
        os.fchmod(fd, mode)


def op_list(request: Request) -> Answer:
    """The names in a directory, sorted."""
    return sorted(os.listdir(request["path"])), []


def op_mkdir(request: Request) -> Answer:
    """Make a directory unless something is there; `mode`, `uid`, `gid` as for files."""
    path = request["path"]
    if _exists(path):
        if request.get("modify"):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                _set_owner_and_mode(fd, _modified(request))
            finally:
                os.close(fd)
        return {"new": False}, []
    os.mkdir(path, 0o700)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        mode = request.get("mode")
        _set_owner_and_mode(fd, {**request, "mode": _NEW_DIRECTORY_MODE if mode is None else mode})
    finally:
        os.close(fd)
    return {"new": True}, []


def op_symlink(request: Request) -> Answer:
    """Make a symbolic link unless the same one is there."""
    path, target = request["path"], request["target"]
    with contextlib.suppress(OSError):
        if os.readlink(path) == target:
            return {"new": False}, []
    os.symlink(target, path)
    return {"new": True}, []


def op_readlink(request: Request) -> Answer:
    """The target of a symbolic link."""
    return os.readlink(request["path"]), []


def op_remove(request: Request) -> Answer:
    """Remove a file, a link or an empty directory."""
    path = request["path"]
    if stat.S_ISDIR(os.lstat(path).st_mode):
        os.rmdir(path)
    else:
        os.unlink(path)
    return None, []


OPERATIONS: dict[str, Callable[[Request], Answer]] = {
    "stat": op_stat,
    "read": op_read,
    "write": op_write,
    "list": op_list,
    "mkdir": op_mkdir,
    "symlink": op_symlink,
    "readlink": op_readlink,
    "remove": op_remove,
}
