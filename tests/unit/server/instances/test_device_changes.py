"""Changes of devices: the pure parts."""

from pathlib import Path

import pytest

from corral.server.instances.attachments import device_changes, device_journal
from corral.server.instances.attachments.device_journal import Journal
from corral.server.instances.model import Devices, Instance, InstanceType
from corral.server.networks.model import NetworkType

NIC = {"type": "nic", "nictype": "p2p"}


def test_what_runs_is_the_daemons() -> None:
    old = {
        "volatile.a.host_name": "veth1",
        "volatile.a.last_state.mtu": "1500",
        "volatile.a.hwaddr": "x",
        "user.a": "1",
    }
    stale = {"volatile.a.host_name": "veth0", "volatile.b.host_name": "veth2", "volatile.a.hwaddr": "y", "user.b": "2"}
    assert device_changes.with_what_runs(old, stale) == {
        "volatile.a.host_name": "veth1",
        "volatile.a.last_state.mtu": "1500",
        "volatile.a.hwaddr": "y",
        "user.b": "2",
    }


def journal(*, prepared: bool) -> Journal:
    before, after = {"a": NIC}, {"a": {**NIC, "name": "eth5"}, "b": NIC}
    return Journal(before, after, {}, {}, {"volatile.a.host_name": "v0"}, {"volatile.b.host_name": "v1"}, [], prepared)


def test_a_note_survives_its_file(tmp_path: Path) -> None:
    directory = tmp_path / "devices" / "c1"
    assert device_journal.find(directory) is None
    device_journal.write(directory, journal(prepared=True))
    assert device_journal.find(directory) == journal(prepared=True)
    device_journal.remove(directory)
    assert not directory.exists()


def test_a_note_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    (tmp_path / "changing").write_text('{"before": 1}')
    assert device_journal.find(tmp_path) is None


def test_before_all_is_prepared_nothing_came_in() -> None:
    assert [name for name, _, _ in journal(prepared=False).plugged] == ["a"]
    assert [name for name, _, _ in journal(prepared=True).plugged] == ["a", "b", "a"]
    assert journal(prepared=False).names == {"a", "b"}


def instance(devices: Devices, config: dict[str, str]) -> Instance:
    return Instance(
        id=1,
        project="default",
        name="c1",
        type=InstanceType.CONTAINER,
        architecture=2,
        ephemeral=False,
        stateful=False,
        created_at="",
        last_used_at="",
        description="",
        pending="",
        config=config,
        devices=devices,
        profiles=(),
        expanded_config=config,
        expanded_devices=devices,
    )


KEPT = {"volatile.a.hwaddr": "00:16:3e:00:00:01", "volatile.a.name": "eth0", "volatile.b.hwaddr": "00:16:3e:00:00:02"}
NETWORKS = {"br": NetworkType.BRIDGE, "mac": NetworkType.MACVLAN}


@pytest.mark.parametrize(
    ("before", "after", "gone"),
    [
        ({"nictype": "p2p"}, {"nictype": "bridged", "parent": "x"}, ["volatile.a.hwaddr", "volatile.a.name"]),
        ({"nictype": "bridged", "parent": "x"}, {"network": "br"}, []),
        ({"nictype": "bridged", "parent": "x"}, {"network": "mac"}, ["volatile.a.hwaddr", "volatile.a.name"]),
        ({"network": "mac"}, {"nictype": "macvlan", "parent": "x"}, []),
        ({"nictype": "p2p"}, {"nictype": "p2p", "mtu": "1400", "name": "eth5"}, ["volatile.a.name"]),
        ({"nictype": "p2p"}, None, ["volatile.a.hwaddr", "volatile.a.name"]),
    ],
)
def test_what_a_nic_forgets(before: dict[str, str], after: dict[str, str] | None, gone: list[str]) -> None:
    old = instance({"a": {"type": "nic", **before}}, KEPT)
    new = instance({} if after is None else {"a": {"type": "nic", **after}}, KEPT)
    assert sorted(device_changes.volatile_to_forget(old, new, device_changes.plan(old, new), NETWORKS)) == gone
