"""What the kernel and the installed tools can do, found by trying; each answer is found once per process."""

import contextlib
import ctypes
import os
import platform
import re
import shutil
import socket
import subprocess
from functools import cache

from corral.server.host import sysfs
from corral.server.host.filesystems import mount

_PROBE_TIMEOUT_S = 10.0
_PR_SCHED_CORE, _PR_SCHED_CORE_GET = 62, 0
_MODULE_TIMEOUT_S = 60.0
"""A large module takes long on a slow disk."""

_VERSION = re.compile(r"v?(\d+(?:\.\d+)+)")

LXC_FEATURES = (
    "cgroup2",
    "core_scheduling",
    "devpts_fd",
    "idmapped_mounts_v2",
    "mount_injection_file",
    "network_gateway_device_route",
    "network_ipvlan",
    "network_l2proxy",
    "network_phys_macvlan_mtu",
    "network_veth_router",
    "pidfd",
    "seccomp_allow_deny_syntax",
    "seccomp_notify",
    "seccomp_proxy_send_notify_fd",
)
"""API extensions of liblxc that LXD's `environment.lxc_features` reports; liblxc 5.0 has all of them."""


@cache
def get_kernel_features() -> dict[str, bool]:
    """The kernel features of LXD's `environment.kernel_features`."""
    release = kernel_version()
    return {
        "idmapped_mounts": supports_idmapped_mounts("/"),
        "netnsid_getifaddrs": release >= (4, 18),
        "seccomp_listener": release >= (5, 0) and _has_seccomp_action("user_notif"),
        "seccomp_listener_continue": release >= (5, 5) and _has_seccomp_action("user_notif"),
        "shiftfs": has_filesystem("shiftfs"),
        "uevent_injection": release >= (4, 18),
        "unpriv_fscaps": release >= (4, 14),
    }


@cache
def get_lxc_features() -> dict[str, bool]:
    """The liblxc features of LXD's `environment.lxc_features`."""
    present = get_lxc_version_tuple() >= (5, 0)
    return dict.fromkeys(LXC_FEATURES, present)


def kernel_version() -> tuple[int, int]:
    """Major and minor number of the running kernel."""
    numbers = re.match(r"(\d+)\.(\d+)", platform.release())
    return (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)


def _has_seccomp_action(action: str) -> bool:
    return action in sysfs.read_sysctl("kernel/seccomp/actions_avail").split()


@cache
def supports_idmapped_mounts(path: str) -> bool:
    """Whether the file system at a directory can be mounted with an idmap."""
    return mount.supports_idmapped_mounts(path)


def has_filesystem(name: str) -> bool:
    """Whether the kernel knows a file system, loading its module if need be."""
    if _lists_filesystem(name):
        return True
    if shutil.which("modprobe"):
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(
                ["modprobe", "-q", name],
                check=False,
                timeout=_MODULE_TIMEOUT_S,
                capture_output=True,
                stdin=subprocess.DEVNULL,
            )
    return _lists_filesystem(name)


def _lists_filesystem(name: str) -> bool:
    return any(line.split()[-1] == name for line in sysfs.read_text("/proc/filesystems").splitlines() if line.split())


@cache
def get_tool_version(*argv: str) -> str:
    """The version that a program reports when it is run so, or "" where it is not there."""
    if shutil.which(argv[0]) is None:
        return ""
    try:
        ended = subprocess.run(
            argv, check=False, timeout=_PROBE_TIMEOUT_S, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return parse_version(ended.stdout + ended.stderr)


def parse_version(text: str) -> str:
    """The first dotted version number in a text, or ""."""
    found = _VERSION.search(text)
    return found[1] if found else ""


def get_lxc_version() -> str:
    """The version of liblxc's tools."""
    return get_tool_version("lxc-start", "--version")


def get_lxc_version_tuple() -> tuple[int, ...]:
    """The version of liblxc's tools as numbers."""
    return tuple(int(part) for part in get_lxc_version().split(".") if part)


@cache
def supports_btrfs() -> bool:
    """Whether pools on btrfs can be made here: the kernel's file system and the tools."""
    return has_filesystem("btrfs") and shutil.which("mkfs.btrfs") is not None


@cache
def supports_core_scheduling() -> bool:
    """Whether processes can be kept from sharing a core with others; needs the kernel's, threads in cores, liblxc."""
    cookie = ctypes.c_ulong(0)
    found = ctypes.CDLL(None).prctl(_PR_SCHED_CORE, _PR_SCHED_CORE_GET, 0, 0, ctypes.byref(cookie)) == 0
    return found and get_lxc_features().get("core_scheduling", False)


@cache
def is_in_user_namespace() -> bool:
    """Whether this process runs in other than the first user namespace."""
    return sysfs.read_text("/proc/self/uid_map").split() != ["0", "0", "4294967295"]


def find_lxcfs() -> str | None:
    """The directory where lxcfs is mounted, or None."""
    for entry in mount.list_mounts():
        if entry.fstype == "fuse.lxcfs":
            return entry.target
    return None


@cache
def has_ipv6() -> bool:
    """Whether the kernel speaks IPv6."""
    return socket.has_ipv6 and os.path.exists("/proc/net/if_inet6")


def get_architecture() -> str:
    """The kernel's word for the machine, such as x86_64."""
    return platform.machine()


def get_os_release() -> dict[str, str]:
    """The fields of os-release(5)."""
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}
