"""Answers mount(2) for the file systems that a container may mount, by the kernel or by a FUSE program of its own."""

import contextlib
import ctypes
import errno
import os
import struct

from corral.helper.intercepted import kernel
from corral.helper.intercepted.caller import Caller, NotOurs, map_outside
from corral.helper.intercepted.kernel import AT_EMPTY_PATH, AT_FDCWD, CAP_SYS_ADMIN, CLONE_NEWPID

_OPTION_WORDS = {
    1: "ro",
    2: "nosuid",
    4: "nodev",
    8: "noexec",
    16: "sync",
    32: "remount",
    64: "mand",
    1024: "noatime",
    2048: "nodiratime",
    1 << 24: "strictatime",
    1 << 25: "lazytime",
}
"""Mount options in the words of mount(8), by their bit in the flags."""

_SUPERBLOCK_WORDS = {1: b"ro", 16: b"sync", 64: b"mand", 128: b"dirsync", 1 << 25: b"lazytime"}
_ATTRIBUTES = {1: 1, 2: 2, 4: 4, 8: 8, 1024: 0x10, 1 << 24: 0x20, 2048: 0x80}
"""The bits of fsmount(2) by those of mount(2)."""

_IDMAP = 0x100000
_FSCONFIG_FLAG, _FSCONFIG_STRING, _FSCONFIG_CREATE = 0, 1, 6
_MAGIC, _MAGIC_MASK = 0xC0ED0000, 0xFFFF0000
_FUSE_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
_NOT_EXECUTED = 127


def option_words(flags: int) -> str:
    """Flags of mount(2) as the options of a FUSE program; what has no word there is left out."""
    return ",".join(word for bit, word in _OPTION_WORDS.items() if flags & bit)


def without_magic(flags: int) -> int:
    """Flags without the mark that old programs put there."""
    return flags & ~_MAGIC_MASK if flags & _MAGIC_MASK == _MAGIC else flags


def with_owner(data: bytes, uid_map: str, gid_map: str, owner: tuple[int, int]) -> bytes:
    """Options of hugetlbfs with the host's ids: those that the options have, or the caller's."""
    words = [word for word in data.split(b",") if word]
    result, missing = [], {b"uid": (uid_map, owner[0]), b"gid": (gid_map, owner[1])}
    for word in words:
        name, _, value = word.partition(b"=")
        if name in missing and value.isdigit():
            table, _ = missing.pop(name)
            word = b"%s=%d" % (name, map_outside(table, int(value)))
        result.append(word)
    return b",".join([*result, *(b"%s=%d" % (name, number) for name, (_, number) in missing.items())])


def mount(caller: Caller, addresses: tuple[int, int, int, int], flags: int, policy: dict[str, str], shift: bool) -> int:
    """Mount for the task; `addresses` are of source, target, file system and data, `policy` the programs by name."""
    source, target, kind, data = (caller.read_string(one) if one else b"" for one in addresses)
    caller.ensure_waiting()
    program = policy.get(os.fsdecode(kind))
    if program is None:
        raise NotOurs
    flags = without_magic(flags)
    if not caller.is_trusted_with(CAP_SYS_ADMIN):
        raise NotOurs
    try:
        if program:
            words = ",".join(word for word in (os.fsdecode(data), option_words(flags)) if word)
            _mount_by_program(caller, f"{program}#{os.fsdecode(source)}", os.fsdecode(target), words)
        else:
            _mount_by_kernel(caller, (source, target, kind, data), flags, shift)
    except OSError:
        # The kernel has the last word, and its error is the one that programs expect.
        raise NotOurs from None
    return 0


