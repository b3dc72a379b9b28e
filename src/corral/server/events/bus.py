"""One bus for all events: reactions that are awaited, listeners that never block.

A *reaction* belongs to the work: it is awaited by the one who publishes and may fail it; `main.py` lists all of
them. A *listener* watches the API's events (a websocket, later another member): it has a bounded queue and is dropped
when it does not keep up.
"""

import asyncio
import contextvars
import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from corral.server.events.model import ApiEvent, Lifecycle, Logging, OperationChanged, Requestor, to_wire

T = TypeVar("T")

QUEUE_LENGTH = 4096

requestor: contextvars.ContextVar[Requestor | None] = contextvars.ContextVar("requestor", default=None)
"""Who asked for what runs now; set by the REST edge and inherited by the operation's task."""

_TYPES = {Lifecycle: "lifecycle", Logging: "logging", OperationChanged: "operation"}


@dataclasses.dataclass(eq=False, slots=True)
class Listener:
    """A queue of wire events for one watcher. `lost` is set when the queue ran over and the watcher must go.

    `allowed` are the projects that the watcher may see at all; None is all, and events of no project besides.
    """

    types: frozenset[str]
    project: str | None
    queue: "asyncio.Queue[dict[str, Any] | None]"
    allowed: frozenset[str] | None = None
    lost: bool = False

    def put(self, event: dict[str, Any]) -> bool:
        """Hand an event to the watcher; False where the queue is full and the watcher is lost."""
        try:
            self.queue.put_nowait(event)
        except asyncio.QueueFull:
            self.lost = True
        return not self.lost

    def end(self) -> None:
        """Tell the watcher that nothing more will come."""
        self.lost = True
        if not self.queue.full():
            self.queue.put_nowait(None)


class Events:
    """Publishes events to reactions and listeners."""

    def __init__(self, location: str = "none") -> None:
        self._location = location
        self._listeners: set[Listener] = set()
        self._reactions: dict[type[Any], list[Callable[[Any], Awaitable[None]]]] = {}

    def on(self, kind: type[T], reaction: Callable[[T], Awaitable[None]]) -> None:
        """Have a reaction awaited for each event of a type."""
        self._reactions.setdefault(kind, []).append(reaction)

    async def react(self, event: object) -> None:
        """Await the reactions to an internal event; the first failure is the caller's."""
        for reaction in self._reactions.get(type(event), []):
            await reaction(event)

    def publish(self, event: ApiEvent) -> None:
        """Hand an event of the API to the listeners; never blocks and never fails."""
        if isinstance(event, Lifecycle) and event.requestor is None:
            event = dataclasses.replace(event, requestor=requestor.get())
        kind = _TYPES[type(event)]
        project = None if isinstance(event, Logging) else event.project
        wire: dict[str, Any] | None = None
        for listener in list(self._listeners):
            if kind not in listener.types or (project and listener.project not in (None, project)):
                continue
            if listener.allowed is not None and project not in listener.allowed:
                continue
            wire = wire or to_wire(event, self._location)
            if not listener.put(wire):
                self._listeners.discard(listener)

    def wants(self, kind: str) -> bool:
        """Whether anybody listens to a type of event."""
        return any(kind in listener.types for listener in self._listeners)

    def listen(self, types: frozenset[str], project: str | None, allowed: frozenset[str] | None = None) -> Listener:
        """Start to listen to types of events, of one project or, with None, of all that are allowed."""
        listener = Listener(types, project, asyncio.Queue(QUEUE_LENGTH), allowed)
        self._listeners.add(listener)
        return listener

    def leave(self, listener: Listener) -> None:
        """Stop listening."""
        self._listeners.discard(listener)

    def close(self) -> None:
        """Tell all listeners that the daemon ends."""
        for listener in list(self._listeners):
            self._listeners.discard(listener)
            listener.end()
