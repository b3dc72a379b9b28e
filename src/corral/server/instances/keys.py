"""The config keys of instances, declared once; the names and meanings are those of LXD 5.0."""

import re
import uuid
from typing import Any

import yaml

from corral import units
from corral.errors import InvalidRequest
from corral.server.instances.model import InstanceType
from corral.server.instances.security import idmaps
from corral.server.keys import (
    BOOL,
    EXPIRY,
    INTEGER,
    LINE,
    STRING,
    UNSIGNED32,
    Key,
    KeyTable,
    KeyType,
    enum,
    integer_between,
)
from corral.server.snapshots.naming import DEFAULT_PATTERN, PATTERN
from corral.server.snapshots.schedule import INSTANCE_SCHEDULE

CONTAINER = frozenset({InstanceType.CONTAINER.value})
VM = frozenset({InstanceType.VIRTUAL_MACHINE.value})


def _memory(text: str) -> str:
    number = text.removesuffix("%")
    if text.endswith("%"):
        if not number.isdecimal() or int(number) == 0:
            raise InvalidRequest(f"Memory limit {text!r} is no percentage above 0%")
    elif units.parse_size(text) <= 0:
        raise InvalidRequest("Memory limit can't be 0")
    return text


def _allowance(text: str) -> str:
    if re.fullmatch(r"[0-9]+%|[0-9]+(ms)?/[0-9]+(ms)?", text) is None:
        raise InvalidRequest(f"Invalid allowance: {text}")
    return text


def _cpu(text: str) -> str:
    if re.fullmatch(r"[0-9]+", text) is None and re.fullmatch(r"[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*", text) is None:
        raise InvalidRequest("Invalid CPU limit syntax")
    if text.isdecimal() and int(text) >= 2**63:
        raise InvalidRequest(f"Invalid cpuset value: {text}")
    if not text.isdecimal():
        parts = [part.partition("-") for part in text.split(",")]
        if len(units.parse_id_ranges(text)) != sum(int(last or first) - int(first) + 1 for first, _, last in parts):
            raise InvalidRequest("Cannot define CPU multiple times")
    return text


def _set(text: str) -> str:
    if re.fullmatch(r"[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*", text) is None:
        raise InvalidRequest("Invalid CPU limit syntax")
    units.parse_id_ranges(text)
    return text


def _yaml(text: str) -> str:
    # Only read, not made into objects: tags and dates are the guest's business.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
    try:
        node = loader.get_node() if loader.check_node() else None
    except yaml.YAMLError as error:
        raise InvalidRequest(f"Invalid YAML: {error}") from error
    finally:
        loader.dispose()
    if node is not None and not isinstance(node, yaml.MappingNode) and node.tag != "tag:yaml.org,2002:null":
        raise InvalidRequest("Invalid YAML: it must be a mapping of keys to values")
    return text


def _cloud_config(text: str) -> str:
    if text == "#cloud-config" or text.startswith("#cloud-config\n"):
        _yaml(text)
    return text


def _uuid(text: str) -> str:
    try:
        uuid.UUID(text)
    except ValueError as error:
        raise InvalidRequest("Invalid UUID") from error
    return text


_LXC_KEY = re.compile(
    r"lxc\.(apparmor\.(profile|allow_incomplete|allow_nesting|raw)|arch|autodev(\.tmpfs\.size)?|cap\.(drop|keep)"
    r"|cgroup2?\..+|cgroup\.(dir(\.monitor(\.pivot)?|\.container(\.inner)?)?|relative)"
    r"|console\.(buffer\.size|logfile|path|rotate|size)|environment|execute\.cmd|group"
    r"|hook\.(autodev|clone|destroy|mount|post-stop|pre-mount|pre-start|start|start-host|stop|version)|idmap|include"
    r"|init\.(cmd|cwd|gid|groups|uid)|keyring\.session|log\.level|monitor\.(signal\.pdeath|unshare)"
    r"|mount\.(auto|entry|fstab)|namespace\.(clone|keep|share\..+)|net\.[0-9]+\..+|no_new_privs|proc\..+|pty\.max"
    r"|rootfs\.(managed|mount|options|path)|sched\.core|seccomp\.(allow_nesting|notify\.(cookie|proxy)|profile)"
    r"|selinux\.context(\.keyring)?|signal\.(halt|reboot|stop)|start\.(auto|delay|order)|sysctl\..+"
    r"|time\.offset\.(boot|monotonic)|tty\.(dir|max)|uts\.name)"
)
"""The keys of liblxc 5.0 (lxc.container.conf(5)); others would be refused at the start."""

