"""What the server runs on, for `environment` of GET /1.0."""

import ipaddress
import os
import platform
import socket
from collections.abc import Sequence

from corral.api.server import ServerEnvironment, ServerStorageDriver
from corral.server.auth.server_certificate import ServerCertificate
from corral.server.context import Context
from corral.server.db.database import Tx
from corral.server.host import features
from corral.server.host.netlink import Netlink
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


async def compose_environment(
    context: Context, project: str, drivers: Sequence[ServerStorageDriver]
) -> ServerEnvironment:
    """The environment as it is now; `drivers` are the storage drivers that work here."""
    certificate = context.parts[ServerCertificate]
    address = context.parts[Settings].config[keys.HTTPS_ADDRESS] or ""
    used = await context.db.read(list_used_drivers)
    versions = {driver.name: driver.version for driver in drivers}
    kernel = await in_thread(_flags, True)
    lxc = await in_thread(_flags, False)
    release = features.get_os_release()
    machine = features.get_architecture()
    return ServerEnvironment(
        addresses=await in_thread(list_addresses, address),
        architectures=[machine, *_PERSONALITIES.get(machine, [])],
        certificate=certificate.pem,
        certificate_fingerprint=certificate.fingerprint,
        driver="lxc",
        driver_version=await in_thread(features.get_lxc_version),
        firewall="nftables",
        kernel=platform.system(),
        kernel_architecture=machine,
        kernel_features=kernel,
        kernel_version=platform.release(),
        lxc_features=lxc,
        os_name=release.get("NAME", ""),
        os_version=release.get("VERSION_ID", ""),
        project=project,
        server=context.member.product.name,
        server_clustered=False,
        server_event_mode="full-mesh",
        server_name=socket.gethostname(),
        server_pid=os.getpid(),
        server_version=LXD_VERSION,
        storage=" | ".join(used),
        storage_version=" | ".join(versions.get(name, "") for name in used),
        storage_supported_drivers=list(drivers),
    )


def _flags(kernel: bool) -> dict[str, str]:
    found = features.get_kernel_features() if kernel else features.get_lxc_features()
    return {name: str(works).lower() for name, works in found.items()}


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
