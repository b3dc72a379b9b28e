"""Processors and memory."""

import platform
from pathlib import Path

from corral.api.resources import CPU, CPUCache, CPUCore, CPUSocket, CPUThread, Memory, MemoryNode
from corral.server.hardware.tree import Tree, or_unset
from corral.server.host import sysfs

_SUFFIXES = {"K": 1024, "M": 1024**2, "G": 1024**3}


def _numbered(paths: list[Path], prefix: str) -> list[tuple[int, Path]]:
    return [(int(path.name[len(prefix) :]), path) for path in paths if path.name[len(prefix) :].isdecimal()]


def read_cpu(tree: Tree) -> CPU:
    """The sockets, their cores and the cores' threads."""
    names = _read_names(tree)
    isolated = set(sysfs.parse_cpu_list(sysfs.read_text(tree.sys / "devices/system/cpu/isolated")))
    nodes = _read_nodes(tree)
    sockets: dict[int, CPUSocket] = {}
    total = 0
    for number, path in _numbered(tree.entries("devices", "system", "cpu"), "cpu"):
        topology = path / "topology"
        online = sysfs.read_int(path / "online", 1) == 1
        if not topology.exists():
            continue
        total += 1
        name, vendor = names.get(number, ("", ""))
        socket_number = max(0, sysfs.read_int(topology / "physical_package_id"))
        socket = sockets.setdefault(
            socket_number,
            CPUSocket(
                name=or_unset(name),
                vendor=or_unset(vendor),
                socket=socket_number,
                cache=or_unset(_read_caches(path)),
                cores=[],
                frequency_minimum=or_unset(_megahertz(path, "cpuinfo_min_freq")),
                frequency_turbo=or_unset(_megahertz(path, "cpuinfo_max_freq")),
            ),
        )
        core = _core_of(socket, path)
        core.threads.append(
            CPUThread(
                id=number,
                numa_node=nodes.get(number, 0),
                thread=len(core.threads),
                online=online,
                isolated=number in isolated,
            )
        )
    for socket in sockets.values():
        frequencies = [core.frequency for core in socket.cores if isinstance(core.frequency, int)]
        socket.frequency = or_unset(sum(frequencies) // len(frequencies) if frequencies else 0)
    ordered = [sockets[number] for number in sorted(sockets)]
    return CPU(architecture=platform.machine(), sockets=ordered, total=total)


def _core_of(socket: CPUSocket, path: Path) -> CPUCore:
    number = max(0, sysfs.read_int(path / "topology/core_id"))
    die = max(0, sysfs.read_int(path / "topology/die_id"))
    for core in socket.cores:
        if (core.core, core.die) == (number, die):
            return core
    core = CPUCore(core=number, die=die, threads=[], frequency=or_unset(_megahertz(path, "scaling_cur_freq")))
    socket.cores.append(core)
    return core


def _megahertz(path: Path, name: str) -> int:
    return sysfs.read_int(path / "cpufreq" / name) // 1000


def _read_names(tree: Tree) -> dict[int, tuple[str, str]]:
    """Model and vendor of each logical CPU from /proc/cpuinfo."""
    names: dict[int, tuple[str, str]] = {}
    for block in sysfs.read_text(tree.proc / "cpuinfo").split("\n\n"):
        fields = {
            key.strip(): value.strip()
            for key, colon, value in (line.partition(":") for line in block.splitlines())
            if colon
        }
        if fields.get("processor", "").isdecimal():
            names[int(fields["processor"])] = (fields.get("model name", ""), fields.get("vendor_id", ""))
    return names


def _read_caches(path: Path) -> list[CPUCache]:
    caches = []
    for index in sorted((path / "cache").glob("index[0-9]*")):
        text = sysfs.read_text(index / "size")
        size = int(text[:-1]) * _SUFFIXES[text[-1]] if text[:-1].isdecimal() and text[-1:] in _SUFFIXES else 0
        caches.append(CPUCache(level=sysfs.read_int(index / "level"), type=sysfs.read_text(index / "type"), size=size))
    return caches


def _read_nodes(tree: Tree) -> dict[int, int]:
    """The NUMA node of each logical CPU."""
    nodes: dict[int, int] = {}
    for node, path in _numbered(tree.entries("devices", "system", "node"), "node"):
        for number in sysfs.parse_cpu_list(sysfs.read_text(path / "cpulist")):
            nodes[number] = node
    return nodes


def read_memory(tree: Tree) -> Memory:
    """The memory, of each NUMA node and of the machine. Used is what is neither free nor cache."""
    values = sysfs.parse_meminfo(sysfs.read_text(tree.proc / "meminfo"))
    total = _read_block_memory(tree) or values.get("MemTotal", 0)
    page = values.get("Hugepagesize", 0)
    pages, free_pages = values.get("HugePages_Total", 0), values.get("HugePages_Free", 0)
    nodes = []
    for node, path in _numbered(tree.entries("devices", "system", "node"), "node"):
        text = sysfs.read_text(path / "meminfo").replace(f"Node {node} ", "")
        inner = sysfs.parse_meminfo(text)
        node_pages, node_free = inner.get("HugePages_Total", 0), inner.get("HugePages_Free", 0)
        nodes.append(
            MemoryNode(
                numa_node=node,
                hugepages_total=node_pages * page,
                hugepages_used=(node_pages - node_free) * page,
                used=inner.get("MemUsed", 0),
                total=inner.get("MemTotal", 0),
            )
        )
    free = values.get("MemAvailable", values.get("MemFree", 0))
    return Memory(
        nodes=or_unset(nodes),
        hugepages_total=pages * page,
        hugepages_used=(pages - free_pages) * page,
        hugepages_size=page,
        used=values.get("MemTotal", 0) - free,
        total=total,
    )


def _read_block_memory(tree: Tree) -> int:
    """Bytes of the memory blocks that are on: all memory, with what the kernel keeps for itself."""
    text = sysfs.read_text(tree.sys / "devices/system/memory/block_size_bytes")
    if not text:
        return 0
    size = int(text, 16)
    blocks = (path for path in tree.entries("devices", "system", "memory") if path.name.startswith("memory"))
    return sum(size for path in blocks if sysfs.read_int(path / "online") == 1)
