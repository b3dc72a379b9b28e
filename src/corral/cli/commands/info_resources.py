"""The hardware of a server as `info --resources` shows it."""

from __future__ import annotations

from corral.units import format_size_iec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Part = dict[str, Any]


def _bool(value: Any) -> str:
    return "true" if value else "false"


def render_resources(resources: Part) -> str:
    """The text for the answer of /1.0/resources."""
    lines = _cpu_lines(resources["cpu"])
    lines += ["", "Memory:", *_memory_lines(resources["memory"])]
    sections: tuple[tuple[str, str, list[Part], str, Callable[[Part, str], list[str]]], ...] = (
        ("GPU", "GPUs", resources["gpu"].get("cards") or [], "Card", _gpu_lines),
        ("NIC", "NICs", resources["network"].get("cards") or [], "Card", _nic_lines),
        ("Disk", "Disks", resources["storage"].get("disks") or [], "Disk", _disk_lines),
    )
    for one, many, parts, noun, render in sections:
        if len(parts) == 1:
            lines += ["", f"{one}:", *_first_indented(render(parts[0], "  "), "  ")]
        elif parts:
            lines += ["", f"{many}:"]
            for index, part in enumerate(parts):
                lines += [f"  {noun} {index}:", *_first_indented(render(part, "    "), "    ")]
    return "\n".join(lines) + "\n"


def _first_indented(lines: list[str], prefix: str) -> list[str]:
    return [prefix + lines[0], *lines[1:]]


def _cpu_lines(cpu: Part) -> list[str]:
    sockets = cpu.get("sockets") or []
    if len(sockets) == 1:
        return [f"CPU ({cpu['architecture']}):", *_socket_lines(sockets[0], "  ")]
    lines = [f"CPUs ({cpu['architecture']}):"] if sockets else []
    for socket in sockets:
        lines += [f"  Socket {socket['socket']}:", *_socket_lines(socket, "    ")]
    return lines


def _socket_lines(socket: Part, prefix: str) -> list[str]:
    lines = []
    for field, label in (("vendor", "Vendor"), ("name", "Name")):
        if socket.get(field):
            lines.append(f"{prefix}{label}: {socket[field]}")
    if socket.get("cache"):
        lines.append(f"{prefix}Caches:")
        for cache in socket["cache"]:
            size = format_size_iec(cache["size"], 0)
            lines.append(f"{prefix}  - Level {cache['level']} (type: {cache['type']}): {size}")
    lines.append(f"{prefix}Cores:")
    for core in socket.get("cores") or ():
        lines += [
            f"{prefix}  - Core {core['core']}",
            f"{prefix}    Frequency: {core.get('frequency', 0)}Mhz",
            f"{prefix}    Threads:",
        ]
        for thread in core.get("threads") or ():
            details = f"id: {thread['id']}, online: {_bool(thread['online'])}, NUMA node: {thread['numa_node']}"
            lines.append(f"{prefix}      - {thread['thread']} ({details})")
    frequency, lowest, turbo = (socket.get(key, 0) for key in ("frequency", "frequency_minimum", "frequency_turbo"))
    if frequency:
        limits = f" (min: {lowest}Mhz, max: {turbo}Mhz)" if turbo and lowest else ""
        lines.append(f"{prefix}Frequency: {frequency}Mhz{limits}")
    return lines


def _memory_lines(memory: Part) -> list[str]:
    lines = _hugepage_lines(memory, "  ")
    nodes = memory.get("nodes") or []
    if len(nodes) > 1:
        lines.append("  NUMA nodes:")
        for node in nodes:
            lines.append(f"    Node {node['numa_node']}:")
            lines += _hugepage_lines(node, "      ") + _usage_lines(node["total"], node["used"], "      ")
    return lines + _usage_lines(memory["total"], memory["used"], "  ")


def _hugepage_lines(memory: Part, prefix: str) -> list[str]:
    if not memory.get("hugepages_total"):
        return []
    return [f"{prefix}Hugepages:", *_usage_lines(memory["hugepages_total"], memory["hugepages_used"], prefix + "  ")]


def _usage_lines(total: int, used: int, prefix: str) -> list[str]:
    return [
        f"{prefix}Free: {format_size_iec(total - used)}",
        f"{prefix}Used: {format_size_iec(used)}",
        f"{prefix}Total: {format_size_iec(total)}",
    ]


def _pci_lines(part: Part, prefix: str) -> list[str]:
    lines = [f"NUMA node: {part.get('numa_node', 0)}"]
    for name, detail, label in (("vendor", "vendor_id", "Vendor"), ("product", "product_id", "Product")):
        if part.get(name):
            lines.append(f"{prefix}{label}: {part[name]} ({part.get(detail, '')})")
    if part.get("pci_address"):
        lines.append(f"{prefix}PCI address: {part['pci_address']}")
    if part.get("driver"):
        lines.append(f"{prefix}Driver: {part['driver']} ({part.get('driver_version', '')})")
    return lines


