"""`init`: give a new daemon storage, a network and a profile, by itself, by questions or as a preseed says."""

from __future__ import annotations

import os

from corral.cli import output
from corral.cli.daemon.control import local_server
from corral.cli.daemon.preseed import apply_cluster, apply_preseed, read_preseed
from corral.cli.session import pick, read_stdin
from corral.errors import CorralError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corral.cli.command import Invocation
    from corral.client.server import Server

_HTTPS_PORT = 8443
_FULL = {"recursion": "1"}
_BACKENDS = ("btrfs", "ceph", "cephfs", "dir", "lvm", "zfs")
_CONFIGURATION_FLAGS = {
    "network-address": "",
    "network-port": -1,
    "storage-backend": "",
    "storage-create-device": "",
    "storage-create-loop": -1,
    "storage-pool": "",
    "trust-password": "",
}


def run(invocation: Invocation) -> int:
    """Configure the daemon."""
    auto, minimal = invocation.switch("auto"), invocation.switch("minimal")
    preseed, dump = invocation.switch("preseed"), invocation.switch("dump")
    _check_flags(invocation)
    product = invocation.session.product
    server = local_server(product)
    try:
        info = server.info
    except CorralError as error:
        raise CorralError(f"Failed to connect to local {product.title}: {error}") from error
    if dump:
        _dump(server)
        return 0
    if preseed:
        config = read_preseed(read_stdin())
    elif auto or minimal:
        config = compose_auto(invocation, server, info)
    else:
        config = _interview(invocation, server, info)
    undo = apply_preseed(server, config)
    try:
        apply_cluster(server, config)
    except BaseException:
        undo()
        raise
    return 0


def _interview(invocation: Invocation, server: Server, info: dict[str, Any]) -> dict[str, Any]:
    from corral.cli.daemon.interactive import interview

    taken = {network["name"] for network in _ask(server, "/networks", "Failed to retrieve list of networks", _FULL)}
    bridge = _free_bridge(invocation, taken)
    backend = _default_backend(invocation, _available_drivers(info))
    return interview(server, invocation.session.product.title, bridge, backend)


def _available_drivers(info: dict[str, Any]) -> list[str]:
    drivers = info["environment"].get("storage_supported_drivers") or []
    return [str(driver.get("Name") or driver.get("name")) for driver in drivers]


def _check_flags(invocation: Invocation) -> None:
    auto, minimal = invocation.switch("auto"), invocation.switch("minimal")
    preseed = invocation.switch("preseed")
    configures = any(invocation.values[name] != default for name, default in _CONFIGURATION_FLAGS.items())
    if auto and preseed:
        raise CorralError("Can't use --auto and --preseed together")
    if minimal and preseed:
        raise CorralError("Can't use --minimal and --preseed together")
    if minimal and auto:
        raise CorralError("Can't use --minimal and --auto together")
    if not auto and configures:
        raise CorralError("Configuration flags require --auto")
    if invocation.switch("dump") and (auto or minimal or preseed or configures):
        raise CorralError("Can't use --dump with other flags")


def _check_storage_flags(invocation: Invocation, available: list[str]) -> None:
    backend = invocation.text("storage-backend")
    if backend and backend not in _BACKENDS:
        raise CorralError(f"The requested backend '{backend}' isn't supported by lxd init")
    if backend and backend not in available:
        raise CorralError(f"The requested backend '{backend}' isn't available on your system (missing tools)")
    loop, device = invocation.number("storage-create-loop"), invocation.text("storage-create-device")
    if (backend or _default_backend(invocation, available)) == "dir":
        if loop != -1 or device or invocation.text("storage-pool"):
            raise CorralError(
                "None of --storage-pool, --storage-create-device or --storage-create-loop may be used with the 'dir'"
                " backend"
            )
    elif loop != -1 and device:
        raise CorralError("Only one of --storage-create-device or --storage-create-loop can be specified")


def _check_network_flags(invocation: Invocation) -> None:
    if invocation.text("network-address"):
        return
    if invocation.number("network-port") != -1:
        raise CorralError("--network-port can't be used without --network-address")
    if invocation.text("trust-password"):
        raise CorralError("--trust-password can't be used without --network-address")


