"""An SFTP server, version 3 (draft-ietf-secsh-filexfer-02), on a stream socket without SSH around it.

It serves the root directory of its process with the rights of its process; the caller entered the instance before.
Like OpenSSH it takes the arguments of SYMLINK in the order target, link; it knows posix-rename, hardlink, fsync and
statvfs of OpenSSH's extensions.
"""

import errno
import os
import stat
import struct
import time
from collections.abc import Callable
from typing import BinaryIO

MAX_PACKET = 1 << 20
MAX_READ = 256 * 1024
MAX_HANDLES = 1024
NAMES_PER_REPLY = 100

INIT, VERSION = 1, 2
OPEN, CLOSE, READ, WRITE, LSTAT, FSTAT, SETSTAT, FSETSTAT, OPENDIR, READDIR = range(3, 13)
REMOVE, MKDIR, RMDIR, REALPATH, STAT, RENAME, READLINK, SYMLINK = range(13, 21)
STATUS, HANDLE, DATA, NAME, ATTRS = range(101, 106)
EXTENDED, EXTENDED_REPLY = 200, 201

OK, EOF, NO_SUCH_FILE, PERMISSION_DENIED, FAILURE, BAD_MESSAGE = range(6)
OP_UNSUPPORTED = 8

FXF_READ, FXF_WRITE, FXF_APPEND, FXF_CREAT, FXF_TRUNC, FXF_EXCL = 1, 2, 4, 8, 16, 32
ATTR_SIZE, ATTR_UIDGID, ATTR_PERMISSIONS, ATTR_ACMODTIME, ATTR_EXTENDED = 1, 2, 4, 8, 0x80000000

EXTENSIONS = (
    (b"posix-rename@openssh.com", b"1"),
    (b"statvfs@openssh.com", b"2"),
    (b"fstatvfs@openssh.com", b"2"),
    (b"hardlink@openssh.com", b"1"),
    (b"fsync@openssh.com", b"1"),
)


class BadPacket(Exception):
    """A packet that ends too early."""


class Reader:
    """The fields of one packet, in order."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)

    def number(self, layout: str) -> int:
        """A fixed-size number, `layout` as in struct."""
        size = struct.calcsize(layout)
        if len(self._data) < size:
            raise BadPacket
        value = struct.unpack_from(layout, self._data)[0]
        self._data = self._data[size:]
        return int(value)

    def u32(self) -> int:
        """A 32-bit number."""
        return self.number(">I")

    def u64(self) -> int:
        """A 64-bit number."""
        return self.number(">Q")

    def text(self) -> bytes:
        """A string with its length."""
        size = self.u32()
        if len(self._data) < size:
            raise BadPacket
        value = bytes(self._data[:size])
        self._data = self._data[size:]
        return value

    def path(self) -> bytes:
        """A path; the empty one is the directory where a session starts."""
        value = self.text() or b"."
        if b"\0" in value:
            raise BadPacket
        return value

    def attributes(self) -> "Attributes":
        """File attributes."""
        return Attributes(self)


class Attributes:
    """The attributes that a client sets; None where it does not."""

    def __init__(self, reader: Reader) -> None:
        flags = reader.u32()
        self.size = reader.u64() if flags & ATTR_SIZE else None
        self.owner = (reader.u32(), reader.u32()) if flags & ATTR_UIDGID else None
        self.mode = reader.u32() & 0o7777 if flags & ATTR_PERMISSIONS else None
        self.times = (reader.u32(), reader.u32()) if flags & ATTR_ACMODTIME else None
        if flags & ATTR_EXTENDED:
            for _ in range(reader.u32()):
                reader.text()
                reader.text()

    def apply(self, target: int | bytes) -> None:
        """Set them on an open file or a path."""
        if self.size is not None:
            os.truncate(target, self.size)
        if self.owner is not None:
            os.chown(target, *self.owner)
        if self.mode is not None:
            os.chmod(target, self.mode)
        if self.times is not None:
            os.utime(target, self.times)


def pack_text(value: bytes) -> bytes:
    """A string with its length."""
    return struct.pack(">I", len(value)) + value


def pack_attributes(status: os.stat_result) -> bytes:
    """A stat result."""
    flags = ATTR_SIZE | ATTR_UIDGID | ATTR_PERMISSIONS | ATTR_ACMODTIME
    times = (int(moment) & 0xFFFFFFFF for moment in (status.st_atime, status.st_mtime))
    return struct.pack(">IQIIIII", flags, status.st_size, status.st_uid, status.st_gid, status.st_mode, *times)


def format_long_name(name: bytes, status: os.stat_result) -> bytes:
    """The line of `ls -l` that version 3 puts beside each name."""
    moment = time.strftime("%b %d %H:%M", time.gmtime(status.st_mtime))
    head = f"{stat.filemode(status.st_mode)} {status.st_nlink:4} {status.st_uid:8} {status.st_gid:8}"
    return f"{head} {status.st_size:8} {moment} ".encode() + name


def status_of(error: OSError) -> int:
    """The status code for an error."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return NO_SUCH_FILE
    return PERMISSION_DENIED if error.errno in (errno.EACCES, errno.EPERM) else FAILURE


