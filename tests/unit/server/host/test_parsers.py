"""The small parsers of the host layer: mount tables, netlink messages, CPU lists, versions, policies, sockets."""

import os
import socket
import struct

import pytest

from corral.server.host import features, sysfs, systemd
from corral.server.host.filesystems import mount
from corral.server.host.isolation import seccomp
from corral.server.host.network import netlink, rtnetlink


def test_mount_tables() -> None:
    line = r"36 35 98:0 /mnt1 /mnt/with\040space rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue"
    (entry,) = mount.parse_mountinfo(line + "\nbroken line\n")
    assert entry.target == "/mnt/with space"
    assert (entry.fstype, entry.source, entry.root) == ("ext3", "/dev/root", "/mnt1")
    assert entry.propagation == ("master:1", "shared:2")


def test_mount_options() -> None:
    flags, data = mount.parse_options(["ro", "nodev", "defaults", "size=5m", "mode=755", ""])
    assert flags == mount.MS_RDONLY | mount.MS_NODEV
    assert data == "size=5m,mode=755"


def test_link_messages() -> None:
    body = struct.pack("=BxHiII", 0, 1, 7, rtnetlink.IFF_UP | rtnetlink.IFF_BROADCAST, 0)
    body += rtnetlink.attribute(3, b"eth0\0") + rtnetlink.attribute(1, bytes.fromhex("00163e112233"))
    body += rtnetlink.attribute(4, struct.pack("=I", 1400)) + rtnetlink.attribute(16, b"\x06")
    body += rtnetlink.attribute(23, struct.pack("=8Q", 1, 2, 3, 4, 5, 6, 7, 8))
    body += rtnetlink.attribute(18, rtnetlink.attribute(1, b"veth\0"))
    link = rtnetlink.parse_link(body)
    assert (link.index, link.name, link.mac, link.mtu, link.state, link.kind) == (
        7,
        "eth0",
        "00:16:3e:11:22:33",
        1400,
        "up",
        "veth",
    )
    assert link.is_up
    assert link.type == "broadcast"
    assert (link.counters.packets_received, link.counters.bytes_received, link.counters.errors_sent) == (1, 3, 6)


def test_address_messages() -> None:
    body = struct.pack("=BBBBI", socket.AF_INET, 24, 0, 0, 3)
    body += rtnetlink.attribute(1, bytes([10, 0, 0, 9])) + rtnetlink.attribute(2, bytes([10, 0, 0, 1]))
    assert rtnetlink.parse_address(body) == (3, rtnetlink.Address("10.0.0.1", 24, "global", "inet", 0))


def test_truncated_attributes_end_the_message() -> None:
    assert list(rtnetlink.parse_attributes(b"\x02\x00\x01\x00")) == []
    assert list(rtnetlink.parse_attributes(b"\x05")) == []


def test_a_name_that_the_kernel_would_cut_is_refused() -> None:
    with pytest.raises(OSError, match="15 characters"), netlink.Netlink() as host:
        host.find_link("x" * 16)


@pytest.mark.parametrize(("text", "numbers"), [("0-3,8", [0, 1, 2, 3, 8]), ("", []), ("5\n", [5])])
def test_cpu_lists(text: str, numbers: list[int]) -> None:
    assert sysfs.parse_cpu_list(text) == numbers


def test_meminfo_is_in_bytes() -> None:
    assert sysfs.parse_meminfo("MemTotal:  2 kB\nHugePages_Total: 3\n") == {"MemTotal": 2048, "HugePages_Total": 3}


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("btrfs-progs v6.2", "6.2"),
        ("nftables v1.0.6 (Lester)", "1.0.6"),
        ("Dnsmasq version 2.90  Copyright", "2.90"),
        ("", ""),
    ],
)
def test_versions(text: str, version: str) -> None:
    assert features.parse_version(text) == version


def test_the_default_policy() -> None:
    lines = seccomp.render_deny_list().splitlines()
    assert lines[:2] == ["2", "denylist"]
    assert "reject_force_umount  # comment this to allow umount -f;  not recommended" in lines
    assert [line for line in lines if line.endswith("errno 38")] == [
        f"{name} errno 38"
        for name in ("kexec_load", "open_by_handle_at", "init_module", "finit_module", "delete_module")
    ]


def test_more_denied_system_calls() -> None:
    lines = seccomp.render_deny_list(["ptrace", "keyctl errno 1"], with_default=False).splitlines()
    assert lines[2:] == ["[all]", "ptrace", "keyctl errno 1"]


def test_passed_sockets_are_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    passed, other = socket.socketpair()
    with other:
        monkeypatch.setattr(systemd, "_FIRST_FD", passed.detach())
        environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "unix"}
        taken = systemd.take_sockets(environment)
        assert environment == {}
        assert list(taken) == ["unix"]
        taken["unix"][0].close()
    assert systemd.take_sockets(environment) == {}


def test_sockets_of_another_process_are_not_taken() -> None:
    assert systemd.take_sockets({"LISTEN_PID": "1", "LISTEN_FDS": "1"}) == {}
