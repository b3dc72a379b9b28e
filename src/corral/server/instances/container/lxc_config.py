"""The liblxc configuration of a container: a spec to text. Pure.

Keys: lxc.container.conf(5). What is shown of the host, and the defaults, follow LXD 5.0's containers.
"""

import shlex
from collections.abc import Iterator

from corral.errors import InvalidRequest
from corral.server.devices.model import Mount, Nic
from corral.server.host.isolation.cgroup import Layout
from corral.server.instances.spec import HostFacts, InstanceSpec

_PRIVILEGED_DROP = "sys_time sys_module sys_rawio"
_PROFILE_RIGHTS = " mac_admin mac_override"
"""Dropped too, unless the container has a namespace of its own for AppArmor profiles."""
_DEVICE_RULES = (
    "b *:* m",
    "c *:* m",
    "c 136:* rwm",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:1 rwm",
    "c 5:2 rwm",
    "c 10:229 rwm",
    "c 10:200 rwm",
)
"""mknod of anything; use of pts, null, zero, full, random, urandom, tty, console, ptmx, fuse and tun."""


def lxc_config(spec: InstanceSpec, facts: HostFacts) -> str:
    """The whole configuration file."""
    lines = [
        *_logging(spec),
        *_base(spec, facts),
        *_security(spec, facts),
        *(f"lxc.environment = {name}={value}" for name, value in spec.environment),
        *(setting.lxc_line for setting in spec.limits),
        *(f"lxc.prlimit.{name} = {value}" for name, value in spec.prlimits),
        *(f"lxc.sysctl.{name} = {value}" for name, value in spec.sysctls),
        *_root(spec),
        *_passthrough(spec, facts),
        *_guest_api(spec),
        *(line for index, nic in enumerate(spec.nics) for line in _nic(index, nic)),
        *(() if spec.nics else ("lxc.net.0.type = empty",)),
        *(_mount(mount) for mount in spec.mounts),
        *(f"lxc.hook.mount = {hook}" for hook in spec.mount_hooks),
        *(f"{name} = {value}" for name, value in spec.raw),
    ]
    for line in lines:
        # What is stored may be older than its check.
        if any(character in line for character in "\n\r\0"):
            raise InvalidRequest(f"A value of the configuration has more than one line: {line.splitlines()[0]}")
    return "\n".join(lines) + "\n"


def _logging(spec: InstanceSpec) -> Iterator[str]:
    yield f"lxc.log.file = {spec.paths.log_dir / 'lxc.log'}"
    yield f"lxc.log.level = {spec.log_level}"
    yield "lxc.console.buffer.size = auto"
    yield "lxc.console.size = auto"
    yield f"lxc.console.logfile = {spec.paths.log_dir / 'console.log'}"


def _base(spec: InstanceSpec, facts: HostFacts) -> Iterator[str]:
    mixed = spec.idmap is None and not facts.in_user_namespace
    kernel = "proc:mixed sys:mixed" if mixed else "proc:rw sys:rw"
    groups = "cgroup:rw:force" if facts.hierarchies.layout is Layout.UNIFIED else "cgroup:mixed"
    yield f"lxc.mount.auto = {kernel} {groups}"
    yield "lxc.autodev = 1"
    yield "lxc.pty.max = 1024"
    yield "lxc.tty.max = 0"
    yield f"lxc.arch = {spec.architecture}"
    yield f"lxc.uts.name = {spec.hostname}"
    yield "lxc.hook.version = 1"
    # liblxc runs `sh -c "exec VALUE"`. The failing end refuses liblxc's own reboot: the daemon starts it again.
    target = shlex.quote(str(spec.paths.target))
    yield f'lxc.hook.post-stop = 3>/dev/null; echo "$LXC_TARGET" > {target}; [ "$LXC_TARGET" != reboot ]'


def _security(spec: InstanceSpec, facts: HostFacts) -> Iterator[str]:
    yield f"lxc.apparmor.profile = {spec.paths.apparmor}"
    if facts.core_scheduling:
        yield "lxc.sched.core = 1"
    if spec.paths.seccomp is not None:
        yield f"lxc.seccomp.profile = {spec.paths.seccomp}"
    if spec.paths.intercept is not None:
        yield f"lxc.seccomp.notify.proxy = unix:{spec.paths.intercept}"
    if spec.idmap is not None:
        yield from spec.idmap.lxc_lines()
    else:
        yield f"lxc.cap.drop = {_PRIVILEGED_DROP}{'' if facts.apparmor.stacking else _PROFILE_RIGHTS}"
    if spec.devices_are_limited:
        prefix = "lxc.cgroup2" if facts.hierarchies.layout is Layout.UNIFIED else "lxc.cgroup"
        yield f"{prefix}.devices.deny = a"
        for rule in device_rules(spec):
            yield f"{prefix}.devices.allow = {rule}"


def device_rules(spec: InstanceSpec) -> tuple[str, ...]:
    """The devices that a container may use."""
    return (*_DEVICE_RULES, *spec.device_rules)


def _root(spec: InstanceSpec) -> Iterator[str]:
    yield f"lxc.rootfs.path = dir:{spec.paths.root}"
    options = [*(("idmap=container",) if spec.idmapped_root else ()), *(("ro",) if spec.read_only_root else ())]
    if options:
        yield f"lxc.rootfs.options = {','.join(options)}"


def _passthrough(spec: InstanceSpec, facts: HostFacts) -> Iterator[str]:
    for path, is_directory in facts.passthrough:
        options = "rbind,create=dir,optional" if is_directory else "bind,create=file,optional"
        yield f"lxc.mount.entry = {path} {path[1:]} none {options} 0 0"
    if spec.idmap is None and not facts.in_user_namespace:
        yield "lxc.mount.entry = mqueue dev/mqueue mqueue rw,relatime,create=dir,optional 0 0"
    elif facts.has_mqueue:
        yield "lxc.mount.entry = /dev/mqueue dev/mqueue none rbind,create=dir,optional 0 0"
    for path in facts.lxcfs:
        yield f"lxc.mount.entry = {facts.lxcfs_dir}{path} {path[1:]} none bind,optional 0 0"
    if spec.nesting:
        # The kernel refuses fresh mounts of proc and sys in a nested namespace unless whole ones are in sight.
        yield "lxc.mount.entry = proc dev/.lxc/proc proc create=dir,optional 0 0"
        yield "lxc.mount.entry = sys dev/.lxc/sys sysfs create=dir,optional 0 0"


def _guest_api(spec: InstanceSpec) -> Iterator[str]:
    # The directory, not the socket: the next daemon's socket has another inode.
    if spec.paths.guest_api is not None:
        yield f"lxc.mount.entry = {_escape(str(spec.paths.guest_api))} dev/lxd none bind,ro,create=dir 0 0"


def _nic(index: int, nic: Nic) -> Iterator[str]:
    for name, value in nic.settings:
        yield f"lxc.net.{index}.{name} = {value}"


def _escape(path: str) -> str:
    """A path in the form of fstab(5)."""
    for character, code in (("\\", "\\134"), (" ", "\\040"), ("\t", "\\011"), ("\n", "\\012")):
        path = path.replace(character, code)
    return path


def _mount(mount: Mount) -> str:
    options = ",".join((*mount.options, *(("idmap=container",) if mount.shifted else ())))
    target = _escape(mount.target.lstrip("/"))
    return f"lxc.mount.entry = {_escape(str(mount.source))} {target} {mount.fstype} {options} 0 0"
