"""What handlers return and how it goes over the wire: the envelope with every key always present."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import msgspec
from aiohttp import web

from corral.errors import CorralError
from corral.server.operations.model import Operation

T = TypeVar("T")

_encoder = msgspec.json.Encoder()


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


@dataclass(frozen=True, slots=True)
class WithEtag(Generic[T]):
    """A value whose ETag is that of another value, where the two are not the same."""

    value: T
    etag_of: Any


def json(envelope: dict[str, Any], status: int, headers: dict[str, str] | None = None) -> web.Response:
    """A JSON body with Go's trailing newline."""
    body = _encoder.encode(envelope) + b"\n"
    return web.Response(body=body, status=status, headers=headers, content_type="application/json")


def sync(metadata: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """A finished request."""
    return json(
        {
            "type": "sync",
            "status": "Success",
            "status_code": 200,
            "operation": "",
            "error_code": 0,
            "error": "",
            "metadata": metadata,
        },
        status,
        headers,
    )


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
