"""Wire form of operations."""

from typing import Any

import msgspec

STATUS_CODES = {
    100: "Operation created",
    101: "Started",
    102: "Stopped",
    103: "Running",
    104: "Cancelling",
    105: "Pending",
    106: "Starting",
    107: "Stopping",
    108: "Aborting",
    109: "Freezing",
    110: "Frozen",
    111: "Thawed",
    112: "Error",
    200: "Success",
    400: "Failure",
    401: "Cancelled",
}
"""Texts of status codes, of operations and of instances."""


class Operation(msgspec.Struct, kw_only=True):
    """An operation as GET /1.0/operations/UUID shows it."""

    id: str
    #: token, task or websocket; "class" is a Python keyword.
    class_: str = msgspec.field(name="class")
    description: str
    created_at: str
    updated_at: str
    status: str
    status_code: int
    resources: dict[str, list[str]] | None = None
    metadata: dict[str, Any] | None = None
    may_cancel: bool = False
    err: str = ""
    location: str = "none"
