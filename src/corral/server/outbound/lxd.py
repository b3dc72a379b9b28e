"""Another server with this API, as the daemon speaks to it: known by its certificate, asked without one of our own."""

import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
import msgspec

from corral.errors import CorralError, Forbidden, InternalError, InvalidRequest, NotFound, Unavailable
from corral.server.outbound.http import Call, Outbound, read_bounded

ANSWER_LIMIT = 16 << 20
_ERRORS: Mapping[int, type[CorralError]] = {400: InvalidRequest, 403: Forbidden, 404: NotFound, 503: Unavailable}


class _Answer(msgspec.Struct, kw_only=True):
    type: str = ""
    error: str | None = ""
    error_code: int | None = 0
    metadata: Any = None


@dataclass(frozen=True, slots=True)
class LxdServer:
    """A server at `https://HOST:PORT`; `certificate` pins it, `project` is where its things are asked for."""

    outbound: Outbound
    address: str
    certificate: str = ""
    project: str = ""

    async def get(self, *parts: str, **query: str) -> Any:
        """The metadata of a GET; `parts` are escaped. Raises what the server answered, Unavailable for no answer."""
        async with self.outbound.open(self._call("GET", parts, query)) as response:
            return await _metadata(response)

    async def post(
        self, *parts: str, body: bytes | AsyncIterable[bytes], headers: Mapping[str, str], **query: str
    ) -> Any:
        """The metadata of a POST: for work in the background, the operation."""
        call = self._call("POST", parts, query)
        async with self.outbound.open(Call(call.method, call.url, call.certificate, headers, body)) as response:
            return await _metadata(response)

    async def wait(self, operation: str, secret: str) -> None:
        """Wait for the end of an operation and raise its error."""
        query = {"timeout": "-1", **({"secret": secret} if secret else {})}
        call = self._call("GET", ("operations", operation, "wait"), query)
        async with self.outbound.open(Call("GET", call.url, call.certificate, silence_s=None)) as response:
            ended = await _metadata(response)
        if not isinstance(ended, dict) or ended.get("status_code") != 200:
            reason = ended.get("err") if isinstance(ended, dict) else None
            raise InternalError(f"The operation on {self.address} failed: {reason or 'no reason was given'}")

    @contextlib.asynccontextmanager
    async def download(self, *parts: str, **query: str) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer to a GET of a file, with its body unread; raises what the server answered instead."""
        async with self.outbound.open(self._call("GET", parts, query)) as response:
            if response.status != 200:
                await _metadata(response)
                raise InternalError(f"{self.address} answered with status {response.status} instead of a file")
            yield response

    def _call(self, method: str, parts: tuple[str, ...], query: Mapping[str, str]) -> Call:
        wanted = {**query, **({"project": self.project} if self.project not in ("", "default") else {})}
        path = "/".join(quote(part, safe="") for part in parts)
        url = f"{self.address.rstrip('/')}/1.0/{path}" + (f"?{urlencode(wanted)}" if wanted else "")
        return Call(method, url, self.certificate)


async def _metadata(response: aiohttp.ClientResponse) -> Any:
    data = await read_bounded(response, ANSWER_LIMIT)
    try:
        answer = msgspec.json.decode(data, type=_Answer)
    except msgspec.MsgspecError:
        raise InternalError(f"{response.url.origin()} is no server of this kind (status {response.status})") from None
    if answer.type == "error" or response.status >= 400:
        status = answer.error_code or response.status
        raise _ERRORS.get(status, InternalError)(answer.error or f"status {status}")
    return answer.metadata
