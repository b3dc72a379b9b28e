"""Types and places of volumes."""

from pathlib import Path

import pytest

from corral.errors import InvalidRequest
from corral.product import LXD
from corral.server.context import Member
from corral.server.storage import custom, model, pools, volumes
from corral.server.storage.model import Pool, Volume, VolumeType

MEMBER = Member(LXD, "here", Path("/state"), Path("/state/logs"), Path("/state/cache"))
POOL = Pool(1, "p", "dir")


@pytest.mark.parametrize(
    ("kind", "project", "expected"),
    [
        (VolumeType.CONTAINER, "default", "containers/n"),
        (VolumeType.CONTAINER, "other", "containers/other_n"),
        (VolumeType.VM, "other", "virtual-machines/other_n"),
        (VolumeType.CUSTOM, "default", "custom/default_n"),
        (VolumeType.IMAGE, "default", "images/n"),
    ],
)
def test_where_volumes_lie(kind: VolumeType, project: str, expected: str) -> None:
    path = volumes.path(MEMBER, Volume(1, POOL, project, "n", kind))
    assert path == Path("/state/storage-pools/p") / expected
    assert model.snapshot_path(path, "s") == path.parent.with_name(f"{path.parent.name}-snapshots") / path.name / "s"


def test_types_have_the_numbers_of_the_database() -> None:
    assert {kind.value: kind.number for kind in VolumeType} == {
        "container": 0,
        "image": 1,
        "custom": 2,
        "virtual-machine": 3,
    }
    assert all(VolumeType.of_number(kind.number) is kind for kind in VolumeType)
    with pytest.raises(InvalidRequest, match="Invalid storage volume type name"):
        VolumeType.parse("disk")


def test_only_root_looks_into_instances() -> None:
    assert (VolumeType.CONTAINER.mode, VolumeType.IMAGE.mode, VolumeType.CUSTOM.mode) == (0o100, 0o711, 0o711)


@pytest.mark.parametrize("name", ["", "a/b", "a b", ".", "..", "-x", "x" * 201, "a\0b"])
def test_names_that_no_pool_can_have(name: str) -> None:
    with pytest.raises(InvalidRequest):
        pools.validate_name(name)


@pytest.mark.parametrize("name", ["", "a/b", "x" * 201, "a\0b"])
def test_names_that_no_custom_volume_can_have(name: str) -> None:
    with pytest.raises(InvalidRequest):
        custom.validate_name(name)


def test_names_that_are_good() -> None:
    for name in ("default", "a.b", "ü-1", "local_2"):
        pools.validate_name(name)
        custom.validate_name(name)
