"""The priority of a container's traffic."""

from pathlib import Path

import pytest

from corral.errors import InvalidRequest
from corral.server.host.isolation.cgroup import Cgroup, Hierarchies
from corral.server.instances.limits.network_priority import set_priority


def test_it_is_set_for_each_interface(tmp_path: Path) -> None:
    (tmp_path / "c1").mkdir()
    file = tmp_path / "c1/net_prio.ifpriomap"
    file.touch()
    group = Cgroup(Hierarchies({"net_prio": tmp_path}, None), {"net_prio": "/c1"}, None)
    set_priority(group, 7, "c1", ["lo", "eth0"])
    assert file.read_text() == "eth0 7"
    file.unlink()
    set_priority(group, 7, "c1", [])
    with pytest.raises(InvalidRequest, match="network priority of c1"):
        set_priority(group, 7, "c1", ["lo"])