def _sriov_lines(part: Part, prefix: str, render: Callable[[Part, str], list[str]]) -> list[str]:
    sriov = part.get("sriov")
    if not sriov:
        return []
    lines = [
        f"{prefix}SR-IOV information:",
        f"{prefix}  Current number of VFs: {sriov['current_vfs']}",
        f"{prefix}  Maximum number of VFs: {sriov['maximum_vfs']}",
    ]
    if sriov.get("vfs"):
        lines.append(f"{prefix}  VFs: {sriov['maximum_vfs']}")
        for function in sriov["vfs"]:
            first, *rest = render(function, prefix + "    ")
            lines += [f"{prefix}  - {first}", *rest]
    return lines


_NVIDIA = (
    ("architecture", "Architecture"),
    ("brand", "Brand"),
    ("model", "Model"),
    ("cuda_version", "CUDA Version"),
    ("nvrm_version", "NVRM Version"),
    ("uuid", "UUID"),
)


def _gpu_lines(gpu: Part, prefix: str) -> list[str]:
    lines = _pci_lines(gpu, prefix)
    drm = gpu.get("drm")
    if drm:
        lines += [f"{prefix}DRM:", f"{prefix}  ID: {drm['id']}"]
        for name, label in (("card", "Card"), ("control", "Control"), ("render", "Render")):
            if drm.get(f"{name}_name"):
                lines.append(f"{prefix}  {label}: {drm[f'{name}_name']} ({drm.get(f'{name}_device', '')})")
    if gpu.get("nvidia"):
        lines.append(f"{prefix}NVIDIA information:")
        lines += [f"{prefix}  {label}: {gpu['nvidia'].get(name, '')}" for name, label in _NVIDIA]
    lines += _sriov_lines(gpu, prefix, _gpu_lines)
    if gpu.get("mdev"):
        lines.append(f"{prefix}Mdev profiles:")
        for name, profile in sorted(gpu["mdev"].items()):
            lines.append(f"{prefix}  - {name} ({profile['available']} available)")
            lines += [f"{prefix}      {line}" for line in (profile.get("description") or "").split("\n") if line]
    return lines


def _nic_lines(nic: Part, prefix: str) -> list[str]:
    lines = _pci_lines(nic, prefix)
    if nic.get("ports"):
        lines.append(f"{prefix}Ports:")
        for port in nic["ports"]:
            lines += _port_lines(port, prefix)
    return lines + _sriov_lines(nic, prefix, _nic_lines)


def _port_lines(port: Part, prefix: str) -> list[str]:
    lines = [f"{prefix}  - Port {port['port']} ({port['protocol']})", f"{prefix}    ID: {port['id']}"]
    if port.get("address"):
        lines.append(f"{prefix}    Address: {port['address']}")
    for field, label in (("supported_modes", "Supported modes"), ("supported_ports", "Supported ports")):
        if port.get(field) is not None:
            lines.append(f"{prefix}    {label}: {', '.join(port[field])}")
    for field, label in (("port_type", "Port type"), ("transceiver_type", "Transceiver type")):
        if port.get(field):
            lines.append(f"{prefix}    {label}: {port[field]}")
    lines.append(f"{prefix}    Auto negotiation: {_bool(port.get('auto_negotiation'))}")
    lines.append(f"{prefix}    Link detected: {_bool(port.get('link_detected'))}")
    if port.get("link_speed"):
        lines.append(f"{prefix}    Link speed: {port['link_speed']}Mbit/s ({port.get('link_duplex', '')} duplex)")
    infiniband = port.get("infiniband")
    if infiniband:
        lines.append(f"{prefix}    Infiniband:")
        for name, label in (("issm", "IsSM"), ("mad", "MAD"), ("verb", "Verb")):
            if infiniband.get(f"{name}_name"):
                lines.append(f"{prefix}      {label}: {infiniband[f'{name}_name']} ({infiniband[f'{name}_device']})")
    return lines


def _disk_lines(disk: Part, prefix: str) -> list[str]:
    lines = [
        f"NUMA node: {disk.get('numa_node', 0)}",
        f"{prefix}ID: {disk['id']}",
        f"{prefix}Device: {disk['device']}",
    ]
    for field, label in (("model", "Model"), ("type", "Type")):
        if disk.get(field):
            lines.append(f"{prefix}{label}: {disk[field]}")
    lines.append(f"{prefix}Size: {format_size_iec(disk['size'])}")
    if disk.get("wwn"):
        lines.append(f"{prefix}WWN: {disk['wwn']}")
    lines.append(f"{prefix}Read-Only: {_bool(disk['read_only'])}")
    lines.append(f"{prefix}Removable: {_bool(disk['removable'])}")
    if disk.get("partitions"):
        lines.append(f"{prefix}Partitions:")
        for partition in disk["partitions"]:
            lines += [
                f"{prefix}  - Partition {partition['partition']}",
                f"{prefix}    ID: {partition['id']}",
                f"{prefix}    Device: {partition['device']}",
                f"{prefix}    Read-Only: {_bool(partition['read_only'])}",
                f"{prefix}    Size: {format_size_iec(partition['size'])}",
            ]
    return lines
