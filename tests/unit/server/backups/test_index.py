"""What backups say of themselves: indexes, headers of streams, names of members."""

import pytest

from corral.errors import InvalidRequest, NotSupported
from corral.server.backups.index import CONTAINER, CUSTOM, parse_index, parse_parts, render_header, stream_name
from corral.server.storage.driver import SentPart

INDEX = """
name: c1
backend: dir
pool: default
snapshots: [snap0]
optimized: false
type: container
config:
  container:
    architecture: x86_64
    config: {user.a: "1"}
    created_at: 2022-01-01T00:00:00Z
    devices: {}
    ephemeral: false
    profiles: [default]
    name: c1
  snapshots:
  - {name: snap0, created_at: 2022-01-01T00:00:00.5Z, expires_at: 0001-01-01T00:00:00Z, config: {}, devices: {}}
  pool: null
  volume: {name: c1, config: {}}
"""


def test_an_index_of_lxd_is_read() -> None:
    index = parse_index(INDEX, CONTAINER)
    assert index.config is not None
    assert index.config.container is not None
    assert index.config.container.config == {"user.a": "1"}
    assert index.config.snapshots is not None
    assert index.config.snapshots[0].created_at == "2022-01-01T00:00:00.5Z"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", InvalidRequest),
        ("[", InvalidRequest),
        ("name: c1", InvalidRequest),
        (INDEX.replace("type: container", "type: custom"), InvalidRequest),
        (INDEX.replace("type: container", "type: virtual-machine"), NotSupported),
        (INDEX.replace("[snap0]", "[snap0, snap1]"), InvalidRequest),
        (INDEX.replace('{user.a: "1"}', "5"), InvalidRequest),
        ("a: &a [x]\nb: [*a, *a]\n" + INDEX, InvalidRequest),
    ],
)
def test_bad_indexes(text: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        parse_index(text, CONTAINER)


HEADER = """
subvolumes:
- {path: /, snapshot: "", readonly: false, uuid: b}
- {path: /rootfs/x-y, snapshot: "", readonly: true, uuid: c}
- {path: /, snapshot: snap0, readonly: true, uuid: a}
"""


def test_the_parts_of_an_optimized_backup_come_in_the_order_of_the_snapshots() -> None:
    parts = parse_parts(parse_index(INDEX, CONTAINER), HEADER)
    assert [(part.snapshot, part.path, part.readonly) for part in parts] == [
        ("snap0", "/", True),
        ("", "/", False),
        ("", "/rootfs/x-y", True),
    ]
    assert [part.snapshot for part in parse_parts(parse_index(INDEX, CONTAINER), None)] == ["snap0", ""]


@pytest.mark.parametrize(
    "header",
    [
        "",
        "subvolumes: 1",
        HEADER.replace("/rootfs/x-y", "/rootfs/../../x"),
        HEADER.replace("/rootfs/x-y", "rootfs"),
        HEADER.replace("snap0", "snap1"),
        HEADER.replace("/rootfs/x-y", "/"),
        "subvolumes: [{path: /, snapshot: snap0}]",
    ],
)
def test_bad_headers(header: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_parts(parse_index(INDEX, CONTAINER), header)


def test_a_header_that_is_announced_must_be_there() -> None:
    index = parse_index(INDEX + "optimized_header: true\n", CONTAINER)
    with pytest.raises(InvalidRequest, match="missing"):
        parse_parts(index, None)


@pytest.mark.parametrize(
    ("kind", "snapshot", "path", "name"),
    [
        (CONTAINER, "", "/", "backup/container.bin"),
        (CONTAINER, "snap0", "/", "backup/snapshots/snap0.bin"),
        (CONTAINER, "", "/rootfs/a-b", "backup/container_rootfs-a--b.bin"),
        (CUSTOM, "", "/", "backup/volume.bin"),
        (CUSTOM, "s", "/x", "backup/volume-snapshots/s_x.bin"),
    ],
)
def test_streams_have_the_names_of_lxd(kind: str, snapshot: str, path: str, name: str) -> None:
    assert stream_name(kind, snapshot, path) == name


def test_a_header_says_what_was_sent() -> None:
    parts = [SentPart("snap0", "/", True, "a", ()), SentPart("", "/", False, "b", ())]
    assert render_header(parts) == {
        "subvolumes": [
            {"path": "/", "snapshot": "snap0", "readonly": True, "uuid": "a"},
            {"path": "/", "snapshot": "", "readonly": False, "uuid": "b"},
        ]
    }


def test_names_of_volume_snapshots_with_the_volume_before_them() -> None:
    text = """
name: v
type: custom
snapshots: [snap0]
config: {volume: {name: v}, volume_snapshots: [{name: v/snap0}]}
"""
    config = parse_index(text, CUSTOM).config
    assert config is not None
    assert config.volume_snapshots is not None
    assert config.volume_snapshots[0].name == "snap0"
