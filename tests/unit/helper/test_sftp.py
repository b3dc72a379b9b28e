"""The SFTP server, spoken to over a socket pair on a temporary directory."""

import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from corral.helper import sftp


def text(value: bytes | str) -> bytes:
    return sftp.pack_text(value.encode() if isinstance(value, str) else value)


class SftpClient:
    """Sends packets and reads their answers."""

    def __init__(self, end: socket.socket) -> None:
        self.stream = end.makefile("rwb")

    def send(self, kind: int, body: bytes, number: int = 7) -> tuple[int, bytes]:
        packet = struct.pack(">BI", kind, number) + body
        self.stream.write(struct.pack(">I", len(packet)) + packet)
        self.stream.flush()
        size = struct.unpack(">I", self.stream.read(4))[0]
        answer = self.stream.read(size)
        assert struct.unpack_from(">I", answer, 1)[0] == number
        return answer[0], answer[5:]

    def status(self, kind: int, body: bytes) -> int:
        answered, payload = self.send(kind, body)
        assert answered == sftp.STATUS
        return int(struct.unpack_from(">I", payload)[0])

    def open(self, path: Path, flags: int, attributes: bytes = struct.pack(">I", 0)) -> bytes:
        kind, handle = self.send(sftp.OPEN, text(str(path)) + struct.pack(">I", flags) + attributes)
        assert kind == sftp.HANDLE
        return handle


@pytest.fixture
def client() -> Iterator[SftpClient]:
    ours, theirs = socket.socketpair()
    fd = theirs.detach()

    def serve() -> None:
        sftp.serve(fd)
        os.close(fd)

    server = threading.Thread(target=serve)
    server.start()
    with ours:
        client = SftpClient(ours)
        yield client
        client.stream.close()
        ours.shutdown(socket.SHUT_RDWR)
    server.join(10)
    assert not server.is_alive()


def test_version_and_extensions(client: SftpClient) -> None:
    client.stream.write(struct.pack(">IBI", 5, sftp.INIT, 3))
    client.stream.flush()
    size = struct.unpack(">I", client.stream.read(4))[0]
    answer = client.stream.read(size)
    assert struct.unpack_from(">BI", answer) == (sftp.VERSION, 3)
    assert b"posix-rename@openssh.com" in answer


def test_writing_and_reading_at_offsets(client: SftpClient, tmp_path: Path) -> None:
    mode = struct.pack(">II", sftp.ATTR_PERMISSIONS, 0o600)
    handle = client.open(tmp_path / "file", sftp.FXF_WRITE | sftp.FXF_CREAT | sftp.FXF_TRUNC, mode)
    assert client.status(sftp.WRITE, handle + struct.pack(">Q", 6) + text("world")) == sftp.OK
    assert client.status(sftp.WRITE, handle + struct.pack(">Q", 0) + text("hello ")) == sftp.OK
    assert client.status(sftp.CLOSE, handle) == sftp.OK
    assert (tmp_path / "file").read_bytes() == b"hello world"
    assert (tmp_path / "file").stat().st_mode & 0o7777 == 0o600
    handle = client.open(tmp_path / "file", sftp.FXF_READ)
    assert client.send(sftp.READ, handle + struct.pack(">QI", 6, 100)) == (sftp.DATA, text("world"))
    assert client.status(sftp.READ, handle + struct.pack(">QI", 11, 100)) == sftp.EOF
    assert client.status(sftp.WRITE, handle + struct.pack(">Q", 0) + text("x")) == sftp.FAILURE


def test_listing_a_directory(client: SftpClient, tmp_path: Path) -> None:
    for number in range(150):
        (tmp_path / f"file{number}").touch()
    _, handle = client.send(sftp.OPENDIR, text(str(tmp_path)))
    names = 0
    while True:
        kind, payload = client.send(sftp.READDIR, handle)
        if kind == sftp.STATUS:
            assert struct.unpack_from(">I", payload)[0] == sftp.EOF
            break
        names += struct.unpack_from(">I", payload)[0]
    assert names == 152


def test_links_take_the_target_first(client: SftpClient, tmp_path: Path) -> None:
    link = tmp_path / "link"
    assert client.status(sftp.SYMLINK, text("the/target") + text(str(link))) == sftp.OK
    assert os.readlink(link) == "the/target"
    kind, payload = client.send(sftp.READLINK, text(str(link)))
    assert kind == sftp.NAME
    assert payload[4:].startswith(text("the/target"))


def test_paths_are_made_absolute_without_leaving_the_root(client: SftpClient) -> None:
    for asked, expected in ((".", "/"), ("/a/../../b", "/b"), ("", "/"), ("//x//y/", "/x/y")):
        _, payload = client.send(sftp.REALPATH, text(asked))
        assert payload[4:].startswith(text(expected))


def test_renames(client: SftpClient, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("1")
    two.write_text("2")
    both = text(str(one)) + text(str(two))
    assert client.status(sftp.RENAME, both) == sftp.FAILURE
    assert client.status(sftp.EXTENDED, text("posix-rename@openssh.com") + both) == sftp.OK
    assert two.read_text() == "1"


def test_attributes(client: SftpClient, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("content")
    wanted = struct.pack(">IQIII", sftp.ATTR_SIZE | sftp.ATTR_PERMISSIONS | sftp.ATTR_ACMODTIME, 3, 0o640, 10, 20)
    assert client.status(sftp.SETSTAT, text(str(path)) + wanted) == sftp.OK
    status = path.stat()
    assert (status.st_size, status.st_mode & 0o777, status.st_mtime) == (3, 0o640, 20)
    assert client.send(sftp.STAT, text(str(path))) == (sftp.ATTRS, sftp.pack_attributes(path.stat()))


def test_errors_have_their_status(client: SftpClient, tmp_path: Path) -> None:
    assert client.status(sftp.STAT, text(str(tmp_path / "missing"))) == sftp.NO_SUCH_FILE
    assert client.status(sftp.RMDIR, text(str(tmp_path / "missing"))) == sftp.NO_SUCH_FILE
    assert client.status(99, b"") == sftp.OP_UNSUPPORTED
    assert client.status(sftp.OPEN, b"\0") == sftp.BAD_MESSAGE
    assert client.status(sftp.READ, text("none") + struct.pack(">QI", 0, 1)) == sftp.FAILURE
    assert client.status(sftp.EXTENDED, text("unknown@example.com")) == sftp.OP_UNSUPPORTED


def test_a_fifo_is_not_opened(client: SftpClient, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert client.status(sftp.OPEN, text(str(tmp_path / "fifo")) + struct.pack(">II", sftp.FXF_READ, 0)) == sftp.FAILURE


def test_the_file_system(client: SftpClient, tmp_path: Path) -> None:
    kind, payload = client.send(sftp.EXTENDED, text("statvfs@openssh.com") + text(str(tmp_path)))
    assert kind == sftp.EXTENDED_REPLY
    assert struct.unpack_from(">Q", payload)[0] == os.statvfs(tmp_path).f_bsize
