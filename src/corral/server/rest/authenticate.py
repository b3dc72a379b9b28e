"""Who is calling: over the Unix socket, the peer's credentials."""

import pwd
import socket
import struct
from functools import lru_cache

from aiohttp import web

from corral.server.rest.request import Caller


@lru_cache(maxsize=256)
def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def authenticate(raw: web.BaseRequest) -> Caller:
    """The caller of a request (SO_PEERCRED, unix(7))."""
    transport = raw.transport
    sock = transport.get_extra_info("socket") if transport is not None else None
    if sock is None or sock.family != socket.AF_UNIX:
        return Caller("", "tls", raw.remote or "", trusted=False, admin=False)
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", credentials)
    return Caller(_user_name(uid), "unix", "@")
