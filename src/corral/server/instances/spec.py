"""All that decides how a container starts, as plain values; and how it is composed. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from corral import architectures, units
from corral.errors import NotSupported
from corral.server.devices.disk import is_root_disk
from corral.server.devices.model import Attachment, Mount, Nic
from corral.server.host.isolation import cgroup
from corral.server.host.isolation.apparmor import NO_APPARMOR, AppArmor
from corral.server.host.isolation.cgroup import Hierarchies, Setting
from corral.server.host.isolation.idmap import IdMap
from corral.server.instances import keys
from corral.server.instances.keys import parse_raw_lxc
from corral.server.instances.model import Instance
from corral.server.instances.security import nvidia
from corral.server.keys import Config
from corral.units import is_true


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What of the host the configuration depends on."""

    hierarchies: Hierarchies
    memory_total: int
    cpus: tuple[int, ...]
    has_swap_limit: bool
    has_io_weight: bool = True
    """Whether `limits.disk.priority` can be applied."""
    passthrough: tuple[tuple[str, bool], ...] = ()
    """Paths of the host that are shown in every container, and whether each is a directory."""
    lxcfs: tuple[str, ...] = ()
    """Files below the lxcfs mount that replace those of the same path in the container."""
    lxcfs_dir: str = "/var/lib/lxcfs"
    in_user_namespace: bool = False
    apparmor: AppArmor = NO_APPARMOR
    core_scheduling: bool = False
    """Whether a container can have cores to itself while its processes run."""
    has_mqueue: bool = True
    shares: tuple[tuple[str, str], ...] = ()
    """Settings of each unprivileged container's namespace: what it may take of what all share."""
    numa_nodes: Mapping[int, int] = field(default_factory=dict)
    """The NUMA node of each CPU."""


@dataclass(frozen=True, slots=True)
class Paths:
    """Where the start of one container puts and finds its files."""

    root: Path
    log_dir: Path
    target: Path
    seccomp: Path | None
    guest_api: Path | None = None
    """The directory that is shown as /dev/lxd."""
    apparmor: str = "unconfined"
    """The AppArmor profile."""
    intercept: Path | None = None
    """Where intercepted system calls are answered."""

    @property
    def config(self) -> Path:
        return self.log_dir / "lxc.conf"


@dataclass(frozen=True, slots=True)
class InstanceSpec:
    """A container that is about to start."""

    name: str
    hostname: str
    architecture: str
    paths: Paths
    idmap: IdMap | None
    """None: privileged."""
    idmapped_root: bool
    read_only_root: bool
    nesting: bool
    limits: tuple[Setting, ...]
    environment: tuple[tuple[str, str], ...]
    prlimits: tuple[tuple[str, str], ...]
    sysctls: tuple[tuple[str, str], ...]
    nics: tuple[Nic, ...]
    mounts: tuple[Mount, ...]
    raw: tuple[tuple[str, str], ...]
    log_level: str = "warn"
    device_rules: tuple[str, ...] = ()
    devices_are_limited: bool = True
    """Whether it may use only those devices that it is given."""
    mount_hooks: tuple[str, ...] = ()
    """Programs of liblxc's that run when the container's file systems are mounted."""

    @property
    def has_users_hooks(self) -> bool:
        """Whether programs of the user's run at the start, which need a search path."""
        return any(name.startswith("lxc.hook.") and name != "lxc.hook.version" for name, _ in self.raw)