def _mount_by_kernel(caller: Caller, words: tuple[bytes, bytes, bytes, bytes], flags: int, shift: bool) -> None:
    source, target, kind, data = words
    who = caller.identity
    if kind == b"hugetlbfs":
        maps = caller.read_file("uid_map"), caller.read_file("gid_map")
        data = with_owner(data, *maps, (who.uid, who.gid))
        shift = False
    users = caller.open("ns/user")
    kernel.hide()
    caller.enter_mounts()
    os.setgroups(who.groups)
    os.setresgid(who.gid, who.gid, who.gid)
    kernel.keep_capabilities()
    os.setresuid(who.uid, who.uid, who.uid)
    kernel.libc.setfsgid(who.file_gid)
    kernel.libc.setfsuid(who.file_uid)
    kernel.set_capabilities(who.capabilities & kernel.permitted_capabilities())
    caller.ensure_waiting()
    if shift:
        with contextlib.suppress(_NotMappable):
            _mount_mapped(words, flags, users)
            return
    kernel.mount(source or None, target, kind, flags, data or None)


class _NotMappable(Exception):
    """The file system cannot be mounted with an id map."""


def _mount_mapped(words: tuple[bytes, bytes, bytes, bytes], flags: int, users: int) -> None:
    """Mount with the ids of the container's user namespace."""
    source, target, kind, data = words
    context = kernel.call(kernel.NR_FSOPEN, kind, 1)
    if source:
        _configure(context, _FSCONFIG_STRING, b"source", source)
    for word in (one for one in data.split(b",") if one):
        name, given, value = word.partition(b"=")
        _configure(context, _FSCONFIG_STRING if given else _FSCONFIG_FLAG, name, value if given else None)
    for bit, word in _SUPERBLOCK_WORDS.items():
        if flags & bit:
            _configure(context, _FSCONFIG_FLAG, word, None)
    _configure(context, _FSCONFIG_CREATE, None, None)
    attributes = sum(attribute for bit, attribute in _ATTRIBUTES.items() if flags & bit)
    tree = kernel.call(kernel.NR_FSMOUNT, context, 1, attributes)
    change = struct.pack("=QQQQ", _IDMAP, 0, 0, users)
    try:
        buffer = ctypes.create_string_buffer(change, len(change))
        kernel.call(kernel.NR_MOUNT_SETATTR, tree, b"", AT_EMPTY_PATH, buffer, len(change))
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise _NotMappable from error
        raise
    # By its descriptor, and through a link at the end of the target as mount(2) does.
    kernel.call(kernel.NR_MOVE_MOUNT, tree, b"", AT_FDCWD, target, 0x04 | 0x10)


def _configure(context: int, command: int, name: bytes | None, value: bytes | None) -> None:
    kernel.call(kernel.NR_FSCONFIG, context, command, name, value, 0)


def _mount_by_program(caller: Caller, source: str, target: str, options: str) -> None:
    """Have mount.fuse(8) of the container mount: as the task, as a process of the container."""
    argv = ["mount.fuse", source, target, *(["-o", options] if options else [])]
    groups = caller.read_file("cgroup")
    namespace = caller.open("ns/pid")
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    caller.ensure_waiting()
    kernel.setns(namespace, CLONE_NEWPID)
    pid = os.fork()
    if pid == 0:
        try:
            _join(groups)
            caller.become()
            os.setsid()
            for number in range(3):
                os.dup2(null, number)
            os.umask(0o022)
            for directory in _FUSE_PATH:
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    os.execve(f"{directory}/mount.fuse", argv, {"PATH": ":".join(_FUSE_PATH)})
        finally:
            os._exit(_NOT_EXECUTED)
    if os.waitpid(pid, 0)[1] != 0:
        raise OSError(errno.EPERM, "The program that mounts failed")


def _join(groups: str) -> None:
    """Be one of the container's processes to its limits: what the program leaves behind is the container's."""
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        for place in (controllers.removeprefix("name="), "unified", ""):
            if bool(controllers) != (place not in ("unified", "")):
                continue
            with contextlib.suppress(OSError):
                fd = os.open(f"/sys/fs/cgroup/{place}{path}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
                os.write(fd, b"0")
                os.close(fd)