_LXC_LINE = re.compile(r"\s*(?:#.*|([^=]+?)\s*=\s*(.*?)\s*)?")
_FORBIDDEN_LXC = {
    "lxc.logfile": "Setting lxc.logfile is not allowed",
    "lxc.log.file": "Setting lxc.logfile is not allowed",
    "lxc.syslog": "Setting lxc.log.syslog is not allowed",
    "lxc.log.syslog": "Setting lxc.log.syslog is not allowed",
    "lxc.ephemeral": "Setting lxc.ephemeral is not allowed",
}
_ALLOWED_NET = re.compile(r"lxc\.net\.[0-9]+\.ipv[46]\.(address|gateway)")


def parse_raw_lxc(text: str) -> list[tuple[str, str]]:
    """The settings of a `raw.lxc` value; InvalidRequest for a line that is none or that is not allowed."""
    settings = []
    for line in text.split("\n"):
        match = _LXC_LINE.fullmatch(line)
        if match is None:
            raise InvalidRequest(f"Invalid raw.lxc line: {line}")
        if match[1] is None:
            continue
        key = match[1].lower()
        if key in _FORBIDDEN_LXC:
            raise InvalidRequest(_FORBIDDEN_LXC[key])
        if key.startswith("lxc.prlimit."):
            raise InvalidRequest(
                'Process limits should be set via "limits.kernel.[limit name]" and not directly via '
                '"lxc.prlimit.[limit name]"'
            )
        if _LXC_KEY.fullmatch(key) is None:
            raise InvalidRequest(f"Failed to set LXC config: {key}={match[2]}: liblxc has no such key")
        if key.startswith("lxc.net.") and _ALLOWED_NET.fullmatch(key) is None:
            raise InvalidRequest("Only interface-specific ipv4/ipv6 lxc.net. keys are allowed")
        settings.append((key, match[2]))
    return settings


def _raw_lxc(text: str) -> str:
    parse_raw_lxc(text)
    return text


def parse_fuse(text: str) -> dict[str, str]:
    """The FUSE programs of `ext4=fuse2fs,ntfs=ntfs-3g` by file system; InvalidRequest for another form."""
    programs = {}
    for pair in text.split(",") if text else []:
        name, given, program = pair.partition("=")
        if not given or "=" in program or not name or not program:
            raise InvalidRequest(
                "security.syscalls.intercept.mount.fuse is not of the form 'filesystem=fuse-binary': " + pair
            )
        programs[name] = program
    return programs


def _environment(text: str) -> str:
    if any(character in text for character in "\n\r\0"):
        raise InvalidRequest("Environment variables cannot contain line breaks")
    return text


def _prlimit(text: str) -> str:
    if re.fullmatch(r"(unlimited|[0-9]+)(:(unlimited|[0-9]+))?", text) is None:
        raise InvalidRequest(f"Invalid limit {text!r}: a number or unlimited, or two of them as in 1000:2000")
    return text


def _limit(text: str) -> int:
    size = units.parse_size(text)
    if size < 0:
        raise InvalidRequest(f"Invalid value: {text}")
    return size


def _idmap(text: str) -> str:
    try:
        idmaps.of_text(text)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidRequest("It is no id map") from error
    return text


