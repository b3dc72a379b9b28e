"""The requests of the files helper, on a temporary directory."""

import json
import os
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from corral.helper import files


def ask(op: str, path: Path, **more: Any) -> tuple[Any, list[int]]:
    return files.OPERATIONS[op]({"op": op, "path": str(path), **more})


def test_facts_are_of_the_link_itself(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    (tmp_path / "file").write_text("abc")
    assert ask("stat", tmp_path / "link")[0]["type"] == "symlink"
    assert ask("readlink", tmp_path / "link")[0] == "/etc/passwd"
    facts = ask("stat", tmp_path / "file")[0]
    assert (facts["type"], facts["size"]) == ("file", 3)
    assert ask("stat", tmp_path)[0]["type"] == "directory"


def test_new_files_get_their_mode_and_old_ones_keep_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    answer, (fd,) = ask("write", path, append=False, mode=0o600, uid=None, gid=None)
    os.write(fd, b"one")
    os.close(fd)
    assert answer == {"new": True}
    answer, (fd,) = ask("write", path, append=False, mode=0o777, uid=None, gid=None)
    os.write(fd, b"2")
    os.close(fd)
    assert answer == {"new": False}
    assert path.read_text() == "2"
    assert path.stat().st_mode & 0o777 == 0o600


def test_appending_needs_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(FileNotFoundError):
        ask("write", path, append=True)
    path.write_text("a")
    _, (fd,) = ask("write", path, append=True)
    os.write(fd, b"b")
    os.close(fd)
    assert path.read_text() == "ab"


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="Not a regular file"):
        ask("read", tmp_path / "fifo")
    with pytest.raises(IsADirectoryError):
        ask("read", tmp_path)


def test_directories_and_links_are_made_once(tmp_path: Path) -> None:
    assert ask("mkdir", tmp_path / "d", mode=None)[0] == {"new": True}
    assert (tmp_path / "d").stat().st_mode & 0o777 == 0o750
    assert ask("mkdir", tmp_path / "d", mode=0o700)[0] == {"new": False}
    assert ask("symlink", tmp_path / "l", target="d")[0] == {"new": True}
    assert ask("symlink", tmp_path / "l", target="d")[0] == {"new": False}
    with pytest.raises(FileExistsError):
        ask("symlink", tmp_path / "l", target="other")


def test_removing(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").touch()
    (tmp_path / "l").symlink_to("d")
    with pytest.raises(OSError, match="not empty"):
        ask("remove", tmp_path / "d")
    ask("remove", tmp_path / "l")
    ask("remove", tmp_path / "d" / "f")
    ask("remove", tmp_path / "d")
    assert list(tmp_path.iterdir()) == []


def test_the_loop_answers_errors_and_large_lists(tmp_path: Path) -> None:
    for number in range(2000):
        (tmp_path / f"{'x' * 100}{number}").touch()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server = threading.Thread(target=files.serve, args=(theirs.detach(),))
    server.start()
    with ours:
        ours.send(json.dumps({"op": "stat", "path": str(tmp_path / "missing")}).encode())
        assert json.loads(ours.recv(65536)) == {"error": "No such file or directory", "errno": 2}
        ours.send(b'{"op": "nonsense", "path": "/"}')
        assert json.loads(ours.recv(65536))["errno"] == 22
        ours.send(json.dumps({"op": "list", "path": str(tmp_path)}).encode())
        message, (memfd,), _, _ = socket.recv_fds(ours, 65536, 2)
        assert json.loads(message) == {"memfd": 1}
        with open(memfd, "rb") as answer:
            assert len(json.load(answer)["ok"]) == 2000
        ours.shutdown(socket.SHUT_RDWR)
    server.join(10)
    assert not server.is_alive()
