"""What NICs note of the interfaces that they take of the host."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from corral.product import LXD
from corral.server.context import Context, Member
from corral.server.devices.model import DeviceContext
from corral.server.devices.nic import loans, parents, vlans
from corral.server.devices.nic.loans import Loan
from corral.server.host.network.rtnetlink import Link

ETHERNET = 0x1003
LOOPBACK = 0x49


def device(directory: Path, **volatile: str) -> DeviceContext:
    member = Member(LXD, "here", directory, directory / "logs", directory / "cache")
    context = cast("Context", SimpleNamespace(member=member))
    return DeviceContext(context, "default", "c1", "c1", "eth-0", {}, volatile)


def test_a_note_counts_more_than_what_the_instance_remembers(tmp_path: Path) -> None:
    remembered = {"host_name": "eth5", "last_state.created": "false", "last_state.mtu": "1500"}
    one = device(tmp_path)
    assert loans.find(one, {}) is None
    # What a plug chose a name for, and had not done yet, is no loan.
    assert loans.find(one, {"host_name": "veth1234"}) is None
    assert loans.find(one, {**remembered, "last_state.hwaddr": "0a:00:00:00:00:01"}) == Loan(
        "eth5", mac="0a:00:00:00:00:01", mtu=1500
    )
    noted = loans.note(one, "lo")
    assert (noted.link, noted.card) == ("lo", "")
    assert loans.find(one, remembered) == noted
    loans.forget(one)
    loans.forget(one)
    assert loans.find(one, {}) is None
    assert not one.devices_dir.exists()


def test_a_note_that_cannot_be_read(tmp_path: Path) -> None:
    one = device(tmp_path)
    one.devices_dir.mkdir(parents=True)
    for text in ("", "{", '{"no": 1}'):
        (one.devices_dir / "lent.eth--0").write_text(text)
        assert loans.find(one, {}) is None


def test_the_interface_is_known_by_its_name_or_its_number() -> None:
    loan = Loan("eth5", index=7)
    lo, named, same = Link(7, "lo", LOOPBACK), Link(2, "eth0", ETHERNET), Link(7, "other", ETHERNET)
    assert loans.choose([lo, same, named], "eth0", loan) is named
    assert loans.choose([lo, same], "eth0", loan) is same
    assert loans.choose([lo], "eth0", loan) is None
    assert loans.choose([Link(0, "x", ETHERNET)], "eth0", Loan("eth5")) is None


async def test_the_interface_of_a_vlan_is_noted_before_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = device(tmp_path)
    made: list[str] = []
    removed: list[str] = []
    config = {"parent": "lo", "vlan": "5"}

    def ensure(parent: str, vlan: str, *, gvrp: bool) -> bool:
        assert loans.find_vlan(one) == "lo.5"
        made.append(f"{parent}.{vlan}")
        if len(made) == 1:
            raise OSError(95, "no VLANs here")
        return len(made) == 2

    monkeypatch.setattr(vlans, "ensure_interface", ensure)
    monkeypatch.setattr(vlans, "remove_interface", removed.append)
    with pytest.raises(OSError, match="no VLANs"):
        await parents.ensure(one, config)
    await parents.release(one)
    assert removed == []
    assert await parents.ensure(one, config) == ("lo.5", True)
    # Whatever the record says: what was made goes, once.
    await parents.release(one)
    await parents.release(one)
    assert removed == ["lo.5"]
    # Another one made it in the meantime: it is not ours to remove.
    assert await parents.ensure(one, config) == ("lo.5", False)
    await parents.release(one)
    assert removed == ["lo.5"]
    assert await parents.ensure(one, {"parent": "lo"}) == ("lo", False)
