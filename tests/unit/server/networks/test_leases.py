"""The lease file and what a project sees of it."""

from corral.server.db.nics import InstanceNic
from corral.server.networks import leases
from corral.server.networks.model import Network, NetworkType

MAC = "00:16:3e:11:22:33"
TEXT = f"""1795473073 {MAC} 10.5.5.210 c1 01:{MAC}
1795473073 00:16:3e:ff:ff:ff 10.5.5.9 stranger *
duid 00:01:00:01:32:97:6d:20:00:16:3e:b6:20:a6
1795473073 1056977203 fd42:5::9 c1 00:01:00:01:32:97:6d:20:{MAC}
damaged line of five words
"""
NETWORK = Network(
    1, "default", "lxdbr0", NetworkType.BRIDGE, config={"ipv4.address": "10.5.5.1/24", "ipv6.address": "fd42:5::1/64"}
)
NIC = InstanceNic("default", "default", "c1", "eth0", {"hwaddr": MAC, "ipv4.address": "10.5.5.20"})


def test_the_lease_file() -> None:
    found = leases.parse_leases(TEXT)
    assert [(str(lease.address), lease.hwaddr) for lease in found] == [
        ("10.5.5.210", MAC),
        ("10.5.5.9", "00:16:3e:ff:ff:ff"),
        ("fd42:5::9", MAC),
    ]


def test_what_a_project_sees() -> None:
    found = leases.compose_leases(NETWORK, [NIC], leases.parse_leases(TEXT), own_addresses=True, location="none")
    assert [(lease.hostname, lease.address, lease.type, lease.hwaddr, lease.location) for lease in found] == [
        ("lxdbr0.gw", "10.5.5.1", "gateway", "", ""),
        ("lxdbr0.gw", "fd42:5::1", "gateway", "", ""),
        ("c1", "10.5.5.20", "static", MAC, "none"),
        ("c1", "fd42:5::216:3eff:fe11:2233", "dynamic", MAC, "none"),
        ("c1", "10.5.5.210", "dynamic", MAC, "none"),
        ("c1", "fd42:5::9", "dynamic", "", "none"),
    ]


def test_a_static_address_that_is_leased_is_listed_once() -> None:
    text = f"1 {MAC} 10.5.5.20 c1 *\n"
    found = leases.compose_leases(NETWORK, [NIC], leases.parse_leases(text), own_addresses=False, location="none")
    assert [lease.type for lease in found if lease.address == "10.5.5.20"] == ["static"]
