"""What the server runs on, for `environment` of GET /1.0."""

import asyncio
import ipaddress
import os
import platform
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from corral.api.server import ServerEnvironment, ServerStorageDriver
from corral.server.auth.server_certificate import ServerCertificate
from corral.server.context import Context
from corral.server.db.changes import EVERYTHING, Changes
from corral.server.db.database import Tx
from corral.server.host import features
from corral.server.host.network.netlink import Netlink
from corral.server.host.threads import in_thread
from corral.server.settings import keys
from corral.server.settings.settings import Settings

LXD_VERSION = "5.0.2"
"""The release of LXD whose API this server speaks: clients decide by it what they may ask."""

_PERSONALITIES = {
    "x86_64": ["i686"],
    "aarch64": ["armv8l", "armv7l", "armv6l"],
    "armv8l": ["armv7l", "armv6l"],
    "armv7l": ["armv6l"],
    "ppc64": ["ppc"],
    "ppc64le": [],
    "s390x": [],
    "mips64": ["mips"],
    "riscv64": [],
}


@dataclass(frozen=True, slots=True)
class Facts:
    """What does not change while the daemon lives."""

    machine: str
    kernel_features: dict[str, str]
    lxc_features: dict[str, str]
    lxc_version: str
    os_name: str
    os_version: str


def read_facts() -> Facts:
    """Ask the kernel and the tools; takes some tens of milliseconds the first time."""
    release = features.get_os_release()
    return Facts(
        machine=features.get_architecture(),
        kernel_features=_words(features.get_kernel_features()),
        lxc_features=_words(features.get_lxc_features()),
        lxc_version=features.get_lxc_version(),
        os_name=release.get("NAME", ""),
        os_version=release.get("VERSION_ID", ""),
    )


def _words(found: Mapping[str, bool]) -> dict[str, str]:
    return {name: str(works).lower() for name, works in found.items()}


@dataclass(frozen=True, slots=True)
class Present:
    """What of the environment may change while the daemon lives."""

    drivers: tuple[str, ...]
    certificate: ServerCertificate
    host_name: str
    addresses: tuple[str, ...]


class Environment:
    """Composes the environment; what cannot change is asked once. `list_drivers` lists the storage drivers."""

    def __init__(self, list_drivers: Callable[[], Awaitable[list[ServerStorageDriver]]]) -> None:
        self._list_drivers = list_drivers
        self._lock = asyncio.Lock()
        self._known: tuple[Facts, list[ServerStorageDriver]] | None = None
        self._pools: Changes | None = None
        self._used: tuple[str, ...] = ()

    async def look(self, context: Context) -> Present:
        """What is so now."""
        if self._pools is None or self._pools.exist:
            await self._read_drivers(context)
        listen = context.parts[Settings].config[keys.HTTPS_ADDRESS]
        return Present(
            drivers=self._used,
            certificate=context.parts[ServerCertificate],
            host_name=socket.gethostname(),
            addresses=tuple(list_addresses(listen)) if listen else (),
        )

    async def _read_drivers(self, context: Context) -> None:
        async with self._lock:
            pools = self._pools = self._pools or await context.db.watch("pools", {"storage_pools": EVERYTHING})

        def read(tx: Tx) -> None:
            self._used = tuple(list_used_drivers(tx))
            pools.clear()

        await context.db.read(read)

    async def compose(self, context: Context, present: Present, project: str) -> ServerEnvironment:
        """The environment in its wire form."""
        async with self._lock:
            known = self._known or (await in_thread(read_facts), await self._list_drivers())
            self._known = known
        facts, drivers = known
        versions = {driver.name: driver.version for driver in drivers}
        return ServerEnvironment(
            addresses=list(present.addresses),
            architectures=[facts.machine, *_PERSONALITIES.get(facts.machine, [])],
            certificate=present.certificate.pem,
            certificate_fingerprint=present.certificate.fingerprint,
            driver="lxc",
            driver_version=facts.lxc_version,
            firewall="nftables",
            instance_types=["container"],
            kernel=platform.system(),
            kernel_architecture=facts.machine,
            kernel_features=facts.kernel_features,
            kernel_version=platform.release(),
            lxc_features=facts.lxc_features,
            os_name=facts.os_name,
            os_version=facts.os_version,
            project=project,
            server=context.member.product.name,
            server_clustered=False,
            server_event_mode="full-mesh",
            server_lts=True,
            server_name=present.host_name,
            server_pid=os.getpid(),
            server_version=LXD_VERSION,
            storage=" | ".join(present.drivers),
            storage_version=" | ".join(versions.get(name, "") for name in present.drivers),
            storage_supported_drivers=list(drivers),
        )


def list_used_drivers(tx: Tx) -> list[str]:
    """Names of the drivers that some pool uses."""
    return [row["driver"] for row in tx.rows("SELECT DISTINCT driver FROM storage_pools ORDER BY driver")]


def list_addresses(listen: str) -> list[str]:
    """Where the API can be reached over the network, as `host:port`; a wildcard becomes the machine's addresses."""
    if not listen:
        return []
    host, port = keys.split_address(listen)
    port = port or keys.HTTPS_PORT
    if host not in ("", "0.0.0.0", "::"):
        return [format_address(host, port)]
    with Netlink() as netlink:
        found = [ipaddress.ip_address(address.address) for _, address in netlink.list_addresses()]
    return [format_address(str(ip), port) for ip in found if _is_reachable(ip, ipv4_only=host == "0.0.0.0")]


def _is_reachable(ip: ipaddress.IPv4Address | ipaddress.IPv6Address, *, ipv4_only: bool) -> bool:
    if ipv4_only and ip.version == 6:
        return False
    return not (ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_unspecified)


def format_address(host: str, port: int) -> str:
    """`host:port` with brackets around an IPv6 host."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
