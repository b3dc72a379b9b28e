"""Wire form of instances and their state."""

import msgspec

Config = dict[str, str]
Devices = dict[str, dict[str, str]]


class InstanceSource(msgspec.Struct, kw_only=True):
    """Where a new instance comes from."""

    type: str = ""
    certificate: str = ""
    alias: str = ""
    fingerprint: str = ""
    properties: dict[str, str] | None = None
    server: str = ""
    secret: str = ""
    protocol: str = ""
    base_image: str = msgspec.field(default="", name="base-image")
    mode: str = ""
    operation: str = ""
    secrets: dict[str, str] | None = None
    source: str = ""
    live: bool = False
    instance_only: bool = False
    container_only: bool = False
    refresh: bool = False
    project: str = ""
    allow_inconsistent: bool = False


class InstancePut(msgspec.Struct, kw_only=True):
    """What of an instance may be edited."""

    architecture: str = ""
    config: Config | None = None
    devices: Devices | None = None
    ephemeral: bool = False
    profiles: list[str] | None = None
    restore: str = ""
    stateful: bool = False
    description: str = ""


class InstancePatch(msgspec.Struct, kw_only=True):
    """A change of some of what may be edited; what is absent stays."""

    architecture: str | msgspec.UnsetType | None = msgspec.UNSET
    config: Config | msgspec.UnsetType | None = msgspec.UNSET
    devices: Devices | msgspec.UnsetType | None = msgspec.UNSET
    ephemeral: bool | msgspec.UnsetType | None = msgspec.UNSET
    profiles: list[str] | msgspec.UnsetType | None = msgspec.UNSET
    description: str | msgspec.UnsetType | None = msgspec.UNSET
    restore: str | None = None


class InstancesPost(InstancePut, kw_only=True):
    """A new instance."""

    name: str = ""
    source: InstanceSource = msgspec.field(default_factory=InstanceSource)
    instance_type: str = ""
    type: str = ""


class InstancePostTarget(msgspec.Struct, kw_only=True):
    """Where a migrated instance goes."""

    certificate: str = ""
    operation: str = ""
    secrets: dict[str, str] | None = None


class InstancePost(msgspec.Struct, kw_only=True):
    """A rename or a migration. The last three are put over what the instance has; they are spelled so."""

    name: str = ""
    migration: bool = False
    live: bool = False
    instance_only: bool = False
    container_only: bool = False
    target: InstancePostTarget | None = None
    pool: str = ""
    project: str = ""
    allow_inconsistent: bool = False
    config: Config | None = msgspec.field(default=None, name="Config")
    devices: Devices | None = msgspec.field(default=None, name="Devices")
    profiles: list[str] | None = msgspec.field(default=None, name="Profiles")


class InstanceRebuildPost(msgspec.Struct, kw_only=True):
    """What an instance is made anew from."""

    source: InstanceSource = msgspec.field(default_factory=InstanceSource)


class InstanceStatePut(msgspec.Struct, kw_only=True):
    """A change of state; a timeout of -1 waits for ever."""

    action: str = ""
    timeout: int = -1
    force: bool = False
    stateful: bool = False


class InstancesPut(msgspec.Struct, kw_only=True):
    """A change of state of all instances of a project."""

    state: InstanceStatePut | None = None


class InstanceStateCPU(msgspec.Struct, kw_only=True):
    """CPU time in nanoseconds."""

    usage: int = 0


class InstanceStateDisk(msgspec.Struct, kw_only=True):
    """Bytes on the disk; `total` is the limit, where there is one."""

    usage: int
    total: int = 0


class InstanceStateMemory(msgspec.Struct, kw_only=True):
    """Bytes of memory."""

    usage: int = 0
    usage_peak: int = 0
    total: int = 0
    swap_usage: int = 0
    swap_usage_peak: int = 0


class InstanceStateNetworkAddress(msgspec.Struct, kw_only=True):
    """An address of an interface."""

    family: str
    address: str
    netmask: str
    scope: str


