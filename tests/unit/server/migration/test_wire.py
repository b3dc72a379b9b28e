"""The messages of the migration protocol."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.errors import InvalidRequest
from corral.server.migration import trees, wire
from corral.server.migration.records import idmap_to_json, to_seconds, to_time
from corral.server.migration.wire import Control, Header, IdRange, SnapshotRecord

SNAPSHOT = SnapshotRecord(
    "snap0",
    {"user.a": "b", "limits.cpu": "2"},
    ("default", "more"),
    True,
    {"root": {"type": "disk", "path": "/"}, "none": {}},
    2,
    False,
    1_700_000_000,
    0,
    -62_135_596_800,
)


def test_a_header_as_protobuf_has_it() -> None:
    header = Header(rsync=frozenset({wire.XATTRS, wire.BIDIRECTIONAL}), snapshot_names=("a",), index_version=1)
    # fs=0, snapshotNames="a", predump=0, rsyncFeatures={1,0,0,1}, refresh=0, indexHeaderVersion=1
    assert wire.encode_header(header).hex() == "080022016138004208080110001800200148006801"


def test_headers_survive() -> None:
    header = Header(
        criu=wire.CRIU_NONE,
        idmap=(IdRange(True, False, 1_000_000, 0, 65536),),
        snapshot_names=("snap0",),
        snapshots=(SNAPSHOT,),
        rsync=frozenset({wire.XATTRS, wire.DELETE, wire.LINKS_AND_ACLS, wire.BIDIRECTIONAL}),
        refresh=True,
        index_version=1,
    )
    decoded = wire.decode_header(wire.encode_header(header))
    assert decoded == header


def test_control_messages_survive() -> None:
    for control in (Control(True), Control(False, "disk full")):
        assert wire.decode_control(wire.encode_control(control)) == control


def test_unknown_fields_are_left_alone() -> None:
    unknown = bytes.fromhex("d20c03616263") + bytes.fromhex("a13f0102030405060708") + bytes.fromhex("ad3f01020304")
    assert wire.decode_header(wire.encode_header(Header()) + unknown) == Header()


@pytest.mark.parametrize(
    "data",
    [b"\x22", b"\x22\x05ab", b"\x08", b"\x08" + b"\xff" * 11, b"\x0b", b"\x22\x01\xff", b"\x0a\x01a", b"\x28\x01"],
)
def test_broken_messages_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidRequest):
        wire.decode_header(data)


@given(st.binary(max_size=200))
def test_whatever_comes_is_decoded_or_refused(data: bytes) -> None:
    try:
        wire.decode_header(data)
    except InvalidRequest:
        return


def test_features_are_those_of_both_sides() -> None:
    ours = trees.offered({})
    assert wire.COMPRESS not in trees.offered({"rsync.compression": "false"})
    # Another server knows nothing of ours, and one that does not negotiate has what the oldest had.
    theirs = frozenset({wire.XATTRS, wire.BIDIRECTIONAL})
    assert trees.common(ours, theirs) == theirs
    assert trees.common(ours, None) == trees.common(ours, frozenset({wire.XATTRS})) == {1, 2, 3}
    assert trees.options(frozenset({wire.DELETE})) == ["--delete"]
    assert trees.options(ours)[-3:] == ["--checksum", "--hard-links", "--acls"]


def test_times_and_maps() -> None:
    assert to_time(to_seconds("2026-01-31T12:00:00Z")) == "2026-01-31T12:00:00Z"
    assert to_seconds("0001-01-01T00:00:00Z") == to_seconds(None) == to_seconds("nonsense") == 0
    assert to_time(-62_135_596_800) is None
    assert to_time(1 << 62) is None
    assert idmap_to_json([]) == "[]"
    with pytest.raises(InvalidRequest):
        idmap_to_json([IdRange(True, True, -1, 0, 65536)])
