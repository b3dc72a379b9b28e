"""Limits of the kernel that all containers of a host share: raised on the host, and cut into shares.

What an unprivileged container takes of these counts for the user that made its namespace, on most hosts the one user
root: with the kernel's defaults some dozens of containers, or one that behaves badly, leave nothing for the rest and
for the daemon. Sources: Documentation/admin-guide/sysctl/user.rst, fs.rst; keyrings(7), inotify(7).
"""

import logging
import os

from corral.server.host import sysfs

log = logging.getLogger(__name__)

HOST_MINIMUMS = {
    "fs/inotify/max_user_instances": 1 << 20,
    "fs/inotify/max_user_watches": 1 << 23,
    "fs/aio-max-nr": 1 << 19,
    "kernel/keys/maxkeys": 20000,
    "kernel/keys/maxbytes": 2000000,
    "net/ipv4/neigh/default/gc_thresh3": 8192,
    "net/ipv6/neigh/default/gc_thresh3": 8192,
}
"""What the host shall have at least. Each costs memory only for what is used."""

SHARES = {"user.max_inotify_instances": 1 << 12, "user.max_inotify_watches": 1 << 20}
"""The most that one container may take, as kernel settings of its user namespace."""


def raise_host_limits() -> None:
    """Raise what is lower; where the host does not let the daemon, it stays as it is."""
    for path, minimum in HOST_MINIMUMS.items():
        text = sysfs.read_sysctl(path)
        if not text.isdecimal() or int(text) >= minimum:
            continue
        try:
            sysfs.write_sysctl(path, str(minimum))
        except OSError as error:
            log.warning("Cannot raise %s from %s to %d: %s", path.replace("/", "."), text, minimum, error.strerror)
        else:
            log.info("Raised %s from %s to %d", path.replace("/", "."), text, minimum)


def list_shares() -> tuple[tuple[str, str], ...]:
    """The settings for a container's namespace, as far as this kernel has them."""
    return tuple(
        (name, str(value)) for name, value in SHARES.items() if os.path.exists(f"/proc/sys/{name.replace('.', '/')}")
    )
