"""Loop devices (loop(4)): files as block devices."""

import errno
import fcntl
import os
import struct
from pathlib import Path

_CTL_GET_FREE = 0x4C82
_CONFIGURE = 0x4C0A
_CLR_FD = 0x4C01
_SET_STATUS64 = 0x4C04
_GET_STATUS64 = 0x4C05
_SET_CAPACITY = 0x4C07
_SET_DIRECT_IO = 0x4C08
_INFO64 = struct.Struct("=5Q4I64s64s32s2Q")
_READ_ONLY, _AUTOCLEAR, _PARTSCAN, _DIRECT_IO = 1, 4, 8, 16
_ATTEMPTS = 32


def attach(
    backing_file: str | Path, *, autoclear: bool = True, direct_io: bool = False, read_only: bool = False
) -> tuple[str, int]:
    """Attach a file to a free loop device; returns its path and an open descriptor of it.

    With `autoclear` the kernel detaches the file when the last user (mount or descriptor) goes. `direct_io` is a
    wish: where the file system below cannot, the device works without.
    """
    mode = os.O_RDONLY if read_only else os.O_RDWR
    backing = os.open(backing_file, mode | os.O_CLOEXEC)
    try:
        flags = (_AUTOCLEAR if autoclear else 0) | (_READ_ONLY if read_only else 0)
        for _ in range(_ATTEMPTS):
            device = _free_device()
            fd = os.open(device, mode | os.O_CLOEXEC)
            try:
                _configure(fd, backing, str(backing_file), flags)
            except OSError as error:
                os.close(fd)
                if error.errno != errno.EBUSY:
                    raise
                continue
            if direct_io:
                set_direct_io(fd, True)
            return device, fd
    finally:
        os.close(backing)
    raise OSError(errno.EBUSY, "No free loop device", str(backing_file))


def _free_device() -> str:
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        number = fcntl.ioctl(control, _CTL_GET_FREE)
    finally:
        os.close(control)
    device = f"/dev/loop{number}"
    if not os.path.exists(device):
        # A container's own /dev has no new nodes by itself.
        os.mknod(device, 0o660 | 0o060000, os.makedev(7, number))
    return device


def _configure(fd: int, backing: int, name: str, flags: int) -> None:
    info = _INFO64.pack(0, 0, 0, 0, 0, 0, 0, 0, flags, os.fsencode(name)[:63], b"", b"", 0, 0)
    fcntl.ioctl(fd, _CONFIGURE, struct.pack("=II", backing, 0) + info + bytes(64))


def detach(device: str | Path) -> None:
    """Detach the file of a device (at once, or when its last user goes)."""
    fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _CLR_FD)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
    finally:
        os.close(fd)


def set_direct_io(fd: int, direct_io: bool) -> bool:
    """Switch direct I/O; says whether the file system below agreed."""
    try:
        fcntl.ioctl(fd, _SET_DIRECT_IO, int(direct_io))
    except OSError:
        return False
    return True


def refresh_capacity(device: str | Path) -> None:
    """Take over the grown size of the backing file."""
    fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _SET_CAPACITY)
    finally:
        os.close(fd)


def find_devices(backing_file: str | Path) -> list[str]:
    """The loop devices whose backing file is this file."""
    try:
        wanted = os.stat(backing_file)
    except FileNotFoundError:
        return []
    found = []
    for entry in Path("/sys/block").glob("loop*/loop/backing_file"):
        device = f"/dev/{entry.parent.parent.name}"
        if _backs(device, wanted):
            found.append(device)
    return sorted(found)


def _backs(device: str, wanted: os.stat_result) -> bool:
    info = bytearray(_INFO64.size)
    try:
        fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.ioctl(fd, _GET_STATUS64, info)
    except OSError:
        return False
    finally:
        os.close(fd)
    # The kernel reports the device number in its huge encoding: minor's low byte, major, rest of minor.
    number, inode = struct.unpack_from("=QQ", info)
    major, minor = (number >> 8) & 0xFFF, (number & 0xFF) | ((number >> 12) & 0xFFF00)
    return inode == wanted.st_ino and os.makedev(major, minor) == wanted.st_dev
