"""Tokens by which a new client becomes trusted: made by an administrator, used once, kept as running operations."""

import asyncio
import base64
import binascii
import hmac
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from corral.errors import Forbidden
from corral.server.events.model import format_time, utc_now
from corral.server.operations.model import RUNNING, Operation
from corral.server.operations.registry import Operations

DESCRIPTION = "Executing operation"


class AddToken(msgspec.Struct, kw_only=True):
    """What is inside a token: base64 of JSON, as LXD's clients write and read it."""

    client_name: str
    fingerprint: str
    addresses: list[str]
    secret: str


def parse_token(text: str) -> AddToken | None:
    """The token in a text, or None where the text is something else (a password)."""
    try:
        return msgspec.json.decode(base64.b64decode(text, validate=True), type=AddToken)
    except (ValueError, binascii.Error, msgspec.MsgspecError):
        return None


def issue(
    operations: Operations,
    fingerprint: str,
    addresses: Sequence[str],
    request: Mapping[str, Any],
    expires_at: datetime | None,
) -> Operation:
    """Start the operation that is the token; it runs until the token is used, cancelled or too old."""
    metadata: dict[str, Any] = {
        "secret": secrets.token_hex(32),
        "fingerprint": fingerprint,
        "addresses": list(addresses),
        "request": dict(request),
    }
    if expires_at is not None:
        metadata["expiresAt"] = format_time(expires_at)
    operation = Operation(DESCRIPTION, "default", {}, metadata, cancellable=True, kind="token")

    async def last() -> None:
        delay = None if expires_at is None else (expires_at - utc_now()).total_seconds()
        try:
            async with asyncio.timeout(delay):
                await asyncio.Event().wait()
        except TimeoutError:
            raise Forbidden("Token has expired") from None

    return operations.start(operation, last)


def redeem(operations: Operations, token: AddToken) -> Mapping[str, Any]:
    """What the administrator allowed by this token; it is used up. Raises Forbidden for an unknown one."""
    for operation in operations.all():
        if operation.kind != "token" or operation.status != RUNNING or "request" not in operation.metadata:
            continue
        if hmac.compare_digest(str(operation.metadata["secret"]), token.secret):
            operation.cancel()
            request: Mapping[str, Any] = operation.metadata["request"]
            return request
    raise Forbidden("No matching certificate add operation found")
