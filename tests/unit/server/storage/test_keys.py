"""Config keys of pools and volumes."""

import pytest

from corral.errors import InvalidRequest
from corral.server.storage import keys
from corral.server.storage.drivers.btrfs import BtrfsDriver
from corral.server.storage.drivers.dir import DirDriver
from corral.server.storage.model import ContentType, VolumeType

FILES, BLOCK = ContentType.FILESYSTEM, ContentType.BLOCK
CONTAINER, CUSTOM, IMAGE = VolumeType.CONTAINER, VolumeType.CUSTOM, VolumeType.IMAGE


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"source": "/srv/pool", "user.note": "any: thing", "volume.size": "10GiB", "rsync.compression": "false"},
        {"volume.snapshots.schedule": "@daily", "volume.snapshots.expiry": "1w 2d", "volume.security.shifted": "true"},
        {"volume.snapshots.schedule": "0 6 * * *, @hourly"},
        {"volume.size": ""},
    ],
)
def test_good_pool_configs(config: dict[str, str]) -> None:
    keys.validate_pool(config, DirDriver.keys)
    keys.validate_pool({**config, "size": "5GiB", "btrfs.mount_options": "noatime"}, BtrfsDriver.keys)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"size": "1GiB"}, 'Invalid option "size"'),
        ({"volume.foo": "x"}, 'Invalid option "volume.foo"'),
        ({"rsync.bwlimit": "zz"}, 'Invalid value for option "rsync.bwlimit": Invalid value: zz'),
        ({"volume.snapshots.expiry": "soon"}, 'Invalid value for option "volume.snapshots.expiry": '),
        ({"volume.snapshots.schedule": "often"}, 'Invalid value for option "volume.snapshots.schedule": '),
        ({"volume.volatile.idmap.last": "[]"}, 'Invalid option "volume.volatile.idmap.last"'),
    ],
)
def test_bad_pool_configs(config: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        keys.validate_pool(config, DirDriver.keys)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("kind", "content", "config"),
    [
        (CUSTOM, FILES, {"size": "1GiB", "security.shifted": "true", "user.a": "b"}),
        (CUSTOM, BLOCK, {"size": "1GiB"}),
        (CONTAINER, FILES, {"volatile.idmap.last": "[]", "snapshots.expiry": "1d"}),
        (IMAGE, FILES, {"volatile.rootfs.size": "100"}),
    ],
)
def test_good_volume_configs(kind: VolumeType, content: ContentType, config: dict[str, str]) -> None:
    keys.validate_volume(config, "v", kind, content)


@pytest.mark.parametrize(
    ("kind", "content", "config", "message"),
    [
        (CUSTOM, FILES, {"foo": "x"}, 'Invalid option for volume "v" option "foo"'),
        (CUSTOM, FILES, {"size": "big"}, 'Invalid value for volume "v" option "size": '),
        (CONTAINER, FILES, {"size": "1GiB"}, 'Volume "size" property is not valid for volume type'),
        (CONTAINER, FILES, {"security.shifted": "true"}, 'Invalid option for volume "v" option "security.shifted"'),
        (CUSTOM, BLOCK, {"security.unmapped": "true"}, 'Invalid option for volume "v" option "security.unmapped"'),
        (
            CUSTOM,
            FILES,
            {"security.unmapped": "true", "security.shifted": "true"},
            "security.unmapped and security.shifted are mutually exclusive",
        ),
    ],
)
def test_bad_volume_configs(kind: VolumeType, content: ContentType, config: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        keys.validate_volume(config, "v", kind, content)
    assert str(caught.value).startswith(message)


def test_volumes_inherit_what_fits_them() -> None:
    pool = {"source": "/x", "volume.size": "1GiB", "volume.security.shifted": "true", "volume.snapshots.expiry": "1d"}
    assert keys.with_defaults({"size": "2GiB"}, pool, CUSTOM, FILES) == {
        "size": "2GiB",
        "security.shifted": "true",
        "snapshots.expiry": "1d",
    }
    assert keys.with_defaults({}, pool, CUSTOM, BLOCK) == {"size": "1GiB", "snapshots.expiry": "1d"}
    assert keys.with_defaults({}, pool, CONTAINER, FILES) == {"snapshots.expiry": "1d"}


def test_the_limit_of_a_volume() -> None:
    pool = {"volume.size": "1GiB"}
    assert keys.quota_of({}, pool, CONTAINER) == 2**30
    assert keys.quota_of({"size": "2GiB"}, pool, CONTAINER) == 2 * 2**30
    assert keys.quota_of({"size": "0"}, {}, CUSTOM) is None
    assert keys.quota_of({}, {}, CUSTOM) is None
    assert keys.quota_of({}, pool, IMAGE) is None


def test_names_are_quoted_as_go_does() -> None:
    assert keys.quoted('a"b\\ü') == '"a\\"b\\\\ü"'