PRIORITY = integer_between(0, 10)
ENVIRONMENT: KeyType[str] = KeyType("text in one line", _environment)
PRLIMIT: KeyType[str] = KeyType("limit or soft:hard", _prlimit)
LIMIT: KeyType[int] = KeyType("size", _limit)
MEMORY: KeyType[str] = KeyType("size or percentage", _memory)
ALLOWANCE: KeyType[str] = KeyType("percentage or time slice", _allowance)
CPU_SET: KeyType[str] = KeyType("set of numbers", _set)
CPU: KeyType[str] = KeyType("count or set of CPUs", _cpu)
YAML: KeyType[str] = KeyType("YAML", _yaml)
CLOUD_CONFIG: KeyType[str] = KeyType("cloud-init data", _cloud_config)
IDMAP: KeyType[str] = KeyType("id map", _idmap)
UUID: KeyType[str] = KeyType("UUID", _uuid)
RAW_LXC: KeyType[str] = KeyType("liblxc configuration", _raw_lxc)


def _container(name: str, kind: KeyType[Any], doc: str, *, default: str | None = None, live: bool = False) -> Key[Any]:
    return Key(name, kind, default=default, live=live, doc=doc, applies=CONTAINER)


def _vm(name: str, kind: KeyType[Any], doc: str, *, default: str | None = None, live: bool = False) -> Key[Any]:
    return Key(name, kind, default=default, live=live, doc=doc, applies=VM)


def _any(name: str, kind: KeyType[Any], doc: str, *, default: str | None = None, live: bool = False) -> Key[Any]:
    return Key(name, kind, default=default, live=live, doc=doc)


AUTOSTART = _any("boot.autostart", BOOL, "Always start the instance when the daemon starts; if unset, as it was left")
AUTOSTART_DELAY = _any("boot.autostart.delay", INTEGER, "Seconds to wait after its start before the next", default="0")
AUTOSTART_PRIORITY = _any("boot.autostart.priority", INTEGER, "Order of starts, highest first", default="0")
STOP_PRIORITY = _any("boot.stop.priority", INTEGER, "Order of stops, highest first", default="0")
SHUTDOWN_TIMEOUT = _any(
    "boot.host_shutdown_timeout", INTEGER, "Seconds to wait for the instance to shut down", default="30", live=True
)
LIMITS_CPU = _any("limits.cpu", CPU, "Number of CPUs, or the set to pin to", live=True)
LIMITS_CPU_NODES = _any("limits.cpu.nodes", CPU_SET, "NUMA nodes that the CPUs are chosen from", live=True)
LIMITS_MEMORY = _any("limits.memory", MEMORY, "Memory limit, in bytes or percent of the host's", live=True)
LIMITS_DISK_PRIORITY = _any("limits.disk.priority", PRIORITY, "Priority of its input and output", live=True)
LIMITS_CPU_ALLOWANCE = _container(
    "limits.cpu.allowance", ALLOWANCE, "Share of CPU time: 50% (soft) or 25ms/100ms (hard)", live=True
)
LIMITS_CPU_PRIORITY = _container("limits.cpu.priority", PRIORITY, "CPU priority under load", default="10", live=True)
LIMITS_MEMORY_ENFORCE = _container(
    "limits.memory.enforce", enum("soft", "hard"), "Whether the memory limit is strict", default="hard", live=True
)
LIMITS_MEMORY_SWAP = _container(
    "limits.memory.swap", BOOL, "Whether its memory may be swapped", default="true", live=True
)
LIMITS_MEMORY_SWAP_PRIORITY = _container(
    "limits.memory.swap.priority", PRIORITY, "The higher, the less it is swapped", live=True
)
LIMITS_NETWORK_PRIORITY = _any(
    "limits.network.priority", PRIORITY, "Priority of its network traffic", default="0", live=True
)
LIMITS_PROCESSES = _container("limits.processes", INTEGER, "Highest number of processes", live=True)
NESTING = _container("security.nesting", BOOL, "Support running containers inside", default="false", live=True)
PRIVILEGED = _container("security.privileged", BOOL, "Run without an id map", default="false")
PROTECTION_DELETE = _any(
    "security.protection.delete", BOOL, "Refuse to delete the instance", default="false", live=True
)
PROTECTION_SHIFT = _container(
    "security.protection.shift", BOOL, "Refuse to change the owners of its files", default="false", live=True
)
DEVLXD = _any("security.devlxd", BOOL, "Whether the guest API is present", default="true", live=True)
DEVLXD_IMAGES = _container("security.devlxd.images", BOOL, "Images over the guest API", default="false", live=True)

