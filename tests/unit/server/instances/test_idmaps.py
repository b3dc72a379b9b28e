"""Id maps: shared, isolated, by hand, none."""

import pytest

from corral.errors import InvalidRequest, NotSupported
from corral.server.host.isolation.idmap import IdRange
from corral.server.instances.security import idmaps
from corral.server.instances.security.idmaps import HostIds, find_free, of_text, plan, to_text

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
