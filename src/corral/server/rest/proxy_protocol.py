"""The PROXY protocol (versions 1 and 2): a trusted proxy says in front of the TLS whom it speaks for.

https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt
"""

import asyncio
import contextlib
import ipaddress
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from corral.errors import InvalidRequest

log = logging.getLogger(__name__)

V1_PREFIX = b"PROXY "
V2_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_V1_LENGTH = 107
_V2_HEAD = 16
_MOST = 4096
HEADER_TIMEOUT_S = 5.0
_POLL_S = 0.01
_RETRY_S = 0.5

Address = tuple[str, int]


class ClientAddresses:
    """The addresses of clients behind proxies, by their connections."""

    def __init__(self) -> None:
        self._addresses: WeakKeyDictionary[Any, Address] = WeakKeyDictionary()

    def put(self, transport: Any, address: Address) -> None:
        """Remember whom a connection is for."""
        self._addresses[transport] = address

    def find(self, transport: Any) -> Address | None:
        """The client's address, where a proxy told it."""
        return self._addresses.get(transport) if transport is not None else None


def parse(data: bytes) -> tuple[int, Address | None] | None:
    """The length of the header at the start of some bytes and the client's address in it; None: more is needed.

    The length is 0 where there is no header. The address is None where the proxy speaks for itself. Raises
    InvalidRequest for a damaged header.
    """
    if data.startswith(V1_PREFIX):
        return _parse_v1(data)
    if data.startswith(V2_SIGNATURE):
        return _parse_v2(data)
    if V1_PREFIX.startswith(data) or V2_SIGNATURE.startswith(data):
        return None
    return 0, None


def _parse_v1(data: bytes) -> tuple[int, Address | None] | None:
    line, end, _ = data[:_V1_LENGTH].partition(b"\r\n")
    if not end:
        if len(data) >= _V1_LENGTH:
            raise InvalidRequest("PROXY protocol: the header has no end")
        return None
    words = line.decode("ascii", "replace").split(" ")
    if len(words) > 1 and words[1] == "UNKNOWN":
        return len(line) + 2, None
    if len(words) != 6 or words[1] not in ("TCP4", "TCP6") or not words[4].isdecimal() or int(words[4]) > 65535:
        raise InvalidRequest(f"PROXY protocol: damaged header {line!r}")
    try:
        ipaddress.ip_address(words[2])
    except ValueError:
        raise InvalidRequest(f"PROXY protocol: damaged header {line!r}") from None
    return len(line) + 2, (words[2], int(words[4]))


def _parse_v2(data: bytes) -> tuple[int, Address | None] | None:
    if len(data) < _V2_HEAD:
        return None
    version, command, family = data[12] >> 4, data[12] & 0xF, data[13] >> 4
    length = _V2_HEAD + int.from_bytes(data[14:16], "big")
    if version != 2 or command > 1 or length > _MOST:
        raise InvalidRequest("PROXY protocol: damaged header of version 2")
    if len(data) < length:
        return None
    block = data[_V2_HEAD:length]
    size = {1: 4, 2: 16}.get(family)
    if command == 0 or size is None:
        return length, None
    if len(block) < 2 * size + 4:
        raise InvalidRequest("PROXY protocol: the header of version 2 is too short for its addresses")
    port = int.from_bytes(block[2 * size : 2 * size + 2], "big")
    return length, (str(ipaddress.ip_address(block[:size])), port)


class ProxiedServer:
    """Accepts connections, and takes the headers of trusted proxies off before the TLS begins."""

    def __init__(
        self,
        listener: socket.socket,
        is_trusted: Callable[[str], bool],
        serve: Callable[[socket.socket, Address | None], Any],
    ) -> None:
        self._listener, self._is_trusted, self._serve = listener, is_trusted, serve
        self._connections: set[asyncio.Task[None]] = set()
        self._task = asyncio.get_running_loop().create_task(self._accept(), name="https behind proxies")

    def close(self) -> None:
        """Stop to listen; open connections go on."""
        self._task.cancel()
        self._listener.close()
        for task in self._connections:
            task.cancel()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, peer = await loop.sock_accept(self._listener)
            except OSError as error:
                log.warning("Cannot accept a connection: %s", error)
                await asyncio.sleep(_RETRY_S)
                continue
            task = loop.create_task(self._begin(connection, peer[0]), name="https connection behind a proxy")
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)

    async def _begin(self, connection: socket.socket, peer: str) -> None:
        try:
            address = None
            if self._is_trusted(peer.removeprefix("::ffff:")):
                async with asyncio.timeout(HEADER_TIMEOUT_S):
                    address = await _take_header(connection)
            await self._serve(connection, address)
        except (InvalidRequest, TimeoutError, ssl.SSLError, OSError) as error:
            log.info("Refused a connection from %s: %r", peer, error)
            connection.close()
        except BaseException:
            connection.close()
            raise


async def _take_header(connection: socket.socket) -> Address | None:
    while True:
        data = b""
        with contextlib.suppress(BlockingIOError):
            data = connection.recv(_MOST, socket.MSG_PEEK)
            if not data:
                raise InvalidRequest("the connection ended before it began")
        found = parse(data) if data else None
        if found is not None:
            length, address = found
            connection.recv(length)
            return address
        # What was peeked at stays readable, so that readiness says nothing about more of it.
        await asyncio.sleep(_POLL_S)
