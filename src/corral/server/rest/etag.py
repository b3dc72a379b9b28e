"""ETag and If-Match: the hash of what a client may edit."""

import hashlib
from typing import Any

import msgspec

from corral.errors import PreconditionFailed


def writable_part(value: Any, put: type[msgspec.Struct] | None) -> Any:
    """The fields of a wire object that its PUT takes, as plain values."""
    if put is None:
        return value
    return {name: getattr(value, name) for name in put.__struct_fields__ if hasattr(value, name)}


def compute(part: Any) -> str:
    """The hash of a value, independent of the order of its keys."""
    return hashlib.sha256(msgspec.json.encode(part, order="deterministic")).hexdigest()


def check(if_match: str | None, part: Any) -> None:
    """Raise PreconditionFailed unless If-Match is absent, `*` or the hash of the present state."""
    wanted = (if_match or "").removeprefix("W/").strip('"')
    if not wanted or wanted == "*":
        return
    present = compute(part)
    if wanted != present:
        raise PreconditionFailed(f"ETag doesn't match: {present} vs {wanted}")