def compose(
    instance: Instance,
    facts: HostFacts,
    paths: Paths,
    idmap: tuple[IdMap | None, bool],
    attachments: Sequence[Attachment],
    log_level: str = "warn",
) -> InstanceSpec:
    """The spec of a container. `idmap` is its map and whether the root is mounted with it."""
    config = instance.expanded_config
    return InstanceSpec(
        name=instance.storage_name,
        hostname=instance.name,
        architecture=architectures.personality(instance.architecture),
        paths=paths,
        idmap=idmap[0],
        idmapped_root=idmap[1],
        read_only_root=any(
            is_root_disk(disk) and is_true(disk.get("readonly")) for disk in instance.expanded_devices.values()
        ),
        nesting=is_true(config.get("security.nesting")),
        limits=(*compose_limits(config, facts), *(setting for one in attachments for setting in one.settings)),
        environment=(
            *_family(config, "environment."),
            *nvidia.environment(config, [name for one in attachments for name in one.nvidia_devices]),
        ),
        mount_hooks=(nvidia.HOOK,) if nvidia.is_wanted(config) else (),
        prlimits=_family(config, "limits.kernel."),
        sysctls=tuple(
            # A privileged container has the host's own settings.
            {**dict(facts.shares if idmap[0] is not None else ()), **dict(_family(config, "linux.sysctl."))}.items()
        ),
        nics=tuple(one.nic for one in attachments if one.nic is not None),
        mounts=tuple(mount for one in attachments for mount in one.mounts),
        device_rules=tuple(rule for one in attachments for rule in one.rules),
        devices_are_limited=limits_devices(instance, facts),
        raw=tuple(parse_raw_lxc(config.get("raw.lxc", ""))),
        log_level=log_level,
    )


_BRINGING_DEVICES = ("lxc.cgroup.devices.", "lxc.cgroup2.devices.", "lxc.hook.", "lxc.include", "lxc.mount.")


def limits_devices(instance: Instance, facts: HostFacts) -> bool:
    """Whether a container may use only those devices that it is given by devices of its own.

    Its volumes may hold device nodes that it did not make: an image, a backup or another server brought them. An id map
    does not keep anybody from using these. An unprivileged container whose `raw.lxc` or NVIDIA's hook may show it
    devices is not limited, as in LXD none of them is.
    """
    if not facts.hierarchies.has("devices") or facts.in_user_namespace:
        return False
    config = instance.expanded_config
    brought = any(key.startswith(_BRINGING_DEVICES) for key, _ in parse_raw_lxc(config.get("raw.lxc", "")))
    return instance.privileged or not (brought or nvidia.is_wanted(config))


def _family(config: Mapping[str, str], prefix: str) -> tuple[tuple[str, str], ...]:
    return tuple((name.removeprefix(prefix), config[name]) for name in sorted(config) if name.startswith(prefix))


def compose_limits(config: Mapping[str, str], facts: HostFacts, *, live: bool = False) -> list[Setting]:
    """The control group settings of a config. `live` also resets what is not limited (any more)."""
    typed = Config(config)
    settings = _memory(typed, facts, live) + _cpu(typed, facts, live) + _processes(typed, facts, live)
    weight = typed[keys.LIMITS_DISK_PRIORITY]
    if weight is not None:
        check_io_weight(facts)
    if weight is not None or (live and facts.has_io_weight):
        settings += cgroup.io_weight_settings(facts.hierarchies, max(10, (5 if weight is None else weight) * 100))
    for size in ("64KB", "1MB", "2MB", "1GB"):
        text = config.get(f"limits.hugepages.{size}")
        if text:
            settings += cgroup.hugepages_settings(facts.hierarchies, size, units.parse_size(text))
    return settings


def check_io_weight(facts: HostFacts) -> None:
    """Raise NotSupported where the host weighs nobody's input and output."""
    if not facts.has_io_weight:
        raise NotSupported("Cannot apply limits.disk.priority as blkio.weight cgroup controller is missing")


def memory_limit(text: str, total: int) -> int:
    """Bytes of `512MiB` or `50%`."""
    return total // 100 * int(text[:-1]) if text.endswith("%") else units.parse_size(text)


def _memory(config: Config, facts: HostFacts, live: bool) -> list[Setting]:
    settings: list[Setting] = []
    text = config[keys.LIMITS_MEMORY]
    swap = config[keys.LIMITS_MEMORY_SWAP]
    if text is not None or live:
        settings += cgroup.memory_settings(
            facts.hierarchies,
            memory_limit(text, facts.memory_total) if text is not None else None,
            soft=config[keys.LIMITS_MEMORY_ENFORCE] == "soft",
            swap=swap is not False,
            has_swap=facts.has_swap_limit,
        )
    priority = config[keys.LIMITS_MEMORY_SWAP_PRIORITY]
    if swap is False:
        settings += cgroup.swappiness_settings(facts.hierarchies, 0)
    elif priority is not None:
        settings += cgroup.swappiness_settings(facts.hierarchies, 70 - priority)
    elif live:
        settings += cgroup.swappiness_settings(facts.hierarchies, 60)
    return settings


