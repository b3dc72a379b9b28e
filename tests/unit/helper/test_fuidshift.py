"""The ranges of fuidshift, and what it tells."""

import os
from pathlib import Path

import pytest

from corral.errors import InvalidRequest
from corral.helper.fuidshift import main, parse_ranges, target_of


@pytest.mark.parametrize(
    "texts",
    [
        ["b:0"],
        ["x:0:0:0"],
        ["u:0:0:0"],
        ["u:a:0:1"],
        ["u:-1:0:1"],
        ["u:0:4294967295:1"],
        ["u:0:0:1:1"],
        ["u:0:100000:10", "b:5:200000:10"],
        ["u:0:100000:10", "u:20:100005:10"],
    ],
)
def test_bad_ranges(texts: list[str]) -> None:
    with pytest.raises(InvalidRequest):
        parse_ranges(texts)


def test_ranges_of_users_and_of_groups() -> None:
    idmap = parse_ranges(["u:0:100000:10", "g:0:200000:10", "b:10:300000:5"])
    assert target_of(idmap, 0, 9, reverse=False) == (100000, 200009)
    assert target_of(idmap, 12, 12, reverse=False) == (300002, 300002)
    assert target_of(idmap, 15, 20, reverse=False) == (-1, -1)
    assert target_of(idmap, 100003, 200000, reverse=True) == (3, 0)
    assert target_of(idmap, 0, 0, reverse=True) == (-1, -1)


def test_a_test_changes_nothing_and_tells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "x1"
    file.touch()
    uid, gid = os.getuid(), os.getgid()
    assert main(["fuidshift", str(file), "-t", f"u:{uid}:100000:1", f"g:{gid}:100000:1"]) == 0
    assert capsys.readouterr().out == f'I would shift "{file}" to 100000 100000\n'
    assert file.stat().st_uid == uid


@pytest.mark.parametrize(
    "words",
    [["/nonexistent", "-t", "b:0:1:1"], ["/tmp", "-t"], ["/tmp", "-t", "b:0"], ["/tmp", "--wrong", "b:0:1:1"]],
)
def test_wrong_arguments(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fuidshift", *words]) == 1
    assert capsys.readouterr().err.startswith("Error: ")


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fuidshift"]) == 0
    assert "fuidshift <directory>" in capsys.readouterr().out
