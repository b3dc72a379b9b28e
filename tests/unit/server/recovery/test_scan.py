"""What a scan of a pool takes for a volume, and what it says is missing."""

import os
from pathlib import Path

import pytest

from corral.errors import InvalidRequest
from corral.server.backups.index import Description, IndexedInstance
from corral.server.projects.model import Project
from corral.server.recovery.scan import Found, Known, missing, read_text, split_name
from corral.server.storage.model import Pool, VolumeType

POOL = Pool(1, "pool", "dir")
DEFAULT = Project(1, "default", "", {"features.profiles": "true", "features.networks": "true"})
SHARING = Project(2, "shares", "", {"features.profiles": "false", "features.networks": "false"})


def known(*projects: Project) -> Known:
    return Known(
        frozenset(),
        frozenset(),
        {one.name: one for one in projects},
        frozenset({("default", "default")}),
        frozenset({("default", "br0")}),
    )


def found(project: str, profiles: list[str], network: str = "") -> Found:
    devices = {"eth0": {"type": "nic", "network": network}} if network else {}
    description = Description(container=IndexedInstance(name="c1", profiles=profiles, expanded_devices=devices))
    return Found(POOL, project, "c1", VolumeType.CONTAINER, (), description)


def test_what_is_there_is_not_missing() -> None:
    wanted = [found("default", ["default"], "br0"), found("shares", ["default"], "br0")]
    assert missing(wanted, known(DEFAULT, SHARING)) == []


def test_what_is_missing_is_told_once() -> None:
    wanted = [found("default", ["a"], "br1"), found("default", ["a"]), found("gone", ["a"])]
    assert missing(wanted, known(DEFAULT)) == [
        'Profile "a" in project "default"',
        'Network "br1" in project "default"',
        'Project "gone"',
    ]


def test_custom_volumes_need_their_project_alone() -> None:
    assert missing([Found(POOL, "gone", "v", VolumeType.CUSTOM, ())], known(DEFAULT)) == ['Project "gone"']


@pytest.mark.parametrize(
    ("name", "parts"), [("c1", ("default", "c1")), ("p_c1", ("p", "c1")), ("default_a_b", ("default", "a_b"))]
)
def test_names_on_the_disk(name: str, parts: tuple[str, str]) -> None:
    assert split_name(VolumeType.CONTAINER, name) == parts


def test_only_regular_files_of_bounded_size_are_read(tmp_path: Path) -> None:
    (tmp_path / "good").write_text("x: 1")
    assert read_text(tmp_path, "good") == "x: 1"
    (tmp_path / "link").symlink_to("good")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(bytes((8 << 20) + 1))
    (tmp_path / "directory").mkdir()
    for name in ("link", "pipe", "large", "directory", "none"):
        with pytest.raises((OSError, InvalidRequest)):
            read_text(tmp_path, name)
    (tmp_path / "elsewhere").symlink_to(tmp_path)
    with pytest.raises(OSError, match="Not a directory"):
        read_text(tmp_path / "elsewhere", "good")
