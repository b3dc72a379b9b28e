"""openat2(2): opening paths that were planted by somebody else, without leaving a root directory."""

import os
import struct

from corral.server.host import syscalls

RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

_HOW = struct.Struct("=QQQ")


def openat2(directory: int, path: str, flags: int, *, mode: int = 0, resolve: int = RESOLVE_IN_ROOT) -> int:
    """Open a path below a directory descriptor; by default its root is that directory for links too.

    Raises OSError: EXDEV for an escape with RESOLVE_BENEATH, ELOOP for a forbidden link, EAGAIN after a race.
    """
    how = _HOW.pack(flags | os.O_CLOEXEC, mode, resolve | RESOLVE_NO_MAGICLINKS)
    return syscalls.call(syscalls.NR_OPENAT2, directory, os.fsencode(path), how, len(how), path=path)


def open_in_root(root: str | os.PathLike[str], path: str, flags: int, *, mode: int = 0) -> int:
    """Open a path as if `root` were "/"."""
    directory = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return openat2(directory, path.lstrip("/") or ".", flags, mode=mode)
    finally:
        os.close(directory)
