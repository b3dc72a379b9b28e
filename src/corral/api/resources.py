"""Wire form of the machine's hardware: GET /1.0/resources. What is unknown is left out, as LXD does."""

import msgspec
from msgspec import UNSET, UnsetType

Text = str | UnsetType
Number = int | UnsetType


class CPUCache(msgspec.Struct, kw_only=True):
    """A cache of a socket; `size` is bytes."""

    level: int
    type: str
    size: int


class CPUThread(msgspec.Struct, kw_only=True):
    """A hardware thread; `id` is the number that limits.cpu takes."""

    id: int
    numa_node: int = 0
    thread: int = 0
    online: bool = True
    isolated: bool = False


class CPUCore(msgspec.Struct, kw_only=True):
    """A core with its threads; frequencies are MHz."""

    core: int
    die: int = 0
    threads: list[CPUThread] = []
    frequency: Number = UNSET


class CPUSocket(msgspec.Struct, kw_only=True):
    """A processor; frequencies are MHz."""

    name: Text = UNSET
    vendor: Text = UNSET
    socket: int = 0
    cache: list[CPUCache] | UnsetType = UNSET
    cores: list[CPUCore] = []
    frequency: Number = UNSET
    frequency_minimum: Number = UNSET
    frequency_turbo: Number = UNSET


class CPU(msgspec.Struct, kw_only=True):
    """All processors; `total` counts threads."""

    architecture: str
    sockets: list[CPUSocket]
    total: int


class MemoryNode(msgspec.Struct, kw_only=True):
    """The memory of one NUMA node, in bytes."""

    numa_node: int
    hugepages_used: int = 0
    hugepages_total: int = 0
    used: int = 0
    total: int = 0


class Memory(msgspec.Struct, kw_only=True):
    """The machine's memory, in bytes."""

    nodes: list[MemoryNode] | UnsetType = UNSET
    hugepages_total: int = 0
    hugepages_used: int = 0
    hugepages_size: int = 0
    used: int = 0
    total: int = 0


class GPUCardDRM(msgspec.Struct, kw_only=True):
    """The device nodes of a card, each by its name and as MAJOR:MINOR."""

    id: int
    card_name: str
    card_device: str
    control_name: Text = UNSET
    control_device: Text = UNSET
    render_name: Text = UNSET
    render_device: Text = UNSET


class GPUCardMdev(msgspec.Struct, kw_only=True):
    """A kind of mediated device that a card offers, and those that exist, by their UUIDs."""

    api: str
    available: int
    name: Text = UNSET
    description: Text = UNSET
    devices: list[str]


class GPUCardNvidia(msgspec.Struct, kw_only=True):
    """What NVIDIA's driver says of a card."""

    cuda_version: Text = UNSET
    nvrm_version: Text = UNSET
    brand: str = ""
    model: str = ""
    uuid: Text = UNSET
    architecture: Text = UNSET
    card_name: Text = UNSET
    card_device: Text = UNSET


class GPUCardSRIOV(msgspec.Struct, kw_only=True):
    """The virtual functions of a card."""

    current_vfs: int
    maximum_vfs: int
    vfs: list["GPUCard"] | None = None


class GPUCard(msgspec.Struct, kw_only=True):
    """A graphics card, or a virtual function of one."""

    driver: Text = UNSET
    driver_version: Text = UNSET
    drm: GPUCardDRM | UnsetType = UNSET
    sriov: GPUCardSRIOV | UnsetType = UNSET
    nvidia: GPUCardNvidia | UnsetType = UNSET
    mdev: dict[str, GPUCardMdev] | UnsetType = UNSET
    numa_node: int = 0
    pci_address: Text = UNSET
    vendor: Text = UNSET
    vendor_id: Text = UNSET
    product: Text = UNSET
    product_id: Text = UNSET
    usb_address: Text = UNSET


class GPU(msgspec.Struct, kw_only=True):
    """All graphics cards."""

    cards: list[GPUCard]
    total: int


class NetworkCardPortInfiniband(msgspec.Struct, kw_only=True):
    """The device nodes of an Infiniband port, each by its name and as MAJOR:MINOR."""

    issm_name: Text = UNSET
    issm_device: Text = UNSET
    mad_name: Text = UNSET
    mad_device: Text = UNSET
    verb_name: Text = UNSET
    verb_device: Text = UNSET


class NetworkCardVDPA(msgspec.Struct, kw_only=True):
    """The vDPA device on a virtual function."""

    name: str
    device: str


