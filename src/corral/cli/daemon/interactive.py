"""`init` without flags: asks how to configure the daemon, in the order that scripts written for LXD answer."""

from __future__ import annotations

import os

from corral.cli.daemon.prompt import ask, ask_choice, ask_password, ask_whether
from corral.errors import CorralError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corral.client.server import Server

    Preseed = dict[str, Any]

_HTTPS_PORT = 8443
_LOOP_GIB = (5, 30)
"""The least and the most that is proposed for a pool in a file: a fifth of what is free."""


class Interview:
    """The questions and the preseed that grows from the answers."""

    def __init__(self, server: Server, product_name: str, bridge: str, default_backend: str) -> None:
        self._server = server
        self._title = product_name
        self._bridge = bridge
        self._default_backend = default_backend
        self._devices: dict[str, dict[str, str]] = {}
        self._config: dict[str, str] = {}
        self._networks: list[Preseed] = []
        self._pools: list[Preseed] = []

    def hold(self) -> Preseed:
        """Ask everything and return the preseed. Raises CorralError for what this server cannot do."""
        if ask_whether(f"Should {self._title} run as a member of a cluster?", default=False):
            raise CorralError("Clustering is not available on this server: answer no")
        self._ask_storage()
        if ask_whether("Connect to a MAAS server?", default=False):
            raise CorralError("MAAS is not supported by this server: answer no")
        self._ask_bridge()
        self._ask_network()
        if not ask_whether("Update cached images by themselves when they are outdated?", default=True):
            self._config["images.auto_update_interval"] = "0"
        profile = {"name": "default", "config": {}, "description": "", "devices": self._devices}
        return {
            "config": self._config,
            "networks": self._networks,
            "storage_pools": self._pools,
            "profiles": [profile],
            "projects": [],
        }

    def _ask_storage(self) -> None:
        if not ask_whether("Make a new storage pool?", default=True):
            return
        drivers = (self._server.info.get("environment") or {}).get("storage_supported_drivers") or []
        names = sorted(str(one.get("Name") or one.get("name")) for one in drivers)
        local = [name for name in names if name not in ("ceph", "cephfs", "cephobject")]
        if not local:
            raise CorralError("No storage backends available: install the tools of one")
        taken = {str(pool["name"]) for pool in self._server.get("/storage-pools", {"recursion": "1"}) or []}

        def is_free(name: str) -> str:
            return f'The storage pool "{name}" already exists, choose another name.' if name in taken else ""

        name = ask("Name of the new storage pool", "default", is_free)
        driver = local[0]
        if len(local) > 1:
            default = self._default_backend if self._default_backend in local else local[0]
            driver = ask_choice("Storage backend", local, default)
        config = {} if driver == "dir" else self._ask_source(driver)
        self._pools.append({"name": name, "driver": driver, "config": config, "description": ""})
        self._devices["root"] = {"type": "disk", "path": "/", "pool": name}

    def _ask_source(self, driver: str) -> dict[str, str]:
        if not ask_whether(f"Create a new {driver.upper()} pool?", default=True):
            return {"source": ask(f"Name or path of the existing {driver.upper()} pool")}
        if ask_whether("Use an existing empty block device (a disk or a partition)?", default=False):

            def is_device(path: str) -> str:
                import stat

                try:
                    return "" if stat.S_ISBLK(os.stat(path).st_mode) else f"{path} is no block device."
                except OSError as error:
                    return f"{path}: {error.strerror}"

            return {"source": ask("Path of the block device", None, is_device)}
        size = ask("Size in GiB of the new file for the pool (at least 1GiB)", f"{_propose_gib()}GiB", _check_gib)
        return {"size": size if size.endswith("GiB") else f"{size}GiB"}

    def _ask_bridge(self) -> None:
        if not ask_whether("Make a new local network bridge?", default=True):
            self._ask_existing_interface()
            return
        taken = {str(network["name"]) for network in self._server.get("/networks", {"recursion": "1"}) or []}

        def is_free(name: str) -> str:
            if name in taken or os.path.exists(f"/sys/class/net/{name}"):
                return f'The network "{name}" already exists, choose another name.'
            return ""

        name = ask("Name of the new bridge", self._bridge, is_free)
        config: dict[str, str] = {}
        for family in ("4", "6"):
            key = f"ipv{family}.address"
            config[key] = ask(f"IPv{family} address (address/prefix, auto or none)", "auto", _check_subnet(family))
            if config[key] not in ("auto", "none"):
                nat = ask_whether(f"Have IPv{family} traffic leave with the host's address (NAT)?", default=True)
                config[f"ipv{family}.nat"] = str(nat).lower()
        network = {"name": name, "type": "", "config": config, "description": "", "project": "default"}
        self._networks.append(network)
        self._devices["eth0"] = {"type": "nic", "name": "eth0", "network": name}

    def _ask_existing_interface(self) -> None:
        if not ask_whether("Use an existing bridge or interface of the host?", default=False):
            return

        def exists(name: str) -> str:
            found = "/" not in name and os.path.exists(f"/sys/class/net/{name}")
            return "" if found else "There is no such interface."

        name = ask("Name of the existing bridge or interface", None, exists)
        kind = "bridged" if os.path.exists(f"/sys/class/net/{name}/bridge") else "macvlan"
        self._devices["eth0"] = {"type": "nic", "name": "eth0", "nictype": kind, "parent": name}

    def _ask_network(self) -> None:
        if not ask_whether(f"Serve {self._title} over the network?", default=False):
            return

        def is_address(text: str) -> str:
            return "" if text == "all" or _is_ip(text) else "Please answer an IP address, or all."

        def is_port(text: str) -> str:
            return "" if text.isdecimal() and 0 < int(text) < 65536 else "Please answer a number from 1 to 65535."

        address = ask("Address to listen on, without port", "all", is_address)
        port = ask("Port to listen on", str(_HTTPS_PORT), is_port)
        host = "[::]" if address == "all" else f"[{address}]" if ":" in address else address
        self._config["core.https_address"] = f"{host}:{port}"
        password = ask_password("Trust password for new clients (empty: tokens only)")
        if password:
            self._config["core.trust_password"] = password


def _propose_gib() -> int:
    try:
        found = os.statvfs("/var/lib")
    except OSError:
        return _LOOP_GIB[0]
    least, most = _LOOP_GIB
    return max(least, min(most, found.f_bavail * found.f_frsize // 5 // 2**30))


def _check_gib(text: str) -> str:
    number = text.removesuffix("GiB")
    return "" if number.isdecimal() and int(number) >= 1 else "Please answer a whole number of GiB, at least 1."


def _is_ip(text: str) -> bool:
    import ipaddress

    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _check_subnet(family: str) -> Any:
    import ipaddress

    kind = ipaddress.IPv4Interface if family == "4" else ipaddress.IPv6Interface

    def check(text: str) -> str:
        if text in ("auto", "none"):
            return ""
        try:
            kind(text)
        except ValueError:
            text = ""
        return "" if "/" in text else f"Please answer an IPv{family} address with its prefix length, auto or none."

    return check


def interview(server: Server, title: str, bridge: str, default_backend: str) -> Preseed:
    """Ask, and print the preseed where that is wanted."""
    from corral.cli import output
    from corral.client.yaml_output import render_yaml

    preseed = Interview(server, title, bridge, default_backend).hold()
    if ask_whether("Print the answers as a preseed in YAML?", default=False):
        output.line(render_yaml(preseed))
    return preseed
