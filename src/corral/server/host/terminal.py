"""Pseudo terminals in the devpts of a container, and the size of terminals."""

import contextlib
import fcntl
import os
import struct
import termios

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


def set_size(terminal: int, width: int, height: int) -> None:
    """Set the size in characters; its programs get SIGWINCH."""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("=HHHH", height & 0xFFFF, width & 0xFFFF, 0, 0))
