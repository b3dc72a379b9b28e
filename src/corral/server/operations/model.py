"""An operation: work that goes on after its request was answered."""

import asyncio
import contextvars
import hmac
import re
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from corral.api import operations as wire
from corral.errors import Forbidden, InvalidRequest
from corral.server.events.model import format_time, utc_now

PENDING, RUNNING, CANCELLING = 105, 103, 104
SUCCESS, FAILURE, CANCELLED = 200, 400, 401
FINAL = frozenset({SUCCESS, FAILURE, CANCELLED})

Connect = Callable[[str, Any], Awaitable[Any]]
"""Serves one connection of a websocket operation: the name of the descriptor and the request that upgrades; returns
the response that was upgraded."""


@dataclass(eq=False)
class Operation:
    """The state of an operation. It is final once `done` is set.

    `owner` is the fingerprint of the certificate of the one who asked for it, empty for the Unix socket: what is
    open ends with its trust. `connect` and `secrets` make it a websocket operation: a client connects with the
    secret of a descriptor.
    """

    description: str
    project: str
    resources: dict[str, list[str]]
    metadata: dict[str, Any] = field(default_factory=dict)
    cancellable: bool = False
    connect: Connect | None = None
    secrets: dict[str, str] = field(default_factory=dict)
    kind: str = "task"
    owner: str = ""
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    created_at: datetime = field(default_factory=utc_now)
    updated_at: datetime = field(default_factory=utc_now)
    status: int = PENDING
    error: str = ""
    done: asyncio.Event = field(default_factory=asyncio.Event)
    task: "asyncio.Task[None] | None" = None
    changed: Callable[["Operation"], None] = lambda operation: None

    def to_wire(self) -> wire.Operation:
        """The operation as the API shows it."""
        metadata = self.metadata
        return wire.Operation(
            id=self.id,
            class_=self.kind,
            description=self.description,
            created_at=format_time(self.created_at),
            updated_at=format_time(self.updated_at),
            status=wire.STATUS_CODES[self.status],
            status_code=self.status,
            resources=self.resources or None,
            metadata=metadata or None,
            may_cancel=self.cancellable and self.status not in FINAL,
            err=self.error,
        )

    def update(self, status: int | None = None, **metadata: Any) -> None:
        """Change the status or add metadata, and tell the listeners."""
        if status is not None:
            self.status = status
        if metadata:
            self.metadata = {**self.metadata, **metadata}
        self.updated_at = utc_now()
        self.changed(self)

    def descriptor_of(self, secret: str) -> str:
        """The name of the descriptor that a secret opens; Forbidden for a wrong one."""
        for name, known in self.secrets.items():
            if secret and hmac.compare_digest(known.encode(), secret.encode()):
                return name
        raise Forbidden("Missing or wrong websocket secret")

    def cancel(self) -> None:
        """Ask the work to stop; InvalidRequest where it cannot be cancelled."""
        if self.status in FINAL or not self.cancellable:
            raise InvalidRequest("This operation can't be cancelled")
        self.update(CANCELLING)
        if self.task is not None:
            self.task.cancel()


_PROGRESS = "_progress"

current: contextvars.ContextVar[Operation | None] = contextvars.ContextVar("operation", default=None)
"""The operation whose work is running; a verb reports progress to it without knowing it."""


def report(**metadata: Any) -> None:
    """Add metadata (such as `create_image_progress="40%"`) to the running operation, if there is one."""
    operation = current.get()
    if operation is None or operation.status in FINAL:
        return
    for name, text in list(metadata.items()):
        if name.endswith(_PROGRESS) and isinstance(text, str) and (parts := parse_progress(name, text)):
            metadata["progress"] = parts
    operation.update(**metadata)


def parse_progress(name: str, text: str) -> dict[str, str] | None:
    """What programs read of a progress that is told as `Unpack: 40%` or `12.3MB (4.5MB/s)`: numbers, as text."""
    percent = re.search(r"\b(\d{1,3})%", text)
    speed = re.search(r"\((\d+(?:\.\d+)?)([kMGTPE]?)B/s\)", text)
    if percent is None and speed is None:
        return None
    bytes_per_s = int(float(speed[1]) * 1000 ** " kMGTPE".index(speed[2] or " ")) if speed else 0
    parts = {"stage": name.removesuffix(_PROGRESS), "speed": str(bytes_per_s)}
    return parts | ({"percent": percent[1]} if percent else {})
