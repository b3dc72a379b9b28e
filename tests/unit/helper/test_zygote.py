"""The zygote's steps that need no container: control groups, search paths, exit codes."""

import errno
import os
from pathlib import Path

import pytest

from corral.helper import entering, zygote

OWNER = (os.getuid(), os.getgid())


def make_group(path: Path) -> Path:
    path.mkdir()
    for name in ("cgroup.procs", "cgroup.threads", "cgroup.subtree_control"):
        (path / name).touch()
    return path


def test_every_group_is_joined_and_missing_ones_are_passed_over(tmp_path: Path) -> None:
    group = make_group(tmp_path / "one")
    entering.join_cgroups([str(group), str(tmp_path / "missing")], OWNER)
    assert (group / "cgroup.procs").read_text() == "0"


def test_a_group_that_hands_its_controllers_on_is_joined_in_a_leaf(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = make_group(tmp_path / "one")
    make_group(group / ".lxc")
    plain = entering.write_procs

    def refuse(directory: str) -> None:
        if directory == str(group):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        plain(directory)

    monkeypatch.setattr(entering, "write_procs", refuse)
    entering.join_cgroups([str(group)], OWNER)
    assert (group / ".lxc" / "cgroup.procs").read_text() == "0"


def test_a_group_that_cannot_be_joined_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(directory: str) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(entering, "write_procs", refuse)
    with pytest.raises(entering.EnterFailed, match="Cannot allocate memory") as caught:
        entering.join_cgroups([str(tmp_path)], OWNER)
    assert caught.value.number == errno.ENOMEM


def test_what_cannot_be_executed_has_a_code(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no program")
    (tmp_path / "directory").mkdir()
    path = {"PATH": f"/nonexistent:{tmp_path}"}
    assert zygote.try_exec(["missing"], path) == 127
    assert zygote.try_exec([str(tmp_path / "missing")], path) == 127
    assert zygote.try_exec([str(tmp_path / "text" / "below")], path) == 127
    assert zygote.try_exec(["text"], path) == 126
    assert zygote.try_exec(["directory"], path) == 126


def test_the_version_2_group_is_the_one_without_threads_of_version_1(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for group in (first, second):
        group.mkdir()
        (group / "cgroup.procs").touch()
    (first / "tasks").touch()
    assert entering.find_unified([str(first), str(tmp_path / "missing"), str(second)]) == str(second)
    assert entering.find_unified([str(first)]) is None


def test_a_child_that_cannot_begin_in_a_group_is_not_made(tmp_path: Path) -> None:
    assert entering.fork_into(str(tmp_path / "missing")) is None
    assert entering.fork_into(str(tmp_path)) is None  # no control group
