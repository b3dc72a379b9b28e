"""Requests that the daemon makes to other servers: certificates pinned or checked, proxies, deadlines, bounds."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import aiohttp

from corral.errors import CorralError, InternalError, InvalidRequest, Unavailable
from corral.server.auth import pem
from corral.server.outbound.proxies import Proxies

CONNECT_TIMEOUT_S = 30.0
SILENCE_TIMEOUT_S = 60.0
"""How long the other side may say nothing."""
CHUNK = 1 << 20
MAX_MESSAGE = 64 << 20
"""Bytes of one message of a websocket."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request to make. `certificate` is the PEM text of the only certificate that the server may show; without it
    the system's authorities decide."""

    method: str
    url: str
    certificate: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | AsyncIterable[bytes] | None = None
    silence_s: float | None = SILENCE_TIMEOUT_S


class Outbound:
    """The daemon's HTTP client: one part, whose connections are kept and shared."""

    def __init__(self, user_agent: str) -> None:
        self.user_agent = user_agent
        self.proxies = Proxies()
        self._session: aiohttp.ClientSession | None = None

    @contextlib.asynccontextmanager
    async def open(self, call: Call) -> AsyncIterator[aiohttp.ClientResponse]:
        """Make a request and give the answer, whatever its status, with its body unread.

        Raises Unavailable where the server cannot be reached, is another one than pinned, or breaks off (also while
        the body is read inside the block), InvalidRequest for a URL that is none.
        """
        check_url(call.url)
        try:
            async with self._open_session().request(
                call.method,
                call.url,
                headers={"User-Agent": self.user_agent, "Accept-Encoding": "identity", **call.headers},
                data=call.body,
                ssl=_verification(call.certificate),
                proxy=self.proxies.choose(call.url),
                timeout=aiohttp.ClientTimeout(
                    total=None, connect=CONNECT_TIMEOUT_S, sock_connect=CONNECT_TIMEOUT_S, sock_read=call.silence_s
                ),
            ) as response:
                yield response
        except (aiohttp.ClientError, ssl.SSLError, OSError, TimeoutError) as error:
            raise _explain(call.url, error) from error

    @contextlib.asynccontextmanager
    async def websocket(self, url: str, certificate: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """Open a websocket at an https URL. Raises as `open` does."""
        check_url(url)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                socket = await self._open_session().ws_connect(
                    url,
                    headers={"User-Agent": self.user_agent},
                    ssl=_verification(certificate),
                    proxy=self.proxies.choose(url),
                    max_msg_size=MAX_MESSAGE,
                )
        except (aiohttp.ClientError, ssl.SSLError, OSError, TimeoutError) as error:
            raise _explain(url, error) from error
        try:
            yield socket
        finally:
            await socket.close()

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=64, limit_per_host=16),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                read_bufsize=CHUNK,
            )
        return self._session


async def read_bounded(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The whole body; raises InternalError where it is longer than `limit` bytes."""
    data = bytearray()
    async for chunk in response.content.iter_any():
        data += chunk
        if len(data) > limit:
            raise InternalError(f"The answer of {response.url} is longer than {limit} bytes")
    return bytes(data)


def check_url(url: str) -> None:
    """Raise InvalidRequest where this is no URL of an HTTP server."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        valid = False
    if not valid or any(character <= " " for character in url):
        raise InvalidRequest(f"Invalid URL {url!r}: give one of a server, with http:// or https://")


def _explain(url: str, error: Exception) -> CorralError:
    if isinstance(error, aiohttp.ServerFingerprintMismatch):
        return Unavailable(f"{_server(url)} shows another certificate than the one that was given")
    if isinstance(error, aiohttp.InvalidURL):
        return InvalidRequest(f"Invalid URL {url!r}")
    return Unavailable(f"Failed to reach {_server(url)}: {str(error) or 'no answer in time'}")


def _server(url: str) -> str:
    """Scheme and host: the rest may hold a secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _verification(certificate: str) -> aiohttp.Fingerprint | bool:
    if not certificate:
        return True
    return aiohttp.Fingerprint(bytes.fromhex(pem.fingerprint_of(pem.to_der(certificate))))
