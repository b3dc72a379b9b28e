"""Owners that are changed on the disk: whole or undone, also when the process dies in the middle."""

import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import remove_instance
from corral.helper.fuidshift import main as fuidshift
from corral.helper.idmap import IdMap, IdRange
from corral.helper.shift import shift_tree, target_of, undo_shift
from harness.daemon import Daemon

NEW = IdMap.of_range(IdRange(700_000, 65_536))
CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)
ACL = struct.pack("<I", 2) + struct.pack("<HHI", 1, 6, 0xFFFFFFFF) + struct.pack("<HHI", 2, 4, 33)
ACL += struct.pack("<HHI", 4, 4, 0xFFFFFFFF) + struct.pack("<HHI", 16, 4, 0xFFFFFFFF)
ACL += struct.pack("<HHI", 32, 4, 0xFFFFFFFF)

Picture = dict[str, tuple[int, int, int, bytes, bytes]]


def make_tree(root: Path, count: int) -> None:
    """A tree with all that has owners: links, set-uid programs, capabilities, ACLs, names that are no text."""
    root.mkdir()
    for number in range(count):
        directory = root / f"d{number % 7}"
        directory.mkdir(exist_ok=True)
        file = directory / f"f{number}"
        file.write_bytes(b"x")
        os.chown(file, number % 5, number % 3)
        if number % 10 == 0:
            file.chmod(0o4755)
        if number % 11 == 0:
            os.setxattr(file, "security.capability", CAPABILITY)
        if number % 13 == 0:
            os.setxattr(file, "system.posix_acl_access", ACL)
        if number % 17 == 0:
            os.link(file, root / f"hard{number}")
    (root / "soft").symlink_to("/etc/passwd")
    os.mkdir(os.fsencode(root) + b"/\xff\xfe")


def picture(root: Path) -> Picture:
    """The owners of everything in a tree."""
    found = {}
    for directory, names, files in os.walk(root):
        for name in (*names, *files, "."):
            path = os.path.join(directory, name)
            status = os.lstat(path)
            is_link = os.path.islink(path)
            present = () if is_link else os.listxattr(path)
            extra = [
                os.getxattr(path, one) if one in present else b""
                for one in ("security.capability", "system.posix_acl_access")
            ]
            found[path] = (status.st_uid, status.st_gid, status.st_mode, *extra)
    return found  # type: ignore[return-value]


_CHILD = """
import sys
from pathlib import Path
from corral.helper.fuidshift import main as fuidshift
from corral.helper.idmap import IdMap, IdRange
from corral.helper.shift import shift_tree
print("now", flush=True)
shift_tree(Path(sys.argv[1]), IdMap(), IdMap.of_range(IdRange(700_000, 65_536)), Path(sys.argv[2]))
print("done", flush=True)
"""


@pytest.mark.parametrize("delay_ms", [0, 3, 8, 20])
def test_killed_in_the_middle(tmp_path: Path, delay_ms: int) -> None:
    root, journal = tmp_path / "root", tmp_path / "journal"
    make_tree(root, 800)
    before = picture(root)
    child = subprocess.Popen([sys.executable, "-c", _CHILD, root, journal], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    time.sleep(delay_ms / 1000)
    child.kill()
    child.communicate()
    if journal.exists():
        assert undo_shift(journal)
    assert not journal.exists()
    assert picture(root) == before
    # And again, whole.
    shift_tree(root, IdMap(), NEW, journal)
    assert target_of(journal) == NEW
    after = picture(root)
    assert all(after[path][0] == owners[0] + 700_000 for path, owners in before.items())
    undo_shift(journal)
    assert picture(root) == before


def test_an_id_that_has_no_place_changes_nothing(tmp_path: Path) -> None:
    root, journal = tmp_path / "root", tmp_path / "journal"
    make_tree(root, 200)
    os.chown(root / "d6" / "f6", 70_000, 0)
    before = picture(root)
    with pytest.raises(OSError, match="no place"):
        shift_tree(root, IdMap(), NEW, journal)
    assert picture(root) == before
    assert not journal.exists()


def test_what_was_exchanged_meanwhile_is_left_alone(tmp_path: Path) -> None:
    root, journal = tmp_path / "root", tmp_path / "journal"
    make_tree(root, 20)
    victim = tmp_path / "victim"
    victim.touch()
    os.chown(victim, 5, 5)
    shift_tree(root, IdMap(), NEW, journal)
    (root / "d0" / "f0").unlink()
    (root / "d0" / "f0").symlink_to(victim)
    (root / "d1").rename(root / "moved")
    (root / "d1").symlink_to(tmp_path)
    undo_shift(journal)
    assert victim.stat().st_uid == 5


def test_a_tree_that_is_away(tmp_path: Path) -> None:
    root, journal = tmp_path / "root", tmp_path / "journal"
    make_tree(root, 20)
    before = picture(root)
    shift_tree(root, IdMap(), NEW, journal)
    root.rename(tmp_path / "away")
    assert not undo_shift(journal)
    (tmp_path / "away").rename(root)
    assert undo_shift(journal)
    assert picture(root) == before


def test_fuidshift(tmp_path: Path) -> None:
    root = tmp_path / "root"
    make_tree(root, 50)
    before = picture(root)
    assert fuidshift(["fuidshift", str(root), "b:0:700000:65536"]) == 0
    assert (root / "d0" / "f0").stat().st_uid == 700_000
    assert fuidshift(["fuidshift", "--reverse", str(root), "b:0:700000:65536"]) == 0
    assert picture(root) == before


def test_a_daemon_that_dies_while_it_shifts(make_daemon: Callable[[], Daemon], busybox_image: Path) -> None:
    daemon = make_daemon()
    daemon.extra["LXD_IDMAPPED_MOUNTS_DISABLE"] = "1"
    daemon.start()
    daemon.set_up("dir")
    with daemon.api() as api:
        api.upload_image(busybox_image, "busybox")
    for delay_ms in (5, 15, 40):
        _kill_in_shift(daemon, delay_ms)
    daemon.empty()
    daemon.stop()


def _kill_in_shift(daemon: Daemon, delay_ms: int) -> None:
    with daemon.api() as api:
        api.create("victim", "busybox")
        pool = api.get("/1.0/profiles/default")["devices"]["root"]["pool"]
        root = daemon.state_dir / "storage-pools" / pool / "containers" / "victim" / "rootfs"
        for number in range(1500):
            (root / f"file{number}").touch()
        api.start("PUT", "/1.0/instances/victim/state", {"action": "start"})
    time.sleep(delay_ms / 1000)
    daemon.kill()
    daemon.start()
    with daemon.api() as api:
        assert list((daemon.state_dir / "shifts").glob("*")) == []
        owners = {os.lstat(root / f"file{number}").st_uid for number in range(1500)}
        assert len(owners) == 1
        recorded = api.get("/1.0/instances/victim")["config"]["volatile.last_state.idmap"]
        assert (recorded == "[]") == (owners == {0})
        if api.get("/1.0/instances/victim")["status"] != "Running":
            api.set_state("victim", "start")
        assert api.execute("victim", "test", "-O", "/file7") == 0
        assert os.lstat(root / "file7").st_uid > 0
        remove_instance(api, "victim")