def open_flags(wanted: int) -> int:
    """open(2) flags for a client's."""
    access = {FXF_READ: os.O_RDONLY, FXF_WRITE: os.O_WRONLY}.get(wanted & (FXF_READ | FXF_WRITE), os.O_RDWR)
    flags = access | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    for bit, flag in ((FXF_APPEND, os.O_APPEND), (FXF_CREAT, os.O_CREAT), (FXF_EXCL, os.O_EXCL)):
        flags |= flag if wanted & bit else 0
    return flags


def link_itself(source: bytes, target: bytes) -> None:
    """A hard link, also to a symbolic link."""
    os.link(source, target, follow_symlinks=False)


class OpenFile:
    """A file handle."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def close(self) -> None:
        """Close it."""
        os.close(self.fd)


class OpenDirectory:
    """A directory handle: the names that were not sent yet."""

    def __init__(self, path: bytes) -> None:
        self.path = path
        self.names = [b".", b"..", *sorted(os.listdir(path))]

    def close(self) -> None:
        """Forget the names."""
        self.names = []


Reply = tuple[int, bytes]


class Session:
    """One client."""

    def __init__(self, source: BinaryIO, sink: BinaryIO) -> None:
        self._source = source
        self._sink = sink
        self._handles: dict[bytes, OpenFile | OpenDirectory] = {}
        self._next = 0
        self._operations: dict[int, Callable[[Reader], Reply]] = {
            OPEN: self._open,
            CLOSE: self._close,
            READ: self._read,
            WRITE: self._write,
            LSTAT: lambda packet: (ATTRS, pack_attributes(os.lstat(packet.path()))),
            STAT: lambda packet: (ATTRS, pack_attributes(os.stat(packet.path()))),
            FSTAT: lambda packet: (ATTRS, pack_attributes(os.fstat(self._file(packet)))),
            SETSTAT: self._set_attributes,
            FSETSTAT: self._set_file_attributes,
            OPENDIR: self._open_directory,
            READDIR: self._read_directory,
            REMOVE: lambda packet: self._act(os.unlink, packet.path()),
            MKDIR: self._make_directory,
            RMDIR: lambda packet: self._act(os.rmdir, packet.path()),
            REALPATH: self._real_path,
            RENAME: self._rename,
            READLINK: self._read_link,
            SYMLINK: lambda packet: self._act(os.symlink, packet.text(), packet.path()),
            EXTENDED: self._extended,
        }

    def serve(self) -> None:
        """Answer packets until the client hangs up."""
        while True:
            packet = self._receive()
            if packet is None:
                return
            kind, body = packet[0], packet[1:]
            if kind == INIT:
                extensions = b"".join(pack_text(name) + pack_text(value) for name, value in EXTENSIONS)
                self._send(VERSION, struct.pack(">I", 3) + extensions)
                continue
            reader = Reader(body)
            number = reader.u32()
            kind, payload = self._answer(kind, reader)
            self._send(kind, struct.pack(">I", number) + payload)

    def _receive(self) -> bytes | None:
        head = self._source.read(4)
        if len(head) < 4:
            return None
        size = struct.unpack(">I", head)[0]
        if not 0 < size <= MAX_PACKET:
            return None
        packet = self._source.read(size)
        return packet if len(packet) == size else None

    def _send(self, kind: int, payload: bytes) -> None:
        self._sink.write(struct.pack(">IB", len(payload) + 1, kind))
        self._sink.write(payload)
        self._sink.flush()

    def _answer(self, kind: int, reader: Reader) -> Reply:
        operation = self._operations.get(kind)
        if operation is None:
            return self._status(OP_UNSUPPORTED, "Operation unsupported")
        try:
            return operation(reader)
        except BadPacket:
            return self._status(BAD_MESSAGE, "Bad message")
        except EOFError:
            return self._status(EOF, "EOF")
        except OSError as error:
            return self._status(status_of(error), error.strerror or str(error))
        except (ValueError, OverflowError) as error:
            return self._status(FAILURE, str(error))

    def _status(self, code: int, text: str) -> Reply:
        return STATUS, struct.pack(">I", code) + pack_text(text.encode()) + pack_text(b"")

    def _done(self) -> Reply:
        return self._status(OK, "")

    def _act(self, function: Callable[..., object], *args: object) -> Reply:
        function(*args)
        return self._done()

    # Handles

    def _add(self, opened: OpenFile | OpenDirectory) -> Reply:
        if len(self._handles) >= MAX_HANDLES:
            opened.close()
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        self._next += 1
        name = str(self._next).encode()
        self._handles[name] = opened
        return HANDLE, pack_text(name)

    def _file(self, packet: Reader) -> int:
        opened = self._handles.get(packet.text())
        if not isinstance(opened, OpenFile):
            raise OSError(errno.EBADF, "Not an open file")
        return opened.fd

    def _open(self, packet: Reader) -> Reply:
        path, wanted = packet.path(), packet.u32()
        attributes = packet.attributes()
        mode = 0o644 if attributes.mode is None else attributes.mode
        fd = os.open(path, open_flags(wanted), mode)
        try:
            kind = os.fstat(fd).st_mode
            if not stat.S_ISREG(kind):
                raise OSError(errno.EINVAL, "Is a directory" if stat.S_ISDIR(kind) else "Not a regular file")
            os.set_blocking(fd, True)
            if wanted & FXF_TRUNC:
                os.ftruncate(fd, 0)
        except OSError:
            os.close(fd)
            raise
        return self._add(OpenFile(fd))

    def _close(self, packet: Reader) -> Reply:
        opened = self._handles.pop(packet.text(), None)
        if opened is None:
            raise OSError(errno.EBADF, "Not an open handle")
        opened.close()
        return self._done()

    def _read(self, packet: Reader) -> Reply:
        fd, offset, size = self._file(packet), packet.u64(), packet.u32()
        data = os.pread(fd, min(size, MAX_READ), offset)
        if not data:
            raise EOFError
        return DATA, pack_text(data)

    def _write(self, packet: Reader) -> Reply:
        fd, offset, data = self._file(packet), packet.u64(), memoryview(packet.text())
        while data:
            written = os.pwrite(fd, data, offset)
            data, offset = data[written:], offset + written
        return self._done()

    def _set_attributes(self, packet: Reader) -> Reply:
        path = packet.path()
        packet.attributes().apply(path)
        return self._done()

    def _set_file_attributes(self, packet: Reader) -> Reply:
        fd = self._file(packet)
        packet.attributes().apply(fd)
        return self._done()

    # Directories and names

    def _open_directory(self, packet: Reader) -> Reply:
        return self._add(OpenDirectory(packet.path()))

    def _read_directory(self, packet: Reader) -> Reply:
        opened = self._handles.get(packet.text())
        if not isinstance(opened, OpenDirectory):
            raise OSError(errno.EBADF, "Not an open directory")
        entries: list[bytes] = []
        while opened.names and len(entries) < NAMES_PER_REPLY:
            name = opened.names.pop(0)
            try:
                status = os.lstat(os.path.join(opened.path, name))
            except FileNotFoundError:
                continue
            entries.append(pack_text(name) + pack_text(format_long_name(name, status)) + pack_attributes(status))
        if not entries:
            raise EOFError
        return NAME, struct.pack(">I", len(entries)) + b"".join(entries)

    def _make_directory(self, packet: Reader) -> Reply:
        path = packet.path()
        attributes = packet.attributes()
        os.mkdir(path, 0o755 if attributes.mode is None else attributes.mode)
        return self._done()

    def _real_path(self, packet: Reader) -> Reply:
        # Made absolute without following links, as the server of the Go library does.
        return self._name(os.path.normpath(os.path.join(b"/", packet.path())).replace(b"//", b"/"))

    def _read_link(self, packet: Reader) -> Reply:
        return self._name(os.readlink(packet.path()))

    def _name(self, name: bytes) -> Reply:
        return NAME, struct.pack(">I", 1) + pack_text(name) + pack_text(name) + struct.pack(">I", 0)

    def _rename(self, packet: Reader) -> Reply:
        source, target = packet.path(), packet.path()
        if os.path.lexists(target):
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        os.rename(source, target)
        return self._done()

    def _extended(self, packet: Reader) -> Reply:
        name = packet.text()
        if name == b"posix-rename@openssh.com":
            return self._act(os.replace, packet.path(), packet.path())
        if name == b"hardlink@openssh.com":
            return self._act(link_itself, packet.path(), packet.path())
        if name == b"fsync@openssh.com":
            return self._act(os.fsync, self._file(packet))
        if name == b"statvfs@openssh.com":
            return EXTENDED_REPLY, self._file_system(os.statvfs(packet.path()))
        if name == b"fstatvfs@openssh.com":
            return EXTENDED_REPLY, self._file_system(os.statvfs(self._file(packet)))
        return self._status(OP_UNSUPPORTED, "Operation unsupported")

    def _file_system(self, status: os.statvfs_result) -> bytes:
        numbers = (
            status.f_bsize,
            status.f_frsize,
            status.f_blocks,
            status.f_bfree,
            status.f_bavail,
            status.f_files,
            status.f_ffree,
            status.f_favail,
            status.f_fsid,
            status.f_flag,
            status.f_namemax,
        )
        return struct.pack(">11Q", *(number & 0xFFFFFFFFFFFFFFFF for number in numbers))


def serve(channel: int) -> None:
    """Serve one client on a stream socket until it hangs up."""
    with open(channel, "rb", closefd=False) as source, open(channel, "wb", closefd=False) as sink:
        try:
            Session(source, sink).serve()
        except (BrokenPipeError, ConnectionResetError):
            return
