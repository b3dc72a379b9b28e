"""Files of reservations: their text, conflicts, and what is kept when they are written anew."""

from pathlib import Path

import pytest

from corral.errors import Conflict, InvalidRequest
from corral.server.context import Context
from corral.server.db import rows
from corral.server.db.database import Tx
from corral.server.networks import reservations
from corral.server.networks.model import Network, NetworkType
from corral.server.networks.reservations import Reservation

MAC = "00:16:3e:11:22:33"
NETWORK = Network(
    1, "default", "br0", NetworkType.BRIDGE, config={"ipv4.address": "10.1.2.1/24", "ipv6.address": "fd42:1::1/64"}
)
C1 = Reservation("c1", "eth0", MAC, "c1", ipv4="10.1.2.20", ipv6="fd42:1::20")


def hosts(context: Context) -> dict[str, str]:
    directory = context.member.networks_dir / "br0" / "dnsmasq.hosts"
    return {path.name: path.read_text() for path in directory.iterdir()} if directory.exists() else {}


def insert_instance(tx: Tx, name: str, device: dict[str, str]) -> None:
    instance = tx.execute(
        "INSERT INTO instances (node_id, name, architecture, type, creation_date, project_id)"
        " VALUES (1, ?, 2, 0, '', 1)",
        name,
    )
    rows.write_config(tx, "instances_config", "instance_id", instance, {"volatile.eth0.hwaddr": MAC})
    rows.write_devices(tx, "instance", instance, {"eth0": {"type": "nic", "network": "br0", **device}})


@pytest.mark.parametrize(
    ("reservation", "mode", "line"),
    [
        (C1, "managed", f"{MAC},10.1.2.20,[fd42:1::20],c1"),
        (C1, "none", f"{MAC},10.1.2.20,[fd42:1::20]"),
        (Reservation("c1", "eth0", MAC.upper(), "c1.p"), "", f"{MAC},c1.p"),
        (Reservation("c1", "eth0", MAC, "c1"), "dynamic", None),
    ],
)
def test_the_line(reservation: Reservation, mode: str, line: str | None) -> None:
    assert reservations.format_line(reservation, mode) == line


def test_a_line_is_read_back() -> None:
    hwaddr, addresses = reservations.parse_line(f"{MAC},10.1.2.20,[fd42:1::20],c1\n")
    assert (hwaddr, [str(address) for address in addresses]) == (MAC, ["10.1.2.20", "fd42:1::20"])


def test_file_names_hold_no_slash() -> None:
    assert Reservation("p_c1", "eth-0/1", MAC, "c1.p").file_name == "p_c1.eth--0-1"


async def test_reserve_and_release(context: Context) -> None:
    await reservations.reserve(context, NETWORK, C1)
    assert hosts(context) == {"c1.eth0": f"{MAC},10.1.2.20,[fd42:1::20],c1\n"}
    await reservations.release(context, NETWORK, "c1", "eth0", MAC)
    await reservations.release(context, NETWORK, "c1", "eth0", MAC)
    assert hosts(context) == {}


async def test_two_instances_cannot_have_one_address(context: Context) -> None:
    await reservations.reserve(context, NETWORK, C1)
    with pytest.raises(Conflict, match=r"10\.1\.2\.20 is already reserved on network \"br0\" for c1\.eth0"):
        await reservations.reserve(context, NETWORK, Reservation("c2", "eth0", MAC, "c2", ipv4="10.1.2.20"))


async def test_allocation_finds_free_addresses_and_keeps_them(context: Context) -> None:
    await reservations.reserve(context, NETWORK, Reservation("c0", "eth0", MAC, "c0", ipv4="10.1.2.2"))
    asked = Reservation("c1", "eth0", "00:16:3e:00:00:01", "c1")
    given = await reservations.allocate(context, NETWORK, asked, (4, 6))
    assert (given.ipv4, given.ipv6) == ("10.1.2.3", "fd42:1::216:3eff:fe00:1")
    assert await reservations.allocate(context, NETWORK, asked, (4, 6)) == given


async def test_allocation_reuses_the_lease(context: Context) -> None:
    directory = context.member.networks_dir / "br0"
    directory.mkdir(parents=True)
    (directory / "dnsmasq.leases").write_text(f"1 {MAC} 10.1.2.77 c1 *\n")
    given = await reservations.allocate(context, NETWORK, Reservation("c1", "eth0", MAC, "c1"), (4,))
    assert given.ipv4 == "10.1.2.77"


async def test_allocation_needs_dhcp(context: Context) -> None:
    network = Network(1, "default", "br0", NetworkType.BRIDGE, config={"ipv4.address": "none"})
    with pytest.raises(InvalidRequest, match="has no DHCP for IPv4"):
        await reservations.allocate(context, network, C1.__class__("c1", "eth0", MAC, "c1"), (4,))


async def test_rebuild_writes_what_the_database_says(context: Context, tmp_path: Path) -> None:
    directory = context.member.networks_dir / "br0" / "dnsmasq.hosts"
    directory.mkdir(parents=True)
    (directory / "gone.eth0").write_text("x\n")
    (directory / "c2.eth0").write_text(f"{MAC},10.1.2.44,c2\n")
    await context.db.write(insert_instance, "c1", {"ipv4.address": "10.1.2.20"})
    await context.db.write(insert_instance, "c2", {})
    await reservations.rebuild(context, NETWORK)
    assert hosts(context) == {"c1.eth0": f"{MAC},10.1.2.20,c1\n", "c2.eth0": f"{MAC},10.1.2.44,c2\n"}


async def test_networks_without_dnsmasq_reserve_nothing(context: Context) -> None:
    macvlan = Network(1, "default", "br0", NetworkType.MACVLAN, config={"parent": "eth0"})
    await reservations.reserve(context, macvlan, C1)
    await reservations.rebuild(context, macvlan)
    await reservations.release(context, macvlan, "c1", "eth0")
    assert hosts(context) == {}
