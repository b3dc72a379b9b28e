"""Watching directories for names that come and go (inotify(7))."""

import ctypes
import errno
import os

from corral.server.host import syscalls

_libc = ctypes.CDLL(None, use_errno=True)

_ATTRIB, _MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x4, 0x40, 0x80, 0x100, 0x200
_DELETE_SELF, _MOVE_SELF, _ONLYDIR = 0x400, 0x800, 0x01000000
_MASK = _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _DELETE_SELF | _MOVE_SELF | _ONLYDIR


class Watcher:
    """Watches the nearest directories that exist above a set of paths; `fd` becomes readable when they change."""

    def __init__(self) -> None:
        self.fd = _libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self.fd < 0:
            syscalls.raise_errno()
        self._watches: dict[str, int] = {}

    def watch(self, paths: set[str]) -> None:
        """Watch for these paths from now on. Raises OSError ENOSPC where the user's watches are used up."""
        wanted = {directory for path in paths for directory in nearest(path)}
        for directory in [one for one in self._watches if one not in wanted]:
            _libc.inotify_rm_watch(self.fd, self._watches.pop(directory))
        for directory in wanted:
            # Again also for one that is watched: it may be another directory of the same name.
            number = _libc.inotify_add_watch(self.fd, os.fsencode(directory), _MASK)
            if number >= 0:
                self._watches[directory] = number
            elif ctypes.get_errno() not in (errno.ENOENT, errno.ENOTDIR):
                syscalls.raise_errno(directory)

    def drain(self) -> None:
        """Take the news; what changed is found by looking."""
        while True:
            try:
                os.read(self.fd, 65536)
            except BlockingIOError:
                return

    def close(self) -> None:
        """Watch nothing any more."""
        os.close(self.fd)


def nearest(path: str) -> list[str]:
    """The directory of a path or the nearest one above it that exists; with the one above, where it may vanish."""
    directory = os.path.dirname(os.path.abspath(path))
    while not os.path.isdir(directory):
        directory = os.path.dirname(directory)
    return [directory] if directory == "/" else [directory, os.path.dirname(directory)]
