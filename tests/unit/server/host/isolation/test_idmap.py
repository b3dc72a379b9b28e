"""Id maps: translation, registers, raw lines, attributes of shifted files."""

import itertools
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.errors import InvalidRequest, NotSupported
from corral.server.host.isolation import idmap
from corral.server.host.isolation.idmap import IdEntry, IdMap, IdRange

SHIFTED = IdMap.of_range(IdRange(100_000, 65_536))
PLAIN = IdMap()


def test_translation_and_its_limits() -> None:
    assert SHIFTED.outside_uid(0) == 100_000
    assert SHIFTED.outside_uid(65_536) is None
    assert SHIFTED.inside_gid(100_005) == 5
    assert SHIFTED.inside_uid(99_999) is None
    assert PLAIN.outside_uid(7) == 7


@given(st.integers(0, 65_535))
def test_there_and_back(inside: int) -> None:
    outside = SHIFTED.outside_uid(inside)
    assert outside is not None
    assert SHIFTED.inside_uid(outside) == inside


def test_kinds_with_ranges_of_their_own() -> None:
    both = IdMap.of_range(IdRange(1000, 10), IdRange(2000, 10))
    assert (both.outside_uid(1), both.outside_gid(1)) == (1001, 2001)
    assert both.proc_map(uids=False) == "0 2000 10\n"
    assert both.lxc_lines() == ["lxc.idmap = u 0 1000 10", "lxc.idmap = g 0 2000 10"]


def test_an_added_line_cuts_its_place() -> None:
    changed = SHIFTED.with_entry(IdEntry(True, False, 1000, 1000, 1))
    assert changed.outside_uid(1000) == 1000
    assert changed.outside_uid(999) == 100_999
    assert changed.outside_uid(1001) == 101_001
    assert changed.outside_gid(1000) == 101_000


@given(st.integers(0, 70_000), st.integers(0, 70_000), st.integers(1, 5000), st.booleans())
def test_with_an_added_line_no_id_is_mapped_twice(outside: int, inside: int, size: int, gids: bool) -> None:
    changed = IdMap.of_range(IdRange(30_000, 65_536)).with_entry(IdEntry(True, gids, outside, inside, size))
    for starts in (
        [(e.inside, e.size) for e in changed.entries if e.uids],
        [(e.outside, e.size) for e in changed.entries if e.uids],
    ):
        ordered = sorted(starts)
        assert all(first[0] + first[1] <= second[0] for first, second in itertools.pairwise(ordered))
    assert changed.outside_uid(inside) == outside


def test_the_json_form_is_read_back() -> None:
    assert IdMap.from_json(SHIFTED.to_json()) == SHIFTED
    assert SHIFTED.to_json() == [{"Isuid": True, "Isgid": True, "Hostid": 100_000, "Nsid": 0, "Maprange": 65_536}]


def test_raw_lines() -> None:
    assert idmap.parse_raw_idmap("both 1000 0\n\nuid 50-60 500-510\n") == [
        IdEntry(True, True, 1000, 0, 1),
        IdEntry(True, False, 50, 500, 11),
    ]


@pytest.mark.parametrize("line", ["1000 0", "both 1 2 3", "user 1 1", "both 1-5 1-4", "uid x 1", "gid 5-1 5-1"])
def test_bad_raw_lines(line: str) -> None:
    with pytest.raises(InvalidRequest):
        idmap.parse_raw_idmap(line)


def test_registers() -> None:
    text = "# comment\nother:1:2\nroot:100000:65536\nroot:x:y\n0:300000:70000 # by id\n"
    assert idmap.parse_subids(text) == [IdRange(100_000, 65_536), IdRange(300_000, 70_000)]


def test_without_the_tools_there_is_a_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert idmap.get_default_ranges(tmp_path) == (IdRange(1_000_000, 1_000_000_000),) * 2


def test_with_the_tools_the_registers_decide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    (tmp_path / "subuid").write_text("root:5:10\nroot:500000:65536\n")
    (tmp_path / "subgid").write_text("root:600000:65536\n")
    assert idmap.get_default_ranges(tmp_path) == (IdRange(500_000, 65_536), IdRange(600_000, 65_536))
    (tmp_path / "subgid").write_text("")
    with pytest.raises(NotSupported, match="subgid"):
        idmap.get_default_ranges(tmp_path)


def test_capabilities_change_their_version_with_their_root() -> None:
    plain = struct.pack("<IIIII", 0x02000001, 0x2000, 0, 0, 0)
    owned = idmap.shift_capability(plain, PLAIN, SHIFTED)
    assert struct.unpack("<IIIIII", owned) == (0x03000001, 0x2000, 0, 0, 0, 100_000)
    assert idmap.shift_capability(owned, SHIFTED, PLAIN) == plain


def test_acls_keep_all_but_named_ids() -> None:
    acl = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", *entry) for entry in ((1, 7, 0xFFFFFFFF), (2, 4, 33), (8, 5, 44))
    )
    shifted = idmap.shift_acl(acl, PLAIN, SHIFTED)
    assert struct.unpack_from("<HHI", shifted, 4) == (1, 7, 0xFFFFFFFF)
    assert struct.unpack_from("<HHI", shifted, 12) == (2, 4, 100_033)
    assert struct.unpack_from("<HHI", shifted, 20) == (8, 5, 100_044)
