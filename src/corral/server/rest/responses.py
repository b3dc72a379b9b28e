"""What handlers return and how it goes over the wire: the envelope with every key always present."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, TypeVar

import msgspec
from aiohttp import web

from corral.errors import CorralError
from corral.server.operations.model import Operation
from corral.server.rest import etag

T = TypeVar("T")

_encoder = msgspec.json.Encoder()


PIECE = 256 * 1024
"""Bytes of an answer that are handed to a connection at once: it copies what the client does not take at once."""


class LongResponse(web.Response):
    """An answer that goes out in pieces, as fast as the client reads."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Send the body."""
        body = self.body
        if isinstance(body, bytes | bytearray) and not self._must_be_empty_body:
            view = memoryview(body)
            for start in range(0, len(body), PIECE):
                await self.write(view[start : start + PIECE])
            self.body = None
        await super().write_eof(data)


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """A collection: the wire objects and the URL of each. The edge applies filter and recursion."""

    items: Sequence[T]
    url: Callable[[T], str]


@dataclass(frozen=True, slots=True)
class Created:
    """201 with the URL of the new thing, and metadata where the contract has some."""

    location: str
    metadata: Any = field(default_factory=dict)


@dataclass(eq=False)
class WithEtag(Generic[T]):
    """A value whose ETag is that of another value, where the two are not the same. Encoded once, however often sent."""

    value: T
    etag_of: Any

    @cached_property
    def etag(self) -> str:
        """The value of the header."""
        return f'"{etag.compute(self.etag_of)}"'

    @cached_property
    def body(self) -> bytearray:
        """The whole answer."""
        return encode(envelope(self.value))


def encode(answer: dict[str, Any]) -> bytearray:
    """JSON with Go's trailing newline."""
    body = bytearray()
    _encoder.encode_into(answer, body)
    body += b"\n"
    return body


def envelope(metadata: Any) -> dict[str, Any]:
    """What is around the answer of a finished request."""
    return {
        "type": "sync",
        "status": "Success",
        "status_code": 200,
        "operation": "",
        "error_code": 0,
        "error": "",
        "metadata": metadata,
    }


def encoded(body: bytes | bytearray, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """A body of JSON."""
    kind = web.Response if len(body) <= PIECE else LongResponse
    return kind(body=body, status=status, headers=headers, content_type="application/json")


def json(answer: dict[str, Any], status: int, headers: dict[str, str] | None = None) -> web.Response:
    """A JSON body."""
    return encoded(encode(answer), status, headers)


def sync(metadata: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """A finished request."""
    return json(envelope(metadata), status, headers)


def accepted(operation: Operation, url: str) -> web.Response:
    """A request whose work goes on as an operation."""
    return json(
        {
            "type": "async",
            "status": "Operation created",
            "status_code": 100,
            "operation": url,
            "error_code": 0,
            "error": "",
            "metadata": operation.to_wire(),
        },
        202,
        {"Location": url},
    )


def failed(status: int, message: str) -> web.Response:
    """An error, in the form that all clients know."""
    return json(
        {
            "type": "error",
            "status": "",
            "status_code": 0,
            "operation": "",
            "error_code": status,
            "error": message,
            "metadata": None,
        },
        status,
        {"X-Content-Type-Options": "nosniff"},
    )


def of_error(error: CorralError) -> web.Response:
    """The answer for an error of ours."""
    return failed(error.status, str(error))