def parse_allowance(allowance: str, priority: int, whole: int) -> tuple[int, int | None, int]:
    """Weight, quota (microseconds, None: none) and period of limits.cpu.allowance and limits.cpu.priority.

    `whole` is the weight of all CPU time. A step of priority weighs 1, whatever the whole is, as in LXD.
    """
    quota, period = None, cgroup.CFS_PERIOD_DEFAULT_US
    weight = whole - (10 - priority)
    if allowance.endswith("%"):
        weight = int(allowance[:-1]) * whole // 100 - (10 - priority)
    elif allowance:
        used, _, of = allowance.partition("/")
        quota, period = int(used.removesuffix("ms")) * 1000, int(of.removesuffix("ms")) * 1000
    return max(0, weight), quota, period


def _cpu(config: Config, facts: HostFacts, live: bool) -> list[Setting]:
    allowance = config[keys.LIMITS_CPU_ALLOWANCE] or ""
    priority = config.get(keys.LIMITS_CPU_PRIORITY.name)
    settings: list[Setting] = []
    if allowance or priority or live:
        whole = cgroup.whole_cpu(facts.hierarchies)
        weight, quota, period = parse_allowance(allowance, int(priority) if priority else 10, whole)
        if live or weight != whole:
            settings += cgroup.cpu_weight_settings(facts.hierarchies, weight)
        if live or quota is not None:
            settings += cgroup.cpu_quota_settings(facts.hierarchies, quota, period)
    pinned = config[keys.LIMITS_CPU]
    if pinned is not None and not pinned.isdecimal():
        # As in LXD a container keeps to those CPUs that exist, which profile and copies from elsewhere may not know.
        usable = sorted(set(units.parse_id_ranges(pinned)) & set(facts.cpus))
        if usable or live:
            chosen = units.format_id_ranges(usable or sorted(facts.cpus))
            settings += cgroup.cpuset_settings(facts.hierarchies, chosen)
    return settings


def _processes(config: Config, facts: HostFacts, live: bool) -> list[Setting]:
    limit = config[keys.LIMITS_PROCESSES]
    if limit is not None and limit < 0:
        limit = None
    return cgroup.pids_settings(facts.hierarchies, limit) if limit is not None or live else []


def plan_cpus(limits: Mapping[str, Mapping[str, str]], facts: HostFacts) -> dict[str, str]:
    """CPUs for the containers whose `limits.cpu` is a count, or that have `limits.cpu.nodes`: {name: set}.

    Each takes the CPUs that carry the fewest so far, lowest number first, of its NUMA nodes if it names some; those
    pinned to a set are counted there.
    """
    load = dict.fromkeys(sorted(facts.cpus), 0)
    for one in limits.values():
        text = one.get("limits.cpu", "")
        for cpu in units.parse_id_ranges(text) if text and not text.isdecimal() else ():
            if cpu in load:
                load[cpu] += 1
    plan: dict[str, str] = {}
    for name in sorted(limits):
        text, nodes = limits[name].get("limits.cpu", ""), limits[name].get("limits.cpu.nodes", "")
        if not text.isdecimal() and (text or not nodes):
            continue
        usable = _cpus_of_nodes(nodes, facts) if nodes else list(load)
        count = min(max(1, int(text)), len(usable)) if text else len(usable)
        chosen = sorted(usable, key=lambda cpu: (load[cpu], cpu))[:count]
        for cpu in chosen:
            load[cpu] += 1
        plan[name] = units.format_id_ranges(chosen)
    return plan


def _cpus_of_nodes(nodes: str, facts: HostFacts) -> list[int]:
    """The usable CPUs of NUMA nodes; all where this server has none of the nodes, which a profile may not know."""
    wanted = set(units.parse_id_ranges(nodes))
    return [cpu for cpu in facts.cpus if facts.numa_nodes.get(cpu, 0) in wanted] or list(facts.cpus)