class NetworkCardPort(msgspec.Struct, kw_only=True):
    """A port of a card; `id` is its interface, `address` its MAC address, `link_speed` Mbit/s."""

    id: str
    address: Text = UNSET
    port: int = 0
    protocol: str = "ethernet"
    supported_modes: list[str] | UnsetType = UNSET
    supported_ports: list[str] | UnsetType = UNSET
    port_type: Text = UNSET
    transceiver_type: Text = UNSET
    auto_negotiation: bool = False
    link_detected: bool = False
    link_speed: Number = UNSET
    link_duplex: Text = UNSET
    infiniband: NetworkCardPortInfiniband | UnsetType = UNSET


class NetworkCardSRIOV(msgspec.Struct, kw_only=True):
    """The virtual functions of a card."""

    current_vfs: int
    maximum_vfs: int
    vfs: list["NetworkCard"] | None = None


class NetworkCard(msgspec.Struct, kw_only=True):
    """A network card, or a virtual function of one."""

    driver: Text = UNSET
    driver_version: Text = UNSET
    ports: list[NetworkCardPort] | UnsetType = UNSET
    sriov: NetworkCardSRIOV | UnsetType = UNSET
    vdpa: NetworkCardVDPA | UnsetType = UNSET
    numa_node: int = 0
    pci_address: Text = UNSET
    vendor: Text = UNSET
    vendor_id: Text = UNSET
    product: Text = UNSET
    product_id: Text = UNSET
    firmware_version: Text = UNSET
    usb_address: Text = UNSET


class Network(msgspec.Struct, kw_only=True):
    """All network cards."""

    cards: list[NetworkCard]
    total: int


class DiskPartition(msgspec.Struct, kw_only=True):
    """A partition; `device` is MAJOR:MINOR, `size` bytes."""

    id: str
    device: str
    read_only: bool
    size: int
    partition: int


class Disk(msgspec.Struct, kw_only=True):
    """A block device: `id` is its name, `device` MAJOR:MINOR, sizes are bytes; `rpm` is 0 for what does not turn."""

    id: str
    device: str
    model: Text = UNSET
    type: Text = UNSET
    read_only: bool = False
    size: int = 0
    removable: bool = False
    wwn: Text = UNSET
    numa_node: int = 0
    device_path: Text = UNSET
    block_size: int = 0
    firmware_version: Text = UNSET
    rpm: int = 0
    serial: Text = UNSET
    device_id: str = ""
    partitions: list[DiskPartition] = []
    pci_address: Text = UNSET
    usb_address: Text = UNSET


class Storage(msgspec.Struct, kw_only=True):
    """All disks; `total` counts them with their partitions."""

    disks: list[Disk]
    total: int


class USBInterface(msgspec.Struct, kw_only=True):
    """An interface of a USB device."""

    class_: str = msgspec.field(name="class", default="")
    class_id: int = 0
    driver: str = ""
    driver_version: str = ""
    number: int = 0
    subclass: str = ""
    subclass_id: int = 0


class USBDevice(msgspec.Struct, kw_only=True):
    """A USB device; `speed` is Mbit/s."""

    bus_address: int
    device_address: int
    interfaces: list[USBInterface]
    vendor: str
    vendor_id: str
    product: str
    product_id: str
    speed: float


class USB(msgspec.Struct, kw_only=True):
    """All USB devices."""

    devices: list[USBDevice]
    total: int


class PCIVPD(msgspec.Struct, kw_only=True):
    """The vital product data of a PCI device."""

    product_name: Text = UNSET
    entries: dict[str, str] | UnsetType = UNSET


class PCIDevice(msgspec.Struct, kw_only=True):
    """A PCI device."""

    driver: str = ""
    driver_version: str = ""
    numa_node: int = 0
    pci_address: str
    vendor: str = ""
    vendor_id: str = ""
    product: str = ""
    product_id: str = ""
    iommu_group: int = 0
    vpd: PCIVPD = msgspec.field(default_factory=PCIVPD)


class PCI(msgspec.Struct, kw_only=True):
    """All PCI devices."""

    devices: list[PCIDevice]
    total: int


class SystemFirmware(msgspec.Struct, kw_only=True):
    """The BIOS or UEFI."""

    vendor: str
    date: str
    version: str


class SystemChassis(msgspec.Struct, kw_only=True):
    """The case."""

    vendor: str
    type: str
    serial: str
    version: str


class SystemMotherboard(msgspec.Struct, kw_only=True):
    """The main board."""

    vendor: str
    product: str
    serial: str
    version: str


class System(msgspec.Struct, kw_only=True):
    """The machine as DMI describes it; `type` is physical, virtual-machine or container."""

    uuid: str
    vendor: str
    product: str
    family: str
    version: str
    sku: str
    serial: str
    type: str
    firmware: SystemFirmware | None = None
    chassis: SystemChassis | None = None
    motherboard: SystemMotherboard | None = None


class Resources(msgspec.Struct, kw_only=True):
    """All of it."""

    cpu: CPU
    memory: Memory
    gpu: GPU
    network: Network
    storage: Storage
    usb: USB
    pci: PCI
    system: System
