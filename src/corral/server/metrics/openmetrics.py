"""Metrics as text, in the exposition format that Prometheus reads. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

GAUGE, COUNTER = "gauge", "counter"

Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Series:
    """One metric: its name, kind and what it says."""

    name: str
    kind: str
    help: str


def _counter(name: str, text: str) -> Series:
    return Series(f"lxd_{name}_total", COUNTER, text)


def _bytes(name: str, text: str) -> Series:
    return Series(f"lxd_{name}_bytes", GAUGE, text)


CPU_SECONDS = _counter("cpu_seconds", "CPU time used, in seconds.")
DISK_READ_BYTES = _counter("disk_read_bytes", "Bytes read.")
DISK_READS = _counter("disk_reads_completed", "Reads completed.")
DISK_WRITTEN_BYTES = _counter("disk_written_bytes", "Bytes written.")
DISK_WRITES = _counter("disk_writes_completed", "Writes completed.")
FILESYSTEM_AVAIL = _bytes("filesystem_avail", "Space that users can fill, in bytes.")
FILESYSTEM_FREE = _bytes("filesystem_free", "Free space, in bytes.")
FILESYSTEM_SIZE = _bytes("filesystem_size", "Size of the file system, in bytes.")
MEMORY_ACTIVE_ANON = _bytes("memory_Active_anon", "Anonymous memory on the active list.")
MEMORY_ACTIVE_FILE = _bytes("memory_Active_file", "Memory of files on the active list.")
MEMORY_ACTIVE = _bytes("memory_Active", "Memory on the active list.")
MEMORY_CACHED = _bytes("memory_Cached", "Cached memory.")
MEMORY_DIRTY = _bytes("memory_Dirty", "Memory that waits to be written to the disk.")
MEMORY_HUGEPAGES_FREE = _bytes("memory_HugepagesFree", "Free memory of huge pages.")
MEMORY_HUGEPAGES_TOTAL = _bytes("memory_HugepagesTotal", "Memory of huge pages.")
MEMORY_INACTIVE_ANON = _bytes("memory_Inactive_anon", "Anonymous memory on the inactive list.")
MEMORY_INACTIVE_FILE = _bytes("memory_Inactive_file", "Memory of files on the inactive list.")
MEMORY_INACTIVE = _bytes("memory_Inactive", "Memory on the inactive list.")
MEMORY_MAPPED = _bytes("memory_Mapped", "Mapped memory.")
MEMORY_AVAILABLE = _bytes("memory_MemAvailable", "Memory that can be had without swapping.")
MEMORY_FREE = _bytes("memory_MemFree", "Free memory.")
MEMORY_TOTAL = _bytes("memory_MemTotal", "Memory that may be used at all.")
MEMORY_RSS = _bytes("memory_RSS", "Anonymous and swap cache memory.")
MEMORY_SHMEM = _bytes("memory_Shmem", "Cached file system data that is backed by swap.")
MEMORY_SWAP = _bytes("memory_Swap", "Swap in use.")
MEMORY_UNEVICTABLE = _bytes("memory_Unevictable", "Memory that cannot be evicted.")
MEMORY_WRITEBACK = _bytes("memory_Writeback", "Memory that is being written to the disk.")
MEMORY_OOM_KILLS = _counter("memory_OOM_kills", "Processes killed for want of memory.")
NETWORK_RECEIVE_BYTES = _counter("network_receive_bytes", "Bytes received.")
NETWORK_RECEIVE_DROP = _counter("network_receive_drop", "Received packets that were dropped.")
NETWORK_RECEIVE_ERRS = _counter("network_receive_errs", "Errors of receiving.")
NETWORK_RECEIVE_PACKETS = _counter("network_receive_packets", "Packets received.")
NETWORK_TRANSMIT_BYTES = _counter("network_transmit_bytes", "Bytes sent.")
NETWORK_TRANSMIT_DROP = _counter("network_transmit_drop", "Packets dropped instead of sent.")
NETWORK_TRANSMIT_ERRS = _counter("network_transmit_errs", "Errors of sending.")
NETWORK_TRANSMIT_PACKETS = _counter("network_transmit_packets", "Packets sent.")
PROCS = Series("lxd_procs_total", GAUGE, "Running processes.")
OPERATIONS = Series("lxd_operations_total", GAUGE, "Running operations.")
WARNINGS = Series("lxd_warnings_total", GAUGE, "Warnings that are not resolved.")
UPTIME = Series("lxd_uptime_seconds", GAUGE, "Seconds since the daemon was started.")

ALL: tuple[Series, ...] = (
    CPU_SECONDS,
    DISK_READ_BYTES,
    DISK_READS,
    DISK_WRITTEN_BYTES,
    DISK_WRITES,
    FILESYSTEM_AVAIL,
    FILESYSTEM_FREE,
    FILESYSTEM_SIZE,
    MEMORY_ACTIVE_ANON,
    MEMORY_ACTIVE_FILE,
    MEMORY_ACTIVE,
    MEMORY_CACHED,
    MEMORY_DIRTY,
    MEMORY_HUGEPAGES_FREE,
    MEMORY_HUGEPAGES_TOTAL,
    MEMORY_INACTIVE_ANON,
    MEMORY_INACTIVE_FILE,
    MEMORY_INACTIVE,
    MEMORY_MAPPED,
    MEMORY_AVAILABLE,
    MEMORY_FREE,
    MEMORY_TOTAL,
    MEMORY_RSS,
    MEMORY_SHMEM,
    MEMORY_SWAP,
    MEMORY_UNEVICTABLE,
    MEMORY_WRITEBACK,
    MEMORY_OOM_KILLS,
    NETWORK_RECEIVE_BYTES,
    NETWORK_RECEIVE_DROP,
    NETWORK_RECEIVE_ERRS,
    NETWORK_RECEIVE_PACKETS,
    NETWORK_TRANSMIT_BYTES,
    NETWORK_TRANSMIT_DROP,
    NETWORK_TRANSMIT_ERRS,
    NETWORK_TRANSMIT_PACKETS,
    PROCS,
    OPERATIONS,
    WARNINGS,
    UPTIME,
)
"""All series, in the order of the answer. The names are LXD's, whatever the product is called: dashboards know them."""


@dataclass(slots=True)
class MetricSet:
    """Samples by series. `labels` are added to each sample."""

    labels: Labels = field(default_factory=dict)
    samples: dict[Series, list[tuple[Labels, float]]] = field(default_factory=dict)

    def add(self, series: Series, value: float, **labels: str) -> None:
        """Add one sample."""
        self.samples.setdefault(series, []).append(({**labels, **self.labels}, value))

    def merge(self, other: "MetricSet") -> None:
        """Take the samples of another set."""
        for series, samples in other.samples.items():
            self.samples.setdefault(series, []).extend(samples)

    def render(self) -> str:
        """All samples as text, each series once."""
        lines: list[str] = []
        for series in ALL:
            samples = self.samples.get(series)
            if samples:
                lines += [f"# HELP {series.name} {series.help}", f"# TYPE {series.name} {series.kind}"]
                lines += (f"{series.name}{_labels(labels)} {_number(value)}" for labels, value in samples)
        return "\n".join([*lines, "# EOF"]) + "\n"


def merged(sets: Iterable[MetricSet]) -> MetricSet:
    """One set with the samples of all."""
    whole = MetricSet()
    for one in sets:
        whole.merge(one)
    return whole


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escape(labels[name])}"' for name in sorted(labels)) + "}"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))
