"""Who is calling: over the Unix socket by the peer's credentials, over TLS by its certificate."""

import asyncio
import pwd
import socket
import struct
import time
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

from aiohttp import web

from corral.server.auth import certificates
from corral.server.auth.authority import Authority
from corral.server.auth.peer import PeerCertificate, find_peer_certificate
from corral.server.auth.sessions import Sessions
from corral.server.context import Context
from corral.server.rest.proxy_protocol import ClientAddresses
from corral.server.rest.request import Caller
from corral.server.settings import keys
from corral.server.settings.settings import Settings

METRICS_PATH = "/1.0/metrics"


_CREDENTIALS = struct.Struct("3i")
"""struct ucred: process, user, group."""


_local_callers: WeakKeyDictionary[asyncio.Transport, Caller] = WeakKeyDictionary()


@lru_cache(maxsize=256)
def _local_caller(uid: int) -> Caller:
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = f"uid={uid}"
    return Caller(name, "unix", "@")


async def authenticate(raw: web.BaseRequest, context: Context) -> Caller:
    """The caller of a request: its trust is looked up each time, so that it ends with the certificate's entry."""
    transport = raw.transport
    # Who opened a connection to the Unix socket is who asks on it, to its end.
    local = _local_callers.get(transport) if transport is not None else None
    if local is not None:
        return local
    # The name of a Unix socket is its path; that of any other is a tuple.
    if transport is not None and isinstance(transport.get_extra_info("sockname"), str | bytes):
        # SO_PEERCRED, unix(7)
        sock = transport.get_extra_info("socket")
        _, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        local = _local_callers[transport] = _local_caller(uid)
        return local
    told = context.parts[ClientAddresses].find(transport)
    address = _format_peer(told or (transport.get_extra_info("peername") if transport is not None else None))
    connection = transport.get_extra_info("ssl_object") if transport is not None else None
    peer = find_peer_certificate(connection) if connection is not None else None
    authority = context.parts[Authority]
    has_authority = authority.load()
    if peer is not None and has_authority and not authority.is_signed(peer.der):
        # In the mode of a PKI other certificates count for nothing, and cannot be added.
        peer = None
    stranger = Caller("", "tls", address, trusted=False, admin=False, certificate=peer)
    if peer is None or not peer.is_valid_at(time.time()) or (has_authority and authority.is_revoked(peer.der)):
        return stranger
    known = await context.db.read(certificates.find_certificate, peer.fingerprint)
    if known is None and has_authority and context.parts[Settings].config[keys.TRUST_CA]:
        known = certificates.Certificate(0, peer.fingerprint, "client", peer.common_name, "")
    if known is None or (known.kind == "metrics" and raw.path != METRICS_PATH):
        return stranger
    if transport is not None:
        context.parts[Sessions].add(peer.fingerprint, transport)
    return _known_caller(known, address, peer)


def _known_caller(known: certificates.Certificate, address: str, peer: PeerCertificate) -> Caller:
    full = known.kind != "metrics" and not known.restricted
    return Caller(
        known.fingerprint,
        "cluster" if known.kind == "server" else "tls",
        address,
        admin=full,
        projects=frozenset(known.projects) if known.restricted else None,
        certificate=peer,
    )


def _format_peer(peer: Any) -> str:
    if not isinstance(peer, tuple) or len(peer) < 2:
        return ""
    host, port = str(peer[0]).removeprefix("::ffff:"), peer[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
