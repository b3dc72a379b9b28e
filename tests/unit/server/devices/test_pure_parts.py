"""What devices compute: limits, names of nodes, addresses and rules, hardware read from a sysfs."""

from pathlib import Path

import pytest

from corral.errors import InvalidRequest, NotSupported
from corral.server.devices import disk_limits, gpu, gpu_mig, infiniband, nodes, proxy_addresses, registry, tpm, unix
from corral.server.devices.model import Placed, encode_path
from corral.server.devices.nic import filters, ipvlan, limits, priority, routed, sriov, vlans
from corral.server.devices.nic.sriov import VirtualFunction
from corral.server.devices.proxy_addresses import ProxyAddress
from corral.server.host import uevents
from corral.server.host.filesystems import inotify
from corral.server.host.isolation.cgroup import Hierarchies
from corral.server.host.programs import liblxc_socket

V1 = Hierarchies({"blkio": Path("/cg/blkio")}, None)
V2 = Hierarchies({}, Path("/cg"), frozenset({"io"}))


@pytest.mark.parametrize(
    ("text", "limit"), [("", (0, 0)), ("10MB", (10_000_000, 0)), ("1KiB/s", (1024, 0)), ("100iops", (0, 100))]
)
def test_disk_limits_are_bytes_or_operations(text: str, limit: tuple[int, int]) -> None:
    assert disk_limits.parse_limit(text) == limit


@pytest.mark.parametrize("text", ["xiops", "-1iops", "fast"])
def test_no_disk_limit(text: str) -> None:
    with pytest.raises((InvalidRequest, ValueError)):
        disk_limits.check_limit(text)


def test_disk_limits_of_several_devices_are_their_mean() -> None:
    wanted = {"8:0": [disk_limits.limits_of({"limits.max": "10MB"}), disk_limits.limits_of({"limits.read": "20MB"})]}
    found = [(one.file, one.value) for one in disk_limits.plan(V1, wanted, reset=False)]
    assert found == [
        ("blkio.throttle.read_bps_device", "8:0 15000000"),
        ("blkio.throttle.write_bps_device", "8:0 10000000"),
    ]


def test_disk_limits_are_reset_on_the_unified_tree() -> None:
    found = {one.value for one in disk_limits.plan(V2, {"8:0": []}, reset=True)}
    assert found == {"8:0 rbps=max", "8:0 wbps=max", "8:0 riops=max", "8:0 wiops=max"}


@pytest.mark.parametrize("path", ["tmp/testdev", "dev/a-b/c--d", "x", "a-/b", "-"])
def test_paths_survive_being_file_names(path: str) -> None:
    assert "/" not in encode_path(path)
    assert nodes.decode_path(encode_path(path)) == path


def test_names_of_nodes() -> None:
    assert nodes.file_name("test-dev1", "/tmp/testdev") == "unix.test--dev1.tmp-testdev"


def test_node_of_numbers() -> None:
    node = nodes.of_numbers("/dev/x", True, (8, 1), {"mode": "640", "uid": "5"})
    assert (node.mode, node.uid, node.gid, node.rule) == (0o640, 5, 0, "b 8:1 rwm")


def test_node_of_a_path(tmp_path: Path) -> None:
    node = nodes.of_path("/dev/null", "/x", {"minor": "7"})
    assert node is not None
    assert (node.is_block, node.major, node.minor, node.mode) == (False, 1, 7, 0o660)
    assert nodes.of_path(str(tmp_path / "none"), "/x", {}) is None
    with pytest.raises(InvalidRequest, match="not a device"):
        nodes.of_path(str(tmp_path), "/x", {})


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("tcp:127.0.0.1:80", ProxyAddress("tcp", "127.0.0.1", (80,))),
        ("udp:[::1]:53,60-62", ProxyAddress("udp", "::1", (53, 60, 61, 62))),
        ("tcp::80", ProxyAddress("tcp", "", (80,))),
        ("unix:/run/x:y", ProxyAddress("unix", "/run/x:y")),
        ("unix:@name", ProxyAddress("unix", "@name")),
    ],
)
def test_proxy_addresses(text: str, address: ProxyAddress) -> None:
    assert proxy_addresses.parse(text) == address


