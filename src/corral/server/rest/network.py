"""The HTTPS listeners: opened, moved and closed as the addresses in the configuration say, while the daemon runs."""

import asyncio
import contextlib
import errno
import ipaddress
import logging
import os
import socket
import ssl
from dataclasses import dataclass

from corral.errors import CorralError, InvalidRequest
from corral.server.auth.server_certificate import ServerCertificate
from corral.server.background import Background
from corral.server.context import Context
from corral.server.host.threads import in_thread
from corral.server.keys import Key
from corral.server.rest import debug, tls
from corral.server.rest.authenticate import METRICS_PATH
from corral.server.rest.listeners import BACKLOG, Listeners, Serve
from corral.server.settings import keys
from corral.server.settings.settings import Settings, SettingsChanged

log = logging.getLogger(__name__)

RETRY_S = 30.0
RESOLVE_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Purpose:
    """What is served on an address of its own: the name of the listener, its key, and the port without one.

    `paths` are all that is served there; empty: the whole API. `serve` answers instead of the API, over plain HTTP and
    on loopback where the address has no host.
    """

    name: str
    key: Key[str]
    port: int
    paths: frozenset[str] = frozenset()
    serve: Serve | None = None


API = Purpose("https", keys.HTTPS_ADDRESS, keys.HTTPS_PORT)
METRICS = Purpose("metrics", keys.METRICS_ADDRESS, keys.METRICS_PORT, frozenset({"/", METRICS_PATH}))

DEBUG = Purpose("debug", keys.DEBUG_ADDRESS, keys.DEBUG_PORT, serve=debug.serve)


class NetworkListener:
    """Where the API is served over the network. A new address that cannot be had leaves the old one in place."""

    def __init__(self, context: Context, purpose: Purpose = API) -> None:
        self._context = context
        self._purpose = purpose
        self._tls: ssl.SSLContext | None = None
        self._address = ""

    async def start(self) -> None:
        """Listen on the stored address; where that fails, keep trying and let the daemon start without it."""
        if not await self._try():
            self._context.parts[Background].start(f"{self._purpose.name} listener", self._retry())

    async def _retry(self) -> None:
        while True:
            await asyncio.sleep(RETRY_S)
            async with self._context.locks.hold("settings"):
                if await self._try():
                    return

    async def _try(self) -> bool:
        try:
            await self.move(self._wanted())
        except CorralError as error:
            log.error("%s; trying again in %.0f s", error, RETRY_S)
            return False
        return True

    def _wanted(self) -> str:
        return self._context.parts[Settings].config[self._purpose.key] or ""

    async def react(self, event: SettingsChanged) -> None:
        """Follow a change of the configuration; raises InvalidRequest where the address cannot be listened on."""
        if self._purpose.key.name in event.changed:
            await self.move(event.changed[self._purpose.key.name])
        elif keys.TRUSTED_PROXY.name in event.changed and self._address:
            await self._open(self._context.parts[Listeners].duplicate(self._purpose.name))

    async def move(self, address: str) -> None:
        """Listen on another address, or on none with ""; connections that are open go on."""
        if address == "":
            self._context.parts[Listeners].close(self._purpose.name)
            self._address = ""
            return
        wanted = keys.canonical_address(address, self._purpose.port)
        plain = self._purpose.serve is not None
        if plain and wanted.startswith(":"):
            wanted = f"127.0.0.1{wanted}"
        if wanted == self._address:
            return
        if not plain and self._tls is None:
            insecure = bool(os.environ.get(f"{self._context.member.product.prefix}_INSECURE_TLS"))
            certificate = self._context.parts[ServerCertificate]
            self._tls = await in_thread(lambda: tls.make_context(certificate, allow_tls12=insecure))
        await self._open(await self._bind(wanted))
        self._address = wanted
        log.info("Serving %s on %s://%s", self._purpose.name, "http" if plain else "https", wanted)
        if plain and not _is_loopback(wanted):
            log.warning("Whoever reaches %s can watch the %s server, without a login", wanted, self._purpose.name)

    async def _open(self, listener: socket.socket) -> None:
        trusts = self._context.parts[Settings].config[keys.TRUSTED_PROXY]
        proxies = (lambda address: address in trusts) if trusts else None
        purpose, listeners = self._purpose, self._context.parts[Listeners]
        if purpose.serve is not None:
            await listeners.open(purpose.name, listener, serve=purpose.serve)
            return
        await listeners.open(purpose.name, listener, self._tls, purpose.paths, proxies)

    async def _bind(self, wanted: str) -> socket.socket:
        try:
            return await bind(wanted)
        except InvalidRequest:
            if not self._address or keys.split_address(self._address)[1] != keys.split_address(wanted)[1]:
                raise
        # It may be our own old address, such as 127.0.0.1:8443, that is in the way of the new one, such as [::]:8443.
        listeners, old = self._context.parts[Listeners], self._address
        listeners.close(self._purpose.name)
        self._address = ""
        try:
            return await bind(wanted)
        except InvalidRequest:
            with contextlib.suppress(InvalidRequest):
                await self._open(await bind(old))
                self._address = old
            raise


def _is_loopback(address: str) -> bool:
    host = keys.split_address(address)[0]
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host == "localhost"


async def bind(address: str) -> socket.socket:
    """A listening socket on `host:port`; without a host on all addresses of both families.

    Raises InvalidRequest that says why it cannot be.
    """
    host, port = keys.split_address(address)
    family, sockaddr = await _resolve(host, port or keys.HTTPS_PORT, address)
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # asyncio would make a wildcard IPv6 only; clients expect both families behind [::].
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if host in ("", "::") else 1)
        listener.bind(sockaddr)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        reason = {
            errno.EADDRINUSE: "the address is already in use",
            errno.EADDRNOTAVAIL: "no interface has this address",
        }.get(error.errno or 0, error.strerror or str(error))
        raise InvalidRequest(f'Cannot listen on network HTTPS socket "{address}": {reason}') from error
    return listener


async def _resolve(host: str, port: int, address: str) -> tuple[socket.AddressFamily, tuple[str, int]]:
    if host == "0.0.0.0":
        return socket.AF_INET, (host, port)
    if host in ("", "::"):
        return (socket.AF_INET6, ("::", port)) if _has_ipv6() else (socket.AF_INET, ("0.0.0.0", port))
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(RESOLVE_TIMEOUT_S):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, TimeoutError, UnicodeError):
        raise InvalidRequest(f'Cannot listen on network HTTPS socket "{address}": Couldn\'t resolve "{host}"') from None
    family, _, _, _, sockaddr = found[0]
    return socket.AddressFamily(family), sockaddr[:4] if family == socket.AF_INET6 else sockaddr[:2]  # type: ignore[return-value]


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    except OSError:
        return False
    return True
