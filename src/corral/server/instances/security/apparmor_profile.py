"""The AppArmor profile of a container: what its processes may do to the kernel, beyond what namespaces keep them from.

Pure. The rules say what containers of LXD 5.0 may do, so that what runs in one runs in the other.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations

from corral.server.host.isolation.apparmor import patterns_besides

_NEVER_SHOWN = ("proc", "sys", "dev/.lxc")
"""What must not be mounted elsewhere, where the rules about paths would not reach it."""

_NEVER_SHOWN_WHOLE = ("proc", "sys", "dev")

_SYSCTLS = (
    "kernel/domainname",
    "kernel/hostname",
    "kernel/msg*",
    "kernel/sem*",
    "kernel/shm*",
    "net",
)
"""The settings of the kernel below /proc/sys that are a container's own."""

_SYS = ("class/net", "devices/virtual/net", "fs/bpf", "fs/cgroup")
"""What of /sys is a container's own."""

_STACKED_SYS = "kernel/security/apparmor"

_OWN_FILE_SYSTEMS = (
    ("binfmt_misc", "/proc/sys/fs/binfmt_misc/", "rwklx"),
    ("configfs", "/sys/kernel/config/", "rwklx"),
    ("debugfs", "/sys/kernel/debug/", "rwklx"),
    ("efivarfs", "/sys/firmware/efi/efivars/", "rwklx"),
    ("tracefs", "/sys/kernel/tracing/", "rwklx"),
)
"""File systems that init systems mount of their own accord, where, and what is denied below."""

_PROPAGATION = ("slave", "rslave", "shared", "rshared", "private", "rprivate", "unbindable", "runbindable")


@dataclass(frozen=True, slots=True)
class Confinement:
    """What the rules depend on. `namespace` is the container's own for profiles, where the kernel stacks them."""

    name: str
    namespace: str = ""
    cgroup_namespaces: bool = True
    cgroup2: bool = True
    nesting: bool = False
    unprivileged: bool = True
    raw: str = ""


def render_profile(container: Confinement) -> str:
    """The text for apparmor_parser."""
    lines = [
        "#include <tunables/global>",
        f'profile "{container.name}" flags=(attach_disconnected,mediate_deleted) {{',
        *_block(_base()),
        *_block(_mounts()),
        *_block(_remounts()),
        *_block(_denials()),
        *_block(_sockets()),
        *_block(_groups(container)),
        *_block(_stacking(container)),
        *(_block(_nesting(container)) if container.nesting else ()),
        *(_block(_unprivileged()) if container.unprivileged else ()),
        *(_block(_raw(container.raw)) if container.raw.strip() else ()),
        "}",
    ]
    return "\n".join(lines) + "\n"


def _block(lines: Iterable[str]) -> list[str]:
    return ["", *(f"  {line}" if line else "" for line in lines)]


def _base() -> Iterator[str]:
    yield "# What namespaces and capabilities already keep apart."
    for word in ("capability", "dbus", "file", "network", "umount"):
        yield f"{word},"
    yield "# Signals and tracing: from outside, and among themselves."
    yield "signal (receive),"
    yield "signal peer=@{profile_name},"
    yield "ptrace (readby),"
    yield "ptrace (tracedby),"
    yield "ptrace peer=@{profile_name},"
    yield "# Tried by many and of no use: not worth a line in the log."
    yield "deny mount options=(ro,remount) -> /,"
    yield "deny mount options=(ro,remount,silent) -> /,"


def _mounts() -> Iterator[str]:
    yield "# File systems that init systems mount, and that are then out of reach."
    for kind, place, denied in _OWN_FILE_SYSTEMS:
        yield f"mount fstype={kind} -> {place},"
        yield f"deny {place}{{,**}} {denied},"
    yield "# File systems that do no harm, or that are guarded by path."
    for kind in ("fuse", "fuse.*", "hugetlbfs", "mqueue", "ramfs", "tmpfs"):
        yield f"mount fstype={kind},"
    yield "mount fstype=fusectl -> /sys/fs/fuse/connections/,"
    yield "mount fstype=proc -> /proc/,"
    yield "mount fstype=securityfs -> /sys/kernel/security/,"
    yield "mount fstype=sysfs -> /sys/,"
    yield "mount options=(rw,nosuid,nodev,noexec,remount) -> /sys/,"
    yield "mount options=(rw,nosuid,nodev,remount) -> /run/,"
    yield "mount options=(ro,nosuid,nodev,noexec,remount,strictatime) -> /sys/fs/cgroup/,"
    yield "# Propagation of the root."
    for word in _PROPAGATION:
        yield f"mount options=(rw,{word}) -> /,"


