"""`info`: an instance with its state, or the server with its configuration and hardware."""

from __future__ import annotations

from corral.cli import output, table
from corral.cli.command import TARGET, Command, Invocation, switch
from corral.cli.records import SERVER
from corral.cli.session import order
from corral.client.server import escape, parse_reply
from corral.errors import CorralError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corral.client.server import Server

_LOGS = {"container": "lxc.log", "virtual-machine": "qemu.log"}


def run(invocation: Invocation) -> int:
    """Show an instance or the server."""
    resource = invocation.session.resource(invocation.arg(0))
    if resource.name:
        if invocation.text("target"):
            raise CorralError("--target cannot be used with instances")
        _show_instance(resource.server, resource.name, with_log=invocation.switch("show-log"))
        return 0
    server = resource.server
    if invocation.text("target"):
        server.require_cluster()
        server = server.with_target(invocation.text("target"))
    if invocation.switch("resources"):
        from corral.cli.commands.info_resources import render_resources

        output.write(render_resources(server.get("/resources")))
        return 0
    from corral.client.yaml_output import render_yaml

    body = order(server.get(""), SERVER)
    drivers = body["environment"].get("storage_supported_drivers") or []
    body["environment"]["storage_supported_drivers"] = [_driver(driver) for driver in drivers]
    output.write(render_yaml(body))
    return 0


def _driver(driver: dict[str, Any]) -> dict[str, Any]:
    return {key.lower(): driver[key] for key in ("Name", "Version", "Remote") if key in driver}


def _show_instance(server: Server, name: str, *, with_log: bool) -> None:
    instance = server.get(f"/instances/{escape(name)}", {"recursion": "1"})
    kind = instance.get("type") or "container"
    state = instance.get("state") or {}
    output.line("\n".join(_general_lines(server, instance, kind, state)))
    if state.get("pid"):
        output.write("\nResources:\n" + _resource_text(state))
    _show_snapshots(instance.get("snapshots") or [])
    _show_backups(instance.get("backups") or [])
    if with_log:
        _show_log(server, name, kind)


def _general_lines(server: Server, instance: dict[str, Any], kind: str, state: dict[str, Any]) -> list[str]:
    from corral.cli.times import format_local, is_set

    lines = [
        f"Name: {instance['name']}",
        f"Status: {instance['status'].upper()}",
        f"Type: {kind}" + (" (ephemeral)" if instance["ephemeral"] else ""),
        f"Architecture: {instance['architecture']}",
    ]
    if instance.get("location") not in ("", "none", None) and server.is_clustered:
        lines.append(f"Location: {instance['location']}")
    if state.get("pid"):
        lines.append(f"PID: {state['pid']}")
    for field, label in (("created_at", "Created"), ("last_used_at", "Last Used")):
        if is_set(instance[field]):
            lines.append(f"{label}: {format_local(instance[field])}")
    return lines


def _resource_text(state: dict[str, Any]) -> str:
    from corral.units import format_size_iec

    lines = [f"  Processes: {state['processes']}"]
    disks = {name: disk["usage"] for name, disk in sorted((state.get("disk") or {}).items()) if disk["usage"]}
    if disks:
        lines += ["  Disk usage:", *(f"    {name}: {format_size_iec(usage)}" for name, usage in disks.items())]
    if state["cpu"]["usage"]:
        lines += ["  CPU usage:", f"    CPU usage (in seconds): {state['cpu']['usage'] // 1000000000}"]
    labels = (
        ("usage", "Memory (current)"),
        ("usage_peak", "Memory (peak)"),
        ("swap_usage", "Swap (current)"),
        ("swap_usage_peak", "Swap (peak)"),
    )
    memory = [f"    {label}: {format_size_iec(state['memory'][key])}" for key, label in labels if state["memory"][key]]
    if memory:
        lines += ["  Memory usage:", *memory]
    networks = state.get("network") or {}
    if networks:
        lines.append("  Network usage:")
        for name, interface in sorted(networks.items()):
            lines += _network_lines(name, interface)
    return "\n".join(lines) + "\n"


def _network_lines(name: str, interface: dict[str, Any]) -> list[str]:
    from corral.units import format_size

    counters = interface["counters"]
    lines = [f"    {name}:", f"      Type: {interface['type']}", f"      State: {interface['state'].upper()}"]
    if interface["host_name"]:
        lines.append(f"      Host interface: {interface['host_name']}")
    if interface["hwaddr"]:
        lines.append(f"      MAC address: {interface['hwaddr']}")
    if interface["mtu"]:
        lines.append(f"      MTU: {interface['mtu']}")
    lines += [
        f"      Bytes received: {format_size(counters['bytes_received'])}",
        f"      Bytes sent: {format_size(counters['bytes_sent'])}",
        f"      Packets received: {counters['packets_received']}",
        f"      Packets sent: {counters['packets_sent']}",
        "      IP addresses:",
    ]
    for address in interface.get("addresses") or ():
        gap = "  " if address["family"] == "inet" else " "
        shown = f"{address['address']}/{address['netmask']} ({address['scope']})"
        lines.append(f"        {address['family']}:{gap}{shown}")
    return lines


def _moment(text: str | None) -> str:
    from corral.cli.times import format_local, is_set

    return format_local(text) if text and is_set(text) else " "


def _yes(value: Any) -> str:
    return "YES" if value else "NO"


def _show_snapshots(snapshots: list[dict[str, Any]]) -> None:
    if not snapshots:
        return
    rows = [
        [
            snapshot["name"].rpartition("/")[2],
            _moment(snapshot["created_at"]),
            _moment(snapshot["expires_at"]),
            _yes(snapshot["stateful"]),
        ]
        for snapshot in snapshots
    ]
    output.line("\nSnapshots:")
    output.write(table.render_table(["Name", "Taken at", "Expires at", "Stateful"], rows))


def _show_backups(backups: list[dict[str, Any]]) -> None:
    if not backups:
        return
    rows = [
        [
            backup["name"],
            _moment(backup["created_at"]),
            _moment(backup["expires_at"]),
            _yes(backup["instance_only"]),
            _yes(backup["optimized_storage"]),
        ]
        for backup in backups
    ]
    output.line("\nBackups:")
    output.write(table.render_table(["Name", "Taken at", "Expires at", "Instance Only", "Optimized Storage"], rows))


def _show_log(server: Server, name: str, kind: str) -> None:
    if kind not in _LOGS:
        raise CorralError(f"Unsupported instance type: {kind}")
    target = server.path(f"/instances/{escape(name)}/logs/{_LOGS[kind]}")
    response = server.request("GET", target)
    if response.status != 200:
        parse_reply(response, server.base_url + target)
    output.write("\nLog:\n\n")
    output.write_bytes(response.read())
    output.write("\n")


COMMAND = Command(
    "info [<remote>:][<instance>]",
    "Show instance or server information",
    run,
    (0, 1),
    examples="""{client} info [<remote>:]<instance> [--show-log]
    For instance information.

{client} info [<remote>:] [--resources]
    For server information.""",
    flags=(
        switch("show-log", "Show the instance's last 100 log lines?"),
        switch("resources", "Show the resources available to the server"),
        TARGET,
    ),
)