def compose_auto(invocation: Invocation, server: Server, info: dict[str, Any]) -> dict[str, Any]:
    """The preseed of an automatic configuration. Raises CorralError for flags that do not fit."""
    available = _available_drivers(info)
    _check_storage_flags(invocation, available)
    _check_network_flags(invocation)
    pools = _ask(server, "/storage-pools", "Failed to retrieve list of storage pools")
    chosen = ("storage-backend", "storage-create-device", "storage-create-loop", "storage-pool")
    if pools and any(invocation.values[name] != _CONFIGURATION_FLAGS[name] for name in chosen):
        raise CorralError("Storage has already been configured")
    devices: dict[str, dict[str, str]] = {}
    config: dict[str, Any] = {"config": _network_config(invocation)}
    if not pools:
        pool = _compose_pool(invocation, available)
        config["storage_pools"] = [pool]
        devices["root"] = {"type": "disk", "path": "/", "pool": pool["name"]}
    bridge = _missing_bridge(invocation, server)
    if bridge:
        config["networks"] = [{"name": bridge, "type": "", "config": {}, "description": "", "project": "default"}]
        devices["eth0"] = {"type": "nic", "network": bridge, "name": "eth0"}
    if devices:
        config["profiles"] = [{"name": "default", "config": {}, "description": "", "devices": devices}]
    return config


def _ask(server: Server, path: str, message: str, query: dict[str, str] | None = None) -> list[Any]:
    try:
        return server.get(path, query) or []
    except CorralError as error:
        raise CorralError(f"{message}: {error}") from error


def _network_config(invocation: Invocation) -> dict[str, str]:
    address = invocation.text("network-address")
    if not address:
        return {}
    port = invocation.number("network-port")
    host = f"[{address.strip('[]')}]" if ":" in address else address
    config = {"core.https_address": f"{host}:{port if port != -1 else _HTTPS_PORT}"}
    if invocation.text("trust-password"):
        config["core.trust_password"] = invocation.text("trust-password")
    return config


def _default_backend(invocation: Invocation, available: list[str]) -> str:
    """Where no backend is named: LXD chooses `dir`, Corral btrfs where the kernel has it."""
    return "btrfs" if invocation.session.product.name != "lxd" and "btrfs" in available else "dir"


def _compose_pool(invocation: Invocation, available: list[str]) -> dict[str, Any]:
    """The pool that the flags describe."""
    loop, device = invocation.number("storage-create-loop"), invocation.text("storage-create-device")
    source = invocation.text("storage-pool")
    config: dict[str, str] = {}
    if device:
        config["source"] = device
    elif loop > 0:
        config["size"] = f"{loop}GB"
    elif source:
        config["source"] = source
    name = source if source and (device or loop != -1) else "default"
    return {
        "name": name,
        "driver": invocation.text("storage-backend") or _default_backend(invocation, available),
        "config": config,
        "description": "",
    }


def _missing_bridge(invocation: Invocation, server: Server) -> str:
    """The name of the bridge to make, or nothing where there is a network already."""
    networks = _ask(server, "/networks", "Failed to retrieve list of networks", _FULL)
    if any(network["managed"] for network in networks):
        return ""
    profile = server.get("/profiles/default")
    if any(device.get("type") == "nic" for device in (profile.get("devices") or {}).values()):
        return ""
    return _free_bridge(invocation, {network["name"] for network in networks})


def _free_bridge(invocation: Invocation, taken: set[str]) -> str:
    prefix = invocation.session.product.bridge.rstrip("0")
    index = 0
    while f"{prefix}{index}" in taken or os.path.exists(f"/sys/class/net/{prefix}{index}"):
        index += 1
    return f"{prefix}{index}"


def _dump(server: Server) -> None:
    """Print what there is as a preseed."""
    from corral.client.yaml_output import render_yaml

    message = "Failed to retrieve current server configuration"
    recursion = {"recursion": "1"}
    networks = [entry for entry in _ask(server, "/networks", message, recursion) if entry["managed"]]
    dumped = {
        "config": server.get("").get("config") or {},
        "networks": [
            {**pick(entry, ("config", "description", "name", "type")), "project": "default"} for entry in networks
        ],
        "storage_pools": [
            pick(entry, ("config", "description", "name", "driver"))
            for entry in _ask(server, "/storage-pools", message, recursion)
        ],
        "profiles": [
            pick(entry, ("config", "description", "devices", "name"))
            for entry in _ask(server, "/profiles", message, recursion)
        ],
        "projects": [
            pick(entry, ("config", "description", "name")) for entry in _ask(server, "/projects", message, recursion)
        ],
    }
    output.line(render_yaml(dumped))