def _safe_words() -> list[str]:
    """Flags that take rights away, in all combinations, and those about times that go with them."""
    words = ("nosuid", "noexec", "nodev")
    subsets = [",".join(subset) for length in range(len(words) + 1) for subset in combinations(words, length)]
    return [*subsets, "noatime", "nosuid,noexec,strictatime"]


def _remounts() -> Iterator[str]:
    shown = patterns_besides("", _NEVER_SHOWN)
    yield "# Another view of anything but /proc, /sys and /dev/.lxc, read-only or not, and moves of it."
    for words in _safe_words():
        options = ",".join(word for word in ("ro,remount,bind", words) if word)
        for pattern in shown:
            yield f"mount options=({options}) {pattern},"
    for word, patterns in (("bind", shown), ("rbind", patterns_besides("", _NEVER_SHOWN_WHOLE)), ("move", shown)):
        for pattern in patterns:
            yield f"mount options=(rw,{word}) {pattern},"


def _denials() -> Iterator[str]:
    yield "# Files of the kernel that are the host's."
    yield "deny /proc/bus/** wklx,"
    for name in ("kcore", "sysrq-trigger", "acpi/**"):
        yield f"deny /proc/{name} rwklx,"
    yield "deny /proc/sys/fs/** wklx,"
    for pattern in patterns_besides("/proc/sys", _SYSCTLS):
        yield f"deny {pattern} wklx,"
    for name in ("msg", "sem", "shm"):
        yield f"deny /proc/sys/kernel/{name}*/** wklx,"


def _sockets() -> Iterator[str]:
    yield "# Unix sockets: what comes in from anywhere, and all among themselves."
    yield "unix (receive),"
    yield "unix peer=(label=@{profile_name}),"


def _groups(container: Confinement) -> Iterator[str]:
    if container.cgroup_namespaces:
        yield "# Control groups, of which the container sees its own."
        yield "mount fstype=cgroup -> /sys/fs/cgroup/**,"
        if container.cgroup2:
            yield "mount fstype=cgroup2 -> /sys/fs/cgroup/**,"


def _stacking(container: Confinement) -> Iterator[str]:
    stacked = bool(container.namespace)
    yield "# What of /sys is not the container's."
    for pattern in patterns_besides("/sys", (*_SYS, _STACKED_SYS) if stacked else _SYS):
        yield f"deny {pattern} wklx,"
    if stacked:
        yield "# Profiles of its own, in addition to this one."
        yield f'change_profile -> ":{container.namespace}:*",'
        yield f'change_profile -> ":{container.namespace}://*",'


def _nesting(container: Confinement) -> Iterator[str]:
    yield "# Containers inside: they pivot, mount what they need and are signalled and traced from here."
    yield "pivot_root,"
    yield "ptrace,"
    yield "signal,"
    yield "mount,"
    yield "# The whole views that the kernel wants to see somewhere are not for use."
    yield "deny /dev/.lxc/proc/** rw,"
    yield "deny /dev/.lxc/sys/** rw,"
    if not container.namespace:
        yield f'change_profile -> "{container.name}",'


def _unprivileged() -> Iterator[str]:
    yield "# Without rights outside of its user namespace the container may arrange what it sees as it likes."
    yield "pivot_root,"
    for word in _PROPAGATION:
        yield f"mount options=(rw,{word}) -> **,"
    for word in ("bind", "rbind"):
        yield f"mount options=(rw,{word}) / -> /**,"
        yield f"mount options=(rw,{word}) /** -> /**,"
    words = ("nosuid", "noexec", "nodev")
    for time in ("", "noatime", "strictatime"):
        for length in range(len(words) + 1):
            for subset in combinations(words, length):
                options = ",".join(word for word in ("ro,remount,bind", time, *subset) if word)
                yield f"mount options=({options}),"
    yield "mount options=(ro,remount,nosuid,noexec,strictatime),"
    yield "mount options=(ro,remount) /,"
    yield "mount options=(ro,remount) /**,"


def _raw(text: str) -> Iterator[str]:
    yield "# raw.apparmor"
    yield from text.strip("\n").split("\n")
