"""Pseudo terminals in the devpts of a container, and the size of terminals."""

import contextlib
import fcntl
import os
import stat
import struct
import subprocess
import termios

from corral.server.host.filesystems import openat2

_TIOCSPTLCK = 0x40045431
_TIOCGPTPEER = 0x5441


def open_terminal(devpts: int, uid: int, gid: int) -> tuple[int, int]:
    """A new terminal (master, slave) in the devpts mount of a descriptor, owned by the host's ids `uid` and `gid`.

    Nothing is looked up by a path inside, so the container cannot put anything else in its place.
    """
    master = os.open("ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=devpts)
    try:
        fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("=i", 0))
        slave = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        os.close(master)
        raise
    with contextlib.suppress(OSError):
        os.fchown(slave, uid, gid)
    return master, slave


def identify(root: str, path: str) -> os.stat_result | None:
    """What is known of a terminal below a root directory that a guest may have filled; None where there is none."""
    try:
        fd = openat2.open_in_root(root, path, os.O_PATH)
    except OSError:
        return None
    try:
        found = os.fstat(fd)
    finally:
        os.close(fd)
    return found if stat.S_ISCHR(found.st_mode) else None


def discard_output(master: int) -> None:
    """Have a process read what is written to a terminal, as long as anybody has the terminal open."""
    command = ["setsid", "--fork", "cat"]
    subprocess.run(command, stdin=master, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True, timeout=10)


def set_size(terminal: int, width: int, height: int) -> None:
    """Set the size in characters; its programs get SIGWINCH."""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("=HHHH", height & 0xFFFF, width & 0xFFFF, 0, 0))
