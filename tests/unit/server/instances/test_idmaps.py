"""Id maps: shared, isolated, by hand, none."""

from pathlib import Path

import pytest

from corral.errors import InvalidRequest, NotSupported
from corral.server.host.isolation.idmap import IdEntry, IdMap, IdRange, check_set_aside
from corral.server.instances.security import idmaps
from corral.server.instances.security.idmaps import HostIds, find_free, of_text, plan, to_text
from harness import records

HOST = HostIds(IdRange(100000, 1000000), IdRange(200000, 1000000))


def test_the_shared_map_is_the_whole_range() -> None:
    made = plan({}, HOST, ())
    assert made.base == 0
    assert made.volatile["volatile.idmap.next"] == (
        '[{"Isuid":true,"Isgid":false,"Hostid":100000,"Nsid":0,"Maprange":1000000},'
        '{"Isuid":false,"Isgid":true,"Hostid":200000,"Nsid":0,"Maprange":1000000}]'
    )
    assert of_text(to_text(made.idmap)) == made.idmap


def test_a_privileged_container_has_none() -> None:
    made = plan({"security.privileged": "true"}, HostIds(None, None), ())
    assert made.idmap is None
    assert made.volatile == {"volatile.idmap.next": "[]", "volatile.idmap.base": "0"}
    assert of_text("[]") is None
    assert of_text(None) is None


def test_without_ids_only_privileged_containers_run() -> None:
    with pytest.raises(NotSupported, match="no line"):
        plan({}, HostIds(None, None, "no line in /etc/subuid"), ())


def test_isolated_maps_do_not_overlap() -> None:
    first = plan({"security.idmap.isolated": "true"}, HOST, ())
    second = plan({"security.idmap.isolated": "true"}, HOST, [IdRange(first.base, 65536)])
    assert first.base == 165536
    assert second.base == 165536 + 65536
    assert second.idmap is not None
    assert second.idmap.outside_gid(0) == second.base


def test_a_gap_is_used_if_it_is_large_enough() -> None:
    host = IdRange(100000, 1000000)
    taken = [IdRange(165536, 65536), IdRange(300000, 65536)]
    assert find_free(host, 65536, taken) == IdRange(231072, 65536)
    assert find_free(host, 100000, taken) == IdRange(365536, 100000)
    with pytest.raises(InvalidRequest, match="Not enough uid/gid available"):
        find_free(host, 10**7, ())


def test_taken_are_the_ranges_on_record_and_those_that_run() -> None:
    isolated = {"security.idmap.isolated": "true"}
    before = to_text(plan({**isolated, "security.idmap.base": "300000"}, HOST, ()).idmap)
    shared = to_text(plan({"raw.idmap": "both 1000 400000"}, HOST, ()).idmap)
    found = idmaps.taken_ranges(
        [
            records.instance(name="a", config={**isolated, "volatile.idmap.base": "165536"}),
            records.instance(
                name="b", config={**isolated, "volatile.idmap.base": "500000", "security.idmap.size": "9"}
            ),
            # Its config has changed while it runs.
            records.instance(name="c", config={"volatile.idmap.current": before}),
            records.instance(name="d", config={"security.privileged": "true", "volatile.idmap.current": before}),
            records.instance(name="e", config={"volatile.idmap.current": shared}),
            records.instance(name="f", config={**isolated, "volatile.idmap.base": "1"}),
        ],
        HOST,
        "f",
    )
    assert set(found) == {IdRange(165536, 65536), IdRange(500000, 9), IdRange(300000, 65536)}
    planned = idmaps.Planned({1: IdRange(1, 2), 2: IdRange(3, 4)})
    assert planned.besides(1) == [IdRange(3, 4)]


def test_ids_of_the_host_are_set_aside_for_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    ids = HostIds(IdRange(100000, 65536), IdRange(100000, 65536))

    def check(raw: str, subuid: str = "root:100000:65536\n", subgid: str = "root:100000:65536\n") -> None:
        (tmp_path / "subuid").write_text(subuid)
        (tmp_path / "subgid").write_text(subgid)
        found = plan({"raw.idmap": raw}, ids, ()).idmap
        assert found is not None
        check_set_aside(found, tmp_path)

    check("")
    # Root's own id, as newuidmap(1) has it, and ranges that are adjacent.
    check("both 0 1000")
    check("", "root:100000:30000\nroot:130000:35536\n")
    check("uid 1000 1000", "root:100000:65536\nroot:1000:1\n")
    for raw in ("both 1000 1000", "uid 0-1 1000-1001", "gid 1000 1000"):
        with pytest.raises(InvalidRequest, match=r"add the line root:[01]"):
            check(raw)
    with pytest.raises(InvalidRequest, match="subgid does not set aside"):
        check("both 1000 1000", "root:100000:65536\nroot:1000:1\n")
    with pytest.raises(InvalidRequest, match="root:100000:65536"):
        check("", subgid="")
    (tmp_path / "subuid").unlink()
    with pytest.raises(InvalidRequest, match="root:100000:65536"):
        check_set_aside(IdMap((IdEntry(True, True, 100000, 0, 65536),)), tmp_path)
    monkeypatch.setattr("shutil.which", lambda name: None)
    check("both 1000 1000")


def test_base_and_size_by_hand() -> None:
    config = {"security.idmap.isolated": "true", "security.idmap.base": "500000", "security.idmap.size": "1000"}
    made = plan(config, HOST, ())
    assert made.base == 500000
    assert made.idmap is not None
    assert made.idmap.outside_uid(999) == 500999
    assert made.idmap.outside_uid(1000) is None


def test_raw_entries_win() -> None:
    made = plan({"raw.idmap": "both 1000 1000"}, HOST, ())
    assert made.idmap is not None
    assert made.idmap.outside_uid(1000) == 1000
    assert made.idmap.outside_uid(1001) == 101001


def test_an_id_of_the_host_has_one_meaning() -> None:
    with pytest.raises(InvalidRequest, match="Host id is in the range of subids"):
        plan({"raw.idmap": "uid 100001 1000"}, HOST, ())


def test_protected_keys_are_those_of_the_map() -> None:
    assert all(key.startswith("volatile.") for key in idmaps.PROTECTED)
