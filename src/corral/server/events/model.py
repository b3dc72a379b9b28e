"""The events of the API: logging, operation and lifecycle. Shapes as in `Event` of the REST contract."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote


@dataclass(frozen=True, slots=True)
class Requestor:
    """Who asked: shown in lifecycle events."""

    username: str = ""
    protocol: str = "unix"
    address: str = ""


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """Something happened to a thing: `action` is e.g. `instance-started`, `source` its URL in the API."""

    action: str
    source: str
    project: str = "default"
    context: Mapping[str, Any] = field(default_factory=dict)
    requestor: Requestor | None = None


@dataclass(frozen=True, slots=True)
class Logging:
    """A line of the log."""

    level: str
    message: str
    context: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OperationChanged:
    """An operation was made or changed; `operation` is its wire form."""

    operation: Mapping[str, Any]
    project: str


ApiEvent = Lifecycle | Logging | OperationChanged


def utc_now() -> datetime:
    """The present moment with its zone."""
    return datetime.now(UTC)


def format_time(moment: datetime | None) -> str:
    """RFC 3339 with nanosecond places as Go prints them; the zero time where there is none."""
    if moment is None:
        return "0001-01-01T00:00:00Z"
    text = moment.astimezone(UTC).isoformat().removesuffix("+00:00")
    return f"{text}Z"


_KINDS = frozenset({"snapshots", "backups"})
"""Things whose name is their owner's with their own behind a slash."""


def name_of(source: str) -> str:
    """The name of the thing at a URL: the last part of its path, with its instance's for a snapshot or a backup."""
    parts = source.partition("?")[0].split("/")
    name = unquote(parts[-1])
    if len(parts) > 3 and parts[-2] in _KINDS:
        return f"{unquote(parts[-3])}/{name}"
    return name


def to_wire(event: ApiEvent, location: str) -> dict[str, Any]:
    """The JSON form of an event."""
    envelope: dict[str, Any] = {"timestamp": format_time(utc_now()), "location": location}
    match event:
        case Lifecycle():
            metadata: dict[str, Any] = {
                "action": event.action,
                "source": event.source,
                "name": name_of(event.source),
                "project": event.project,
            }
            if event.context:
                metadata["context"] = dict(event.context)
            if event.requestor is not None:
                requestor = event.requestor
                metadata["requestor"] = {
                    "username": requestor.username,
                    "protocol": requestor.protocol,
                    "address": requestor.address,
                }
            return {"type": "lifecycle", **envelope, "metadata": metadata, "project": event.project}
        case Logging():
            metadata = {"message": event.message, "level": event.level, "context": dict(event.context)}
            return {"type": "logging", **envelope, "metadata": metadata}
        case OperationChanged():
            return {"type": "operation", **envelope, "metadata": dict(event.operation), "project": event.project}
