"""Namespaces of our own for the whole test run: what the tests do to networks and mounts the host never sees."""

import ctypes
import os
import subprocess

CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000

SCENE = """set -e
mount --make-rprivate /
# A sysfs that shows this network namespace, with the host's control groups and AppArmor.
mkdir -p /run/corral-scene
mount -t tmpfs -o mode=700 tmpfs /run/corral-scene
mkdir /run/corral-scene/sys
mount --move /sys /run/corral-scene/sys
mount -t sysfs sysfs /sys
mount --move /run/corral-scene/sys/fs/cgroup /sys/fs/cgroup
if mountpoint -q /run/corral-scene/sys/kernel/security; then
    mount --move /run/corral-scene/sys/kernel/security /sys/kernel/security
fi
umount -l /run/corral-scene/sys
umount /run/corral-scene
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/lock
ip link set lo up
echo 1 >/proc/sys/net/ipv4/ip_forward
"""
"""Run in new mount and network namespaces, as root."""

_entered = False


def enter() -> None:
    """Move this process (which must have one thread) into mount and network namespaces of its own; once."""
    global _entered
    if _entered:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS | CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), f"unshare: {os.strerror(ctypes.get_errno())}")
    subprocess.run(["sh", "-c", SCENE], check=True)
    _entered = True
