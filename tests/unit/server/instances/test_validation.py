"""Configuration and devices of instances and profiles."""

import pytest

from corral.errors import InvalidRequest
from corral.server.instances.keys import KEYS, parse_raw_lxc
from corral.server.instances.model import InstanceType
from corral.server.instances.validation import check_config, check_devices, check_profile_config

CONTAINER = InstanceType.CONTAINER


@pytest.mark.parametrize(
    "config",
    [
        {"boot.autostart": "true", "boot.autostart.delay": "-1", "boot.host_shutdown_timeout": "5"},
        {"limits.cpu": "2", "limits.memory": "50%", "limits.cpu.allowance": "25ms/100ms", "limits.cpu.priority": "0"},
        {"limits.cpu": "0-1,3", "limits.memory": "512MiB", "limits.cpu.allowance": "50%"},
        {"limits.kernel.nofile": "1000:2000", "linux.sysctl.net.ipv4.ip_forward": "1", "environment.A": "b"},
        {"user.anything": "x", "image.os": "Debian", "volatile.eth0.hwaddr": "00:16:3e:00:00:01"},
        {"volatile.eth0.last_state.vf.parent": "x", "volatile.idmap.next": "[]", "volatile.apply_template": "create"},
        {"raw.lxc": "lxc.signal.halt = SIGTERM\n# words\n\nlxc.net.0.ipv4.address=10.0.0.1/24"},
        {"security.nesting": "", "snapshots.schedule": "@daily", "snapshots.expiry": "1M 2d"},
        {"cloud-init.user-data": "#cloud-config\npackages: [vim]", "cluster.evacuate": "auto"},
        {"cloud-init.network-config": "version: 2\nday: 2001-99-99\nmine: !x y\n---\n- more"},
        {"cloud-init.network-config": "# nothing", "cloud-init.user-data": "#!/bin/sh\n[", "limits.processes": "+5"},
        {"boot.stop.priority": "-9223372036854775808", "limits.memory": "512 bytes"},
        {"security.idmap.isolated": "true", "raw.idmap": "both 1000 1000", "security.syscalls.intercept.mknod": "1"},
    ],
)
def test_what_lxd_takes_is_taken(config: dict[str, str]) -> None:
    check_config(config, CONTAINER)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"nonsense": "1"}, "Unknown configuration key: nonsense"),
        ({"raw.qemu": "-x"}, "Unknown configuration key: raw.qemu"),
        ({"volatile.nonsense": "x"}, "Unknown configuration key: volatile.nonsense"),
        ({"boot.autostart": "maybe"}, "boot.autostart"),
        ({"limits.memory": "0"}, "Memory limit can't be 0"),
        ({"limits.memory": "0%"}, "percentage"),
        ({"limits.memory": "5XB"}, "limits.memory"),
        ({"limits.cpu": "x"}, "Invalid CPU limit syntax"),
        ({"limits.cpu.allowance": "fast"}, "Invalid allowance"),
        ({"limits.cpu.priority": "11"}, "Must be between 0 and 10"),
        ({"raw.lxc": "nonsense"}, "Invalid raw.lxc line"),
        ({"raw.lxc": "lxc.nonsense = x"}, "liblxc has no such key"),
        ({"raw.lxc": "lxc.log.file = /x"}, "not allowed"),
        ({"raw.lxc": "lxc.net.0.type = none"}, "Only interface-specific"),
        ({"raw.lxc": "lxc.prlimit.nofile = 1"}, "Process limits"),
        ({"cloud-init.network-config": "a: [b"}, "Invalid YAML"),
        ({"cloud-init.network-config": "- a"}, "must be a mapping"),
        ({"cloud-init.network-config": "text"}, "must be a mapping"),
        ({"cloud-init.user-data": "#cloud-config\n- a"}, "must be a mapping"),
        ({"limits.cpu": "9223372036854775808"}, "Invalid cpuset value"),
        ({"raw.seccomp": "2", "security.syscalls.deny": "x"}, "mutually exclusive"),
        ({"security.syscalls.allow": "a", "security.syscalls.deny_default": "true"}, "mutually exclusive"),
        ({"security.syscalls.deny": "a", "security.syscalls.blacklist": "b"}, "Mutually exclusive keys"),
        ({"security.privileged": "true", "nvidia.runtime": "true"}, "incompatible"),
        ({"volatile.uuid": "x"}, "Invalid UUID"),
        ({"volatile.idmap.next": "x"}, "no id map"),
        ({"volatile.idmap.current": '[{"Isuid":true}]'}, "no id map"),
        ({"volatile.last_state.idmap": "5"}, "no id map"),
        ({"volatile.idmap.base": "x"}, "uint32"),
        ({"environment.A": "a\nlxc.hook.start = x"}, "cannot contain line breaks"),
        ({"environment.A\nlxc.x": "a"}, "Unknown configuration key"),
        ({"nvidia.require.cuda": "a\nlxc.hook.start = x"}, "cannot contain line breaks"),
        ({"nvidia.driver.capabilities": "a\r"}, "cannot contain line breaks"),
        ({"linux.sysctl.net.ipv4.ip_forward": "1\nlxc.x = y"}, "cannot contain line breaks"),
        ({"limits.kernel.nofile": "1\nlxc.x = y"}, "Invalid limit"),
        ({"limits.kernel.nofile": "many"}, "Invalid limit"),
        ({"limits.kernel.bogus": "1"}, "Unknown limit limits.kernel.bogus"),
        ({"limits.hugepages.2MB": "-1"}, "Invalid value: -1"),
        ({"limits.cpu": "0-1,1"}, "Cannot define CPU multiple times"),
        ({"security.idmap.base": "4294967296"}, "uint32"),
        ({"security.syscalls.intercept.mount": "1", "security.syscalls.intercept.mount.fuse": "a"}, "not of the form"),
        (
            {
                "security.syscalls.intercept.mount": "1",
                "security.syscalls.intercept.mount.fuse": "a=b",
                "security.syscalls.intercept.mount.allowed": "x,a",
            },
            "Filesystem a cannot appear",
        ),
        ({"snapshots.schedule": "often"}, "Schedule must be"),
        ({"snapshots.expiry": "soon"}, "expiry"),
    ],
)
def test_what_is_refused(config: dict[str, str], reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        check_config(config, CONTAINER)


def test_a_profile_serves_both_kinds_and_holds_nothing_of_one_instance() -> None:
    check_profile_config({"raw.qemu": "-x", "raw.lxc": "lxc.signal.halt = 15", "user.a": "b"})
    with pytest.raises(InvalidRequest, match="Volatile keys can only be set on instances"):
        check_profile_config({"volatile.uuid": ""})
    with pytest.raises(InvalidRequest, match="Image keys can only be set on instances"):
        check_profile_config({"image.os": "x"})


def test_every_key_is_described() -> None:
    assert all(key.doc for key in KEYS)


def test_raw_lxc_is_parsed() -> None:
    assert parse_raw_lxc("LXC.Signal.Halt = SIGTERM\n\n  # no\nlxc.cap.drop=") == [
        ("lxc.signal.halt", "SIGTERM"),
        ("lxc.cap.drop", ""),
    ]


ROOT = {"type": "disk", "path": "/", "pool": "default"}
NIC = {"type": "nic", "nictype": "bridged", "parent": "br0"}


@pytest.mark.parametrize(
    "devices",
    [
        {"root": ROOT, "eth0": NIC},
        {"root": {**ROOT, "size": "10GiB"}, "eth0": {"type": "nic", "network": "lxdbr0", "name": "eth0"}},
        {"root": ROOT, "data": {"type": "disk", "path": "/mnt", "source": "/srv", "readonly": "true", "shift": "1"}},
        {"root": ROOT, "gpu": {"type": "gpu", "id": "0"}, "off": {"type": "none"}},
    ],
)
def test_good_devices(devices: dict[str, dict[str, str]]) -> None:
    check_devices(devices, CONTAINER, expanded=True)


@pytest.mark.parametrize(
    ("devices", "reason"),
    [
        ({}, "Failed detecting root disk device: No root device could be found"),
        ({"a": ROOT, "b": ROOT}, "More than one root device found"),
        ({"root": {"type": "disk", "path": "/"}}, 'must have a "pool" property'),
        ({"root": ROOT, "x": {"type": "teapot"}}, "Unsupported device type"),
        ({"root": ROOT, "x": {}}, "Missing device type"),
        ({"root": ROOT, "x" * 65: {"type": "none"}}, "maximum device name length"),
        ({"root": ROOT, "a b": {"type": "none"}}, "Name can only contain"),
        ({"root": ROOT, "d": {"type": "disk", "path": "/mnt"}}, 'missing the required "source" or "path"'),
        ({"root": ROOT, "d": {"type": "disk", "path": "/mnt", "source": "srv"}}, "Source path must be absolute"),
        ({"root": ROOT, "d": {"type": "disk", "path": "/mnt", "source": "/a", "size": "1GB"}}, "Only the root disk"),
        (
            {
                "root": ROOT,
                "d": {"type": "disk", "path": "/mnt", "source": "/a"},
                "e": {"type": "disk", "path": "/mnt", "source": "/b"},
            },
            "same path",
        ),
        ({"root": ROOT, "n": {"type": "nic", "nictype": "bridged"}}, "Required value"),
        ({"root": ROOT, "n": {**NIC, "hwaddr": "x"}}, "Invalid MAC address"),
        ({"root": ROOT, "n": {**NIC, "colour": "blue"}}, 'Invalid device option "colour"'),
        ({"root": ROOT, "n": {"type": "nic", "network": "a", "parent": "b"}}, 'Cannot use "parent" property'),
        ({"root": ROOT, "n": {**NIC, "name": "eth0"}, "m": {**NIC, "name": "eth0"}}, "Duplicate NIC name"),
        ({"root": ROOT, "n": {**NIC, "mtu": "9"}}, "MTU range"),
    ],
)
def test_bad_devices(devices: dict[str, dict[str, str]], reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        check_devices(devices, CONTAINER, expanded=True)


def test_a_profile_needs_no_root_disk() -> None:
    check_devices({"eth0": NIC}, None, expanded=False)
