"""What the host offers to containers, found when the daemon starts."""

import os
from collections.abc import Mapping
from pathlib import Path

from corral.errors import Forbidden
from corral.product import Product
from corral.server.host import features, sysfs
from corral.server.host.isolation import apparmor, cgroup
from corral.server.host.isolation.idmap import parse_raw_idmap
from corral.server.instances.keys import parse_raw_lxc
from corral.server.instances.limits import host_limits
from corral.server.instances.spec import HostFacts
from corral.units import is_true

_PASSTHROUGH = (
    "/dev/fuse",
    "/dev/net/tun",
    "/proc/sys/fs/binfmt_misc",
    "/sys/firmware/efi/efivars",
    "/sys/fs/fuse/connections",
    "/sys/fs/pstore",
    "/sys/kernel/config",
    "/sys/kernel/debug",
    "/sys/kernel/security",
    "/sys/kernel/tracing",
)
_LXCFS = (
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/sys/devices/system/cpu/online",
)


def detect(product: Product) -> HostFacts:
    """Look at the host. Reads /proc and /sys: call it in a thread."""
    in_user_namespace = features.is_in_user_namespace()
    without_apparmor = os.environ.get(f"{product.prefix}_SECURITY_APPARMOR") == "false"
    hierarchies = cgroup.detect_hierarchies()
    lxcfs = features.find_lxcfs()
    return HostFacts(
        hierarchies=hierarchies,
        memory_total=sysfs.get_total_memory(),
        cpus=tuple(sysfs.list_usable_cpus()),
        shares=host_limits.list_shares(),
        numa_nodes={cpu.number: cpu.numa_node for cpu in sysfs.list_cpus()},
        has_swap_limit=cgroup.supports_swap_limit(hierarchies),
        has_io_weight=cgroup.supports_io_weight(hierarchies),
        passthrough=tuple((path, os.path.isdir(path)) for path in _PASSTHROUGH if os.path.exists(path)),
        has_mqueue=os.path.isdir("/dev/mqueue"),
        lxcfs=tuple(path for path in _LXCFS if lxcfs and os.path.exists(lxcfs + path)),
        lxcfs_dir=lxcfs or "",
        in_user_namespace=in_user_namespace,
        apparmor=apparmor.detect(disabled=without_apparmor, in_user_namespace=in_user_namespace),
        core_scheduling=features.supports_core_scheduling(),
    )


def requires_missing_cgroup_v1(config: dict[str, str]) -> bool:
    """Whether the image wants a host with the systemd hierarchy of control groups version 1, and this is none."""
    return config.get("image.requirements.cgroup") == "v1" and not Path("/sys/fs/cgroup/systemd").exists()


def check_privilege(product: Product, config: Mapping[str, str]) -> None:
    """Raise Forbidden where this server's environment allows unprivileged containers only and the config is more."""
    if not is_true(os.environ.get(f"{product.prefix}_UNPRIVILEGED_ONLY")):
        return
    reason = f"{product.title} was configured to only allow unprivileged containers"
    if is_true(config.get("security.privileged")):
        raise Forbidden(reason)
    if any(entry.outside == 0 for entry in parse_raw_idmap(config.get("raw.idmap", ""))):
        raise Forbidden(f"Cannot map root user into container as {reason}")
    for key, _ in parse_raw_lxc(config.get("raw.lxc", "")):
        if key in ("lxc.idmap", "lxc.include"):
            raise Forbidden(f"{key} can't be set in raw.lxc as {reason}")


def lacks_nesting(instance_config: Mapping[str, str], expanded_config: Mapping[str, str]) -> bool:
    """Whether the image can only run where containers may run inside, which the instance does not allow."""
    needs = is_true(instance_config.get("image.requirements.nesting"))
    return needs and not is_true(expanded_config.get("security.nesting"))