class InstanceStateNetworkCounters(msgspec.Struct, kw_only=True):
    """Traffic of an interface."""

    bytes_received: int = 0
    bytes_sent: int = 0
    packets_received: int = 0
    packets_sent: int = 0
    errors_received: int = 0
    errors_sent: int = 0
    packets_dropped_outbound: int = 0
    packets_dropped_inbound: int = 0


class InstanceStateNetwork(msgspec.Struct, kw_only=True):
    """An interface inside the instance."""

    addresses: list[InstanceStateNetworkAddress]
    counters: InstanceStateNetworkCounters
    hwaddr: str
    host_name: str
    mtu: int
    state: str
    type: str


class InstanceState(msgspec.Struct, kw_only=True):
    """What an instance does and uses now."""

    status: str
    status_code: int
    disk: dict[str, InstanceStateDisk] | None = None
    memory: InstanceStateMemory = msgspec.field(default_factory=InstanceStateMemory)
    network: dict[str, InstanceStateNetwork] | None = None
    pid: int = 0
    processes: int = 0
    cpu: InstanceStateCPU = msgspec.field(default_factory=InstanceStateCPU)


class InstanceSnapshot(msgspec.Struct, kw_only=True):
    """A snapshot of an instance."""

    name: str
    created_at: str
    expires_at: str
    last_used_at: str
    architecture: str
    config: Config
    devices: Devices
    ephemeral: bool
    expanded_config: Config
    expanded_devices: Devices
    profiles: list[str]
    stateful: bool
    size: int = -1


class InstanceSnapshotsPost(msgspec.Struct, kw_only=True):
    """A new snapshot."""

    name: str = ""
    stateful: bool = False
    expires_at: str | None = None


class InstanceSnapshotPut(msgspec.Struct, kw_only=True):
    """What of a snapshot may be edited."""

    expires_at: str | None = None


class InstanceSnapshotPost(msgspec.Struct, kw_only=True):
    """A rename or a migration of a snapshot."""

    name: str = ""
    migration: bool = False
    live: bool = False
    target: InstancePostTarget | None = None


class Instance(msgspec.Struct, kw_only=True):
    """An instance."""

    architecture: str
    config: Config
    devices: Devices
    ephemeral: bool
    profiles: list[str]
    stateful: bool
    description: str
    created_at: str
    expanded_config: Config
    expanded_devices: Devices
    name: str
    status: str
    status_code: int
    last_used_at: str
    location: str
    type: str
    project: str


class InstanceBackup(msgspec.Struct, kw_only=True):
    """A backup of an instance."""

    name: str
    created_at: str
    expires_at: str
    instance_only: bool
    container_only: bool
    optimized_storage: bool


class InstanceFull(Instance, kw_only=True):
    """An instance with all that hangs on it."""

    backups: list[InstanceBackup] | None = None
    state: InstanceState | None = None
    snapshots: list[InstanceSnapshot] | None = None


class MetadataTemplate(msgspec.Struct, kw_only=True):
    """A file that is rendered into an instance: when, and from which file of templates/."""

    when: list[str] | None = None
    create_only: bool = False
    template: str = ""
    properties: dict[str, str] | None = None


class InstanceMetadata(msgspec.Struct, kw_only=True):
    """The image metadata that an instance has; dates are seconds since 1970."""

    architecture: str = ""
    creation_date: int = 0
    expiry_date: int = 0
    properties: dict[str, str] | None = None
    templates: dict[str, MetadataTemplate] | None = None


class InstanceBackupsPost(msgspec.Struct, kw_only=True):
    """A backup to make. Without a name it gets the next of its series; without an expiry it stays."""

    name: str = ""
    expires_at: str | None = None
    instance_only: bool = False
    container_only: bool = False
    optimized_storage: bool = False
    compression_algorithm: str = ""


class InstanceBackupPost(msgspec.Struct, kw_only=True):
    """The new name of a backup."""

    name: str = ""
