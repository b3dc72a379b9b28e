"""Seccomp policies, and the system calls that are answered on the host."""

from dataclasses import replace
from pathlib import Path

import pytest

from corral.errors import InvalidRequest, NotSupported
from corral.server.host.isolation.cgroup import Hierarchies
from corral.server.instances.keys import parse_fuse
from corral.server.instances.security import interception
from corral.server.instances.security.seccomp import render_policy
from corral.server.instances.spec import HostFacts

FACTS = HostFacts(Hierarchies({}, Path("/sys/fs/cgroup")), 1 << 30, (0,), has_swap_limit=True)
DEFAULT = """2
denylist
[all]
reject_force_umount  # comment this to allow umount -f;  not recommended
[all]
kexec_load errno 38
open_by_handle_at errno 38
init_module errno 38
finit_module errno 38
delete_module errno 38
"""
GUARDS = """seccomp errno 22 [1,2146435072,SCMP_CMP_MASKED_EQ,2146435072]
seccomp errno 22 [1,8,SCMP_CMP_MASKED_EQ,8]
"""
MOUNT = """mount notify [3,0,SCMP_CMP_MASKED_EQ,18446744070422410016]
fsopen errno 38
fsconfig errno 38
fsinfo errno 38
fsmount errno 38
fspick errno 38
open_tree errno 38
move_mount errno 38
openat2 errno 38
"""
MKNOD = """mknod notify [1,8192,SCMP_CMP_MASKED_EQ,61440]
mknod notify [1,24576,SCMP_CMP_MASKED_EQ,61440]
mknodat notify [2,8192,SCMP_CMP_MASKED_EQ,61440]
mknodat notify [2,24576,SCMP_CMP_MASKED_EQ,61440]
"""


def syscalls(**values: str) -> dict[str, str]:
    return {f"security.syscalls.{name}": value for name, value in values.items()}


@pytest.mark.parametrize(
    ("config", "intercepted", "expected"),
    [
        ({}, (), DEFAULT),
        (syscalls(deny_default="false"), (), None),
        (syscalls(blacklist_default="false"), (), None),
        (
            syscalls(deny_default="false", deny="ptrace\nkeyctl errno 1"),
            (),
            "2\ndenylist\n[all]\nptrace\nkeyctl errno 1\n",
        ),
        (syscalls(blacklist="ptrace"), (), DEFAULT + "ptrace\n"),
        (syscalls(allow="read\nwrite\n"), (), "2\nallowlist\n[all]\nread\nwrite\n"),
        (syscalls(whitelist="read"), ("sysinfo",), f"2\nallowlist\n[all]\nread\n{GUARDS}sysinfo notify\n"),
        ({"raw.seccomp": "2\nblacklist\nptrace"}, ("mknod",), "2\nblacklist\nptrace\n"),
        ({}, ("mknod",), DEFAULT + GUARDS + MKNOD),
        ({}, ("mount",), DEFAULT + GUARDS + MOUNT),
        (
            {},
            ("sched_setscheduler", "setxattr", "bpf"),
            f"{DEFAULT}{GUARDS}sched_setscheduler notify\nsetxattr notify [3,1,SCMP_CMP_EQ]\n"
            "bpf notify [0,5,SCMP_CMP_EQ]\nbpf notify [0,8,SCMP_CMP_EQ]\nbpf notify [0,9,SCMP_CMP_EQ]\n",
        ),
    ],
)
def test_policies(config: dict[str, str], intercepted: tuple[str, ...], expected: str | None) -> None:
    assert render_policy(config, intercepted) == expected


def test_what_the_kernel_has_for_other_abis_is_denied_by_its_own_names() -> None:
    policy = render_policy(syscalls(deny_compat="true", deny="ptrace"))
    assert policy is not None
    lines = policy.splitlines()
    assert lines[lines.index("[x86_64]") + 1] == "compat_sys_rt_sigaction errno 38"
    # A name without this beginning would deny the native call, whatever the section.
    assert all(line.startswith(("compat_sys_", "stub_x32_")) for line in lines[lines.index("[x86_64]") + 1 : -2])
    assert lines[-2:] == ["[all]", "ptrace"]


def intercept(**values: str) -> dict[str, str]:
    return {f"security.syscalls.intercept.{name.replace('__', '.')}": value for name, value in values.items()}


def test_what_is_intercepted() -> None:
    config = intercept(mknod="true", mount="1", bpf="false", mount__shift="true")
    assert interception.wanted(config, FACTS) == ("mknod", "mount")
    assert interception.wanted({**config, "security.privileged": "true"}, FACTS) == ()
    assert interception.wanted(config, replace(FACTS, in_user_namespace=True)) == ()


KERNEL = {"seccomp_listener": True, "seccomp_listener_continue": True, "seccomp_listener_addfd": True}
LXC = {"seccomp_notify": True, "seccomp_proxy_send_notify_fd": True}


@pytest.mark.parametrize(
    ("names", "missing", "reason"),
    [
        ((), "seccomp_listener", ""),
        (("mknod",), "seccomp_listener_continue", ""),
        (("mknod",), "seccomp_listener", "Seccomp notify not supported"),
        (("mknod",), "seccomp_notify", "LXC doesn't support seccomp notify"),
        (("mount",), "seccomp_listener_continue", "doesn't support continuing"),
        (("mount",), "seccomp_listener_addfd", ""),
        (("bpf",), "seccomp_listener_addfd", "doesn't support adding file descriptors"),
    ],
)
def test_what_the_host_must_offer(names: tuple[str, ...], missing: str, reason: str) -> None:
    kernel, lxc = {**KERNEL, missing: False}, {**LXC, missing: False}
    if not reason:
        interception.check_supported(names, kernel, lxc)
        return
    with pytest.raises(NotSupported, match=reason):
        interception.check_supported(names, kernel, lxc)


def test_file_systems() -> None:
    config = intercept(mount__allowed="xfs,btrfs", mount__fuse="ext4=fuse2fs")
    assert interception.mount_policy(config) == {"ext4": "fuse2fs", "xfs": "", "btrfs": ""}
    assert parse_fuse("") == {}
    for text in ("ext4", "ext4=", "=x", "a=b=c", "a=b,"):
        with pytest.raises(InvalidRequest, match="not of the form"):
            parse_fuse(text)