_GENERAL = KeyTable(
    AUTOSTART,
    AUTOSTART_DELAY,
    AUTOSTART_PRIORITY,
    STOP_PRIORITY,
    SHUTDOWN_TIMEOUT,
    _any("cloud-init.network-config", YAML, "cloud-init network configuration"),
    _any("cloud-init.user-data", CLOUD_CONFIG, "cloud-init user data"),
    _any("cloud-init.vendor-data", CLOUD_CONFIG, "cloud-init vendor data"),
    _any(
        "cluster.evacuate", enum("auto", "migrate", "live-migrate", "stop"), "What an evacuation does", default="auto"
    ),
    _any("environment.*", ENVIRONMENT, "Variable of the environment of exec and init", live=True),
    _any("image.*", STRING, "Property of the image it was made from"),
    _any("raw.apparmor", STRING, "Lines for the AppArmor profile", live=True),
    _any("raw.idmap", STRING, "Entries for the id map"),
    _any(
        "snapshots.schedule", INSTANCE_SCHEDULE, "When snapshots are taken by themselves: cron expressions or aliases"
    ),
    _any("snapshots.schedule.stopped", BOOL, "Whether also a stopped instance is snapshotted", default="false"),
    _any("snapshots.pattern", PATTERN, "Template of snapshot names", default=DEFAULT_PATTERN),
    _any("snapshots.expiry", EXPIRY, "How long snapshots are kept, such as 1w 2d"),
    PROTECTION_DELETE,
    DEVLXD,
)
_LIMITS = KeyTable(
    LIMITS_CPU,
    LIMITS_CPU_NODES,
    LIMITS_CPU_ALLOWANCE,
    LIMITS_CPU_PRIORITY,
    LIMITS_MEMORY,
    LIMITS_MEMORY_ENFORCE,
    LIMITS_MEMORY_SWAP,
    LIMITS_MEMORY_SWAP_PRIORITY,
    LIMITS_PROCESSES,
    LIMITS_DISK_PRIORITY,
    LIMITS_NETWORK_PRIORITY,
    *(
        _container(f"limits.hugepages.{size}", LIMIT, f"Limit of {size} huge pages", live=True)
        for size in ("64KB", "1MB", "2MB", "1GB")
    ),
    _any("limits.kernel.*", PRLIMIT, "Resource limit of its processes, as in prlimit(1)"),
    _vm("limits.memory.hugepages", BOOL, "Back its memory by huge pages", default="false"),
)
_CONTAINER_KEYS = KeyTable(
    NESTING,
    PRIVILEGED,
    PROTECTION_SHIFT,
    _container("linux.kernel_modules", STRING, "Kernel modules to load before the start", live=True),
    _container("linux.sysctl.*", LINE, "Kernel setting inside the container"),
    _container("migration.incremental.memory", BOOL, "Transfer memory in rounds", default="false", live=True),
    _container("migration.incremental.memory.iterations", UNSIGNED32, "Most rounds of a transfer", live=True),
    _container("migration.incremental.memory.goal", UNSIGNED32, "Percent in sync before the last round", live=True),
    _container("nvidia.runtime", BOOL, "Pass the NVIDIA libraries in", default="false"),
    _container("nvidia.driver.capabilities", LINE, "What the driver must offer"),
    _container("nvidia.require.cuda", LINE, "CUDA version that is needed"),
    _container("nvidia.require.driver", LINE, "Driver version that is needed"),
    _container("raw.lxc", RAW_LXC, "Lines appended to the liblxc configuration"),
    _container("raw.seccomp", STRING, "The whole seccomp policy"),
    DEVLXD_IMAGES,
    _container("security.idmap.base", UNSIGNED32, "First host id of its map"),
    _container("security.idmap.isolated", BOOL, "Give it an id map of its own", default="false"),
    _container("security.idmap.size", UNSIGNED32, "Length of its id map"),
    *(
        _container(f"security.syscalls.{word}", STRING, "System calls to allow or deny")
        for word in ("allow", "whitelist", "deny", "blacklist")
    ),
    *(
        _container(f"security.syscalls.{word}", BOOL, "Use of the deny lists")
        for word in ("deny_default", "blacklist_default", "deny_compat", "blacklist_compat")
    ),
    *(
        _container(f"security.syscalls.intercept.{word}", BOOL, "Handle these system calls", default="false")
        for word in ("bpf", "bpf.devices", "mknod", "mount", "sched_setscheduler", "setxattr", "sysinfo")
    ),
    _container("security.syscalls.intercept.mount.allowed", STRING, "File systems it may mount", live=True),
    _container("security.syscalls.intercept.mount.fuse", STRING, "FUSE programs: ext4=fuse2fs", live=True),
    _container("security.syscalls.intercept.mount.shift", BOOL, "Mount by its id map", default="false", live=True),
)
_VM_KEYS = KeyTable(
    _vm("agent.nic_config", BOOL, "Let the agent name the interfaces", default="false"),
    _vm("migration.stateful", BOOL, "Allow stateful stop and snapshots", default="false"),
    _vm("raw.qemu", STRING, "Arguments appended to QEMU's"),
    _vm("raw.qemu.conf", STRING, "Changes to QEMU's configuration"),
    _vm("security.agent.metrics", BOOL, "Ask the agent for state and metrics", default="true"),
    _vm("security.secureboot", BOOL, "Secure Boot with Microsoft's keys", default="true"),
    _vm("volatile.apply_nvram", BOOL, "Make the NVRAM anew at the next start"),
)
_VOLATILE = KeyTable(
    _any("volatile.apply_template", STRING, "Template trigger of the next start"),
    _any("volatile.base_image", STRING, "Fingerprint of the image it was made from"),
    _any("volatile.cloud-init.instance-id", UUID, "Instance id for cloud-init"),
    _any("volatile.evacuate.origin", STRING, "Member it was evacuated from"),
    _any("volatile.last_state.idmap", IDMAP, "Id map of the files on the disk"),
    _any("volatile.last_state.power", STRING, "Whether it ran when it was last seen"),
    _any("volatile.idmap.base", UNSIGNED32, "First host id of its map"),
    _any("volatile.idmap.current", IDMAP, "Id map in use"),
    _any("volatile.idmap.next", IDMAP, "Id map of the next start"),
    _any("volatile.apply_quota", STRING, "Size to apply at the next start"),
    _any("volatile.uuid", UUID, "Identity of the instance"),
    _any("volatile.uuid.generation", UUID, "Identity of its present state"),
    _any("volatile.vsock_id", INTEGER, "vsock address"),
)

KEYS = _GENERAL + _LIMITS + _CONTAINER_KEYS + _VM_KEYS + _VOLATILE

_VOLATILE_SUFFIXES = [
    ".hwaddr",
    ".name",
    ".host_name",
    ".mtu",
    ".created",
    ".id",
    ".vlan",
    ".spoofcheck",
    ".last_state.vf.parent",
    ".apply_quota",
    ".ceph_rbd",
    ".driver",
    ".uuid",
    ".last_state.ip_addresses",
]


def is_device_volatile(name: str) -> bool:
    """Whether this is a volatile key of a device, as `volatile.eth0.hwaddr`."""
    return name.startswith("volatile.") and name.count(".") > 1 and name.endswith(tuple(_VOLATILE_SUFFIXES))