@pytest.mark.parametrize(
    "text",
    ["sctp:1.2.3.4:1", "tcp:", "tcp:localhost:1", "tcp:1.2.3.4", "tcp:::1:80", "tcp:1.2.3.4:x", "tcp:1.2.3.4:9-8"],
)
def test_no_proxy_address(text: str) -> None:
    with pytest.raises(InvalidRequest):
        proxy_addresses.parse(text)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"listen": "tcp:1.2.3.4:1", "connect": "tcp:1.2.3.4:1-2"}, "Mismatch"),
        ({"listen": "tcp:1.2.3.4:1-9", "connect": "tcp:1.2.3.4:1-2"}, "Mismatch"),
        ({"listen": "unix:/x", "connect": "tcp:1.2.3.4:1-2"}, "Mismatch"),
        ({"listen": "tcp:1.2.3.4:1", "connect": "udp:1.2.3.4:1", "proxy_protocol": "true"}, "PROXY header"),
        ({"listen": "unix:@x", "connect": "tcp:1.2.3.4:1", "mode": "0600"}, "non-abstract"),
        ({"listen": "tcp:0.0.0.0:1", "connect": "tcp:1.2.3.4:1", "nat": "true"}, "wildcard"),
        ({"listen": "tcp:[::1]:1", "connect": "tcp:1.2.3.4:1", "nat": "true"}, "mix IP versions"),
        ({"listen": "tcp:1.2.3.4:1", "connect": "udp:1.2.3.4:1", "nat": "true"}, "not supported"),
        ({"listen": "tcp:1.2.3.4:1", "connect": "tcp:1.2.3.4:1", "nat": "true", "bind": "instance"}, "host-bound"),
    ],
)
def test_proxies_that_do_not_go_together(config: dict[str, str], reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        proxy_addresses.check(config)


@pytest.mark.parametrize(
    ("listen", "connect", "rules"),
    [
        ((1234,), (80,), ["dport 1234 dnat to 10.0.0.2:80"]),
        ((1234, 1235), (1234,), ["dport 1234-1235 dnat to 10.0.0.2:1234"]),
        ((1234, 1235), (1234, 1235), ["dport 1234-1235 dnat to 10.0.0.2\n"]),
        ((1, 2), (5, 6), ["dport 1 dnat to 10.0.0.2:5", "dport 2 dnat to 10.0.0.2:6"]),
    ],
)
def test_nat_of_ports(listen: tuple[int, ...], connect: tuple[int, ...], rules: list[str]) -> None:
    text = proxy_addresses.render_nat(
        "c1.web", "lxd", ProxyAddress("tcp", "127.0.0.1", listen), ProxyAddress("tcp", "10.0.0.2", connect), "10.0.0.2"
    )
    for rule in rules:
        assert text.count(rule) == 2, text
    assert text.count(" dnat to ") == 2 * len(rules)
    assert "chain pstrt.c1.web" in text


def test_nat_of_ipv6_has_brackets() -> None:
    one = ProxyAddress("udp", "fd00::1", (53,))
    assert "ip6 daddr fd00::1 udp dport 53 dnat to [fd00::2]:53" in proxy_addresses.render_nat(
        "c1.dns", "lxd", one, ProxyAddress("udp", "fd00::2", (53,)), "fd00::2"
    )


def test_rates() -> None:
    assert limits.rates_of({"limits.ingress": "1Mbit"}) == (1_000_000, 0)
    assert limits.rates_of({"limits.ingress": "1Mbit", "limits.max": "2kbit"}) == (2000, 2000)
    assert limits.render("veth0", (0, 0)) == ""
    assert "htb rate 5bit" in limits.render("veth0", (5, 0))
    assert "police rate 8000000bit burst 200000b" in limits.render("veth0", (0, 8_000_000))


def test_a_filter_of_all_families_drops_by_default() -> None:
    one = filters.Filter("c1.eth0", "veth0", "00:16:3E:00:00:01", (), ())
    text = filters.render(one, "lxd")
    assert 'iifname "veth0" ether saddr != 00:16:3e:00:00:01 drop' in text
    assert "@nh,528,48 != 0x00163e000001 drop" in text
    assert "accept\n" not in text.replace("policy accept;", "")
    assert text.count("ether type != {arp, ip, ip6} drop") == 2


def test_a_filter_of_the_mac_address_alone_lets_all_addresses_pass() -> None:
    text = filters.render(filters.Filter("c1.eth0", "veth0", "00:16:3e:00:00:01"), "lxd")
    assert "ether type ip drop" not in text
    assert "arp, ip, ip6" not in text


def test_labels_outside_the_default_project() -> None:
    assert filters.label_of("default", "c1", "a-b/c") == "c1.a--b-c"
    assert filters.label_of("p", "c1", "eth0") == "p_c1.eth0"


def test_vlans_of_a_port() -> None:
    assert vlans.plan_port({"vlan": "10", "vlan.tagged": "20,30-31"}, 1) == [
        "del vid 1",
        "add vid 10 pvid untagged",
        "add vid 20",
        "add vid 30",
        "add vid 31",
    ]
    assert vlans.plan_port({"vlan": "none"}, 1) == ["del vid 1"]
    assert vlans.plan_port({"vlan": "1"}, 1) == ["add vid 1 pvid untagged"]
    with pytest.raises(InvalidRequest, match="cannot be the same"):
        vlans.check_together({"vlan": "20", "vlan.tagged": "19-21"})
    for text in ("0", "4095", "x"):
        with pytest.raises(InvalidRequest):
            vlans.check_untagged(text)
    with pytest.raises(InvalidRequest):
        vlans.check_tagged("5-3")


def test_addresses_of_routed_nics() -> None:
    config = {"ipv4.address": "192.0.2.1, 192.0.2.2", "ipv6.address": "fd00::1", "ipv6.gateway": "none"}
    assert routed.settings(config, (("type", "veth"),)) == (
        ("type", "veth"),
        ("ipv4.address", "192.0.2.1/32 0.0.0.0"),
        ("ipv4.address", "192.0.2.2/32 0.0.0.0"),
        ("ipv4.gateway", "169.254.0.1"),
        ("ipv6.address", "fd00::1/128"),
    )


def test_addresses_of_ipvlan_nics() -> None:
    keys = ipvlan.settings({"ipv4.address": "192.0.2.1", "mode": "l2", "ipv4.gateway": "192.0.2.254"}, "eth0", "eth1")
    assert ("ipv4.address", "192.0.2.1/24") in keys
    assert ("ipv4.gateway", "192.0.2.254") in keys
    assert ("l2proxy", "1") not in keys
    assert ("ipv4.gateway", "dev") in ipvlan.settings({"ipv4.address": "192.0.2.1"}, "eth0", "eth1")


def test_what_the_host_answers_for_with_ipvlan_nics() -> None:
    addresses = {"ipv4.address": "192.0.2.1, 192.0.2.2/32", "ipv6.address": "2001:db8::1"}
    expected = [("-4", "192.0.2.1", 32), ("-4", "192.0.2.2", 32), ("-6", "2001:db8::1", 128)]
    assert ipvlan.announced(addresses) == expected
    assert ipvlan.announced(addresses | {"mode": "l2"}) == []


IPVLAN = {"type": "nic", "nictype": "ipvlan", "parent": "eth0"}
UUID = "b7d3c1a0-1111-2222-3333-444455556666"


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"type": "nic", "nictype": "routed", "vlan": "5"}, "combined with a parent"),
        ({"type": "nic", "nictype": "routed", "ipv4.routes": "10.0.0.0/8"}, "requires ipv4.address"),
        ({"type": "nic", "nictype": "routed", "ipv4.address": "1.2.3.4,1.2.3.4"}, "Duplicate address"),
        ({"type": "nic", "nictype": "macvlan"}, "parent"),
        ({"type": "nic", "nictype": "ipvlan", "parent": "eth0", "mode": "l4"}, "Must be one of"),
        ({**IPVLAN, "ipv4.address": "192.0.2.1/24"}, "Not an IPv4 address"),
        ({**IPVLAN, "ipv4.address": "::1"}, "Not an IPv4 address"),
        ({**IPVLAN, "ipv4.gateway": "192.0.2.1"}, "Invalid gateway"),
        ({**IPVLAN, "mode": "l2", "ipv4.gateway": "auto"}, "Not an IPv4 address"),
        ({**IPVLAN, "mode": "l2", "ipv4.address": "192.0.2.1/33"}, "Not an IPv4 address"),
        ({"type": "nic", "nictype": "routed", "ipv4.host_address": "fe80::1"}, "Not an IPv4 address"),
        ({"type": "nic", "nictype": "routed", "ipv6.address": "::ffff:1.2.3.4"}, "Not an IPv6 address"),
        ({"type": "nic", "nictype": "p2p", "ipv4.routes": "10.0.0.1"}, "Not an IPv4 network"),
        ({"type": "nic", "nictype": "p2p", "ipv6.routes": "10.0.0.0/8"}, "Not an IPv6 network"),
        ({"type": "nic", "nictype": "p2p", "ipv4.routes": "10.0.0.1/8"}, "has host bits set"),
        ({"type": "nic", "nictype": "ovn"}, "Unsupported device type"),
        ({"type": "nic", "nictype": "sriov", "parent": "eth0", "gvrp": "true"}, "Invalid device option"),
        ({"type": "disk", "pool": "default", "source": "v", "path": "/v", "recursive": "true"}, "recursive"),
        ({"type": "infiniband", "parent": "ib0", "nictype": "physical", "mtu": "70"}, "Out of MTU range"),
        ({"type": "pci"}, "address"),
        ({"type": "pci", "address": "0000:01:00"}, "Invalid PCI address"),
        ({"type": "gpu", "pci": "1"}, "Invalid PCI address"),
        ({"type": "usb", "vendorid": "ABCD"}, "lower case"),
        ({"type": "nic", "nictype": "sriov", "parent": "eth0", "host_name": "x1"}, "Invalid device option"),
        ({"type": "infiniband", "parent": "ib0"}, "nictype"),
        ({"type": "infiniband", "parent": "ib0", "nictype": "physical", "hwaddr": "00:11"}, "8 or 20 byte"),
        ({"type": "unix-char"}, 'missing the required "source" or "path"'),
        ({"type": "unix-char", "path": "/x", "mode": "9"}, "octal"),
        ({"type": "unix-hotplug"}, "vendorid or a productid"),
        ({"type": "usb", "vendorid": "xyz"}, "hex"),
        ({"type": "tpm", "path": "/dev/tpm0"}, "Failed to validate config"),
        ({"type": "gpu", "gputype": "mdev"}, "mdev"),
        ({"type": "gpu", "gputype": "x"}, "gputype"),
        ({"type": "gpu", "pci": "00:01.0", "id": "1"}, 'Cannot use "id"'),
        ({"type": "gpu", "gputype": "mig"}, "mig.uuid"),
        ({"type": "gpu", "gputype": "mig", "mig.uuid": f"MIG-{UUID}", "mig.gi": "1"}, 'Cannot use "mig.gi"'),
        ({"type": "gpu", "gputype": "mig", "mig.uuid": "x"}, "Invalid UUID"),
        ({"type": "gpu", "gputype": "mig", "mig.gi": "256", "mig.ci": "0"}, "between 0 and 255"),
        ({"type": "gpu", "gputype": "sriov", "uid": "5"}, "Invalid device option"),
    ],
)
def test_configs_that_are_refused(config: dict[str, str], reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        registry.validate("x", config, {"x": config})


@pytest.mark.parametrize(
    "config",
    [
        {"type": "pci", "address": "0000:01:00.0"},
        {"type": "gpu", "gputype": "mdev", "mdev": "i915-GVTg_V5_4", "id": "0"},
        {"type": "gpu", "gputype": "sriov", "pci": "01:00.0"},
    ],
)
def test_a_container_goes_without_what_only_machines_have(config: dict[str, str]) -> None:
    registry.validate("x", config, {"x": config})
    with pytest.raises(InvalidRequest, match="Unsupported device type"):
        registry.validate("x", config, {"x": config}, of_container=True)


def test_tables_for_the_routes_to_ipvlan_nics() -> None:
    config = {**IPVLAN, "ipv4.address": "192.0.2.1, 192.0.2.2", "ipv4.host_table": "100", "ipv6.address": "2001:db8::1"}
    assert ipvlan.tables(config) == [("-4", "192.0.2.1/32", "100"), ("-4", "192.0.2.2/32", "100")]
    assert ipvlan.tables(config | {"mode": "l2"}) == []


def fill(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_graphics_cards_of_a_sysfs(tmp_path: Path) -> None:
    place = tmp_path / "devices/0000:01:00.0"
    fill(place, {"vendor": "0x10de\n", "device": "0x1eb8\n"})
    for name, numbers in (("card0", "226:0"), ("renderD128", "226:128")):
        fill(tmp_path / "class/drm" / name, {"dev": numbers + "\n"})
        (tmp_path / "class/drm" / name / "device").symlink_to(place)
    (tmp_path / "class/drm/card0-HDMI-A-1").mkdir()
    cards = gpu.list_cards(tmp_path)
    nodes_ = (("dri/card0", 226, 0), ("dri/renderD128", 226, 128))
    assert cards == [gpu.Card("0000:01:00.0", "10de", "1eb8", "0", nodes_)]
    assert gpu.select(cards, {"pci": "01:00.0"}) == cards
    assert gpu.select(cards, {"id": "0", "vendorid": "10DE"}) == cards
    assert gpu.select(cards, {"id": "1"}) == []


NVIDIA_CARDS = """NVRM version,CUDA version
525.60,12.0

Device Index,Device Minor,Model,Brand,GPU UUID,Bus Location,Architecture
0,3,NVIDIA A100-PCIE-40GB,Nvidia,GPU-1f2e,00000000:3B:00.0,8.0
"""


def test_shares_of_an_nvidia_card(tmp_path: Path) -> None:
    cards = gpu_mig.parse_cards(NVIDIA_CARDS)
    assert cards == [gpu_mig.NvidiaCard("3", "GPU-1f2e", "0000:3b:00.0")]
    share = {"mig.gi": "1", "mig.ci": "0"}
    with pytest.raises(InvalidRequest, match=r"gi=1 ci=0 doesn't exist on GPU 3"):
        gpu_mig.choose(cards, ["0000:3b:00.0"], tmp_path, share)
    fill(tmp_path, {"driver/nvidia/capabilities/gpu3/mig/gi1/ci0/access": ""})
    assert gpu_mig.choose(cards, ["0000:3b:00.0"], tmp_path, share) == "MIG-GPU-1f2e/1/0"
    assert gpu_mig.choose(cards, ["0000:3b:00.0"], tmp_path, {"mig.uuid": "ab-cd"}) == "MIG-ab-cd"
    for places, reason in (
        ([], "Failed to detect"),
        (["a", "b"], "More than one"),
        (["0000:01:00.0"], "isn't a NVIDIA"),
    ):
        with pytest.raises(InvalidRequest, match=reason):
            gpu_mig.choose(cards, places, tmp_path, share)


def test_the_priority_of_a_nic_is_a_chain_at_its_host_end() -> None:
    script = priority.render("c1.eth0", "corral", "veth1", 0x12345)
    assert 'hook ingress device "veth1"' in script
    assert "meta priority set 1:2345\n" in script
    assert script.startswith(priority.render_removal("c1.eth0", "corral"))


def test_what_swtpm_announces() -> None:
    assert tpm.parse_announcement("New TPM device: /dev/tpm1 (major/minor = 253/1)\n") == (1, 253, 1)
    assert tpm.parse_announcement("") is None


def test_hardware_of_a_sysfs(tmp_path: Path) -> None:
    usb = tmp_path / "devices/usb1/1-2"
    fill(usb, {"idVendor": "0403\n", "idProduct": "6001\n", "busnum": "1", "devnum": "4", "dev": "189:3"})
    fill(usb / "1-2:1.0/ttyUSB0", {"uevent": "MAJOR=188\nMINOR=0\nDEVNAME=ttyUSB0\n"})
    (tmp_path / "class/tty").mkdir(parents=True)
    (usb / "1-2:1.0/ttyUSB0/subsystem").symlink_to(tmp_path / "class/tty")
    (tmp_path / "dev/char").mkdir(parents=True)
    (tmp_path / "dev/char/188:0").symlink_to(usb / "1-2:1.0/ttyUSB0")
    (tmp_path / "bus/usb/devices").mkdir(parents=True)
    (tmp_path / "bus/usb/devices/1-2").symlink_to(usb)
    expected = uevents.Hardware("/dev/ttyUSB0", False, 188, 0, "tty", "0403", "6001")
    assert uevents.list_hardware(tmp_path) == [expected]
    found = uevents.list_usb(tmp_path)
    assert [(one.path, one.major, one.minor) for one in found] == [("/dev/bus/usb/001/004", 189, 3)]
    assert unix.is_wanted({"vendorid": "0403"}, expected)
    assert not unix.is_wanted({"vendorid": "0403", "productid": "6002"}, expected)


def test_virtual_functions_of_a_sysfs(tmp_path: Path) -> None:
    device = tmp_path / "class/net/eth0/device"
    fill(device, {"sriov_numvfs": "2", "sriov_totalvfs": "4", "virtfn0/net/eth1/x": "", "virtfn1/net/eth2/x": ""})
    functions = sriov.list_functions("eth0", tmp_path)
    assert functions == [VirtualFunction(0, "eth1"), VirtualFunction(1, "eth2")]
    assert sriov.choose(functions, ["eth1"]) == functions[1]
    assert sriov.choose(functions, ["eth1", "eth2"]) is None
    argv = sriov.plan_function("eth0", 1, {"vlan": "7", "hwaddr": "00:16:3e:00:00:01", "security.mac_filtering": "1"})
    assert argv[-6:] == ["vlan", "7", "mac", "00:16:3e:00:00:01", "spoofchk", "on"]
    with pytest.raises(NotSupported, match="SR-IOV"):
        sriov._find_free("eth9", tmp_path)


def test_infiniband_nodes_of_a_sysfs(tmp_path: Path) -> None:
    device = tmp_path / "class/net/ib0/device"
    fill(device, {"infiniband_verbs/uverbs0/dev": "231:192\n", "infiniband_mad/umad0/dev": "231:0\n"})
    assert infiniband.list_nodes("ib0", tmp_path) == [("uverbs0", 231, 192), ("umad0", 231, 0)]
    assert infiniband.list_nodes("ib1", tmp_path) == []


def test_what_is_watched_for_a_path(tmp_path: Path) -> None:
    assert inotify.nearest(str(tmp_path / "a/b/c")) == [str(tmp_path), str(tmp_path.parent)]
    assert inotify.nearest("/x") == ["/"]


def test_device_rules_for_liblxc() -> None:
    packed = liblxc_socket.pack_device_rule("c 1:* rw", True)
    fields = b"c\0\0\0" + (1).to_bytes(4, "little") + b"\xff\xff\xff\xff" + b"rw\0\0" + b"\1\0\0\0"
    # The pointers of a list end it, aligned; the monitor refuses any other length.
    assert packed == fields.ljust(40, b"\0")


def test_kinds_that_look_into_the_database_are_asked_so() -> None:
    """A protocol is known by names alone: what is called alike has to be alike."""
    kinds = [*registry.DEVICES.values(), *registry.NICS.values(), registry.NETWORKED]
    placed = [kind for kind in kinds if isinstance(kind, Placed)]
    assert {type(kind).__name__ for kind in placed} == {"BridgedNic", "NetworkedNic"}


def test_two_disks_on_one_path() -> None:
    disks = {name: {"type": "disk", "source": "/srv", "path": path} for name, path in (("a", "/mnt"), ("b", "/mnt//"))}
    with pytest.raises(InvalidRequest, match="More than one disk device"):
        registry.validate("a", disks["a"], disks)
