"""All operations of this member: started here, kept until some seconds after their end.

They live in memory: an operation cannot outlive the daemon, and what it left half-made is swept at the next start by
the nouns' pending rows.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from corral.errors import CorralError, NotFound
from corral.server.events.bus import Events
from corral.server.events.model import OperationChanged
from corral.server.operations import model
from corral.server.operations.model import Operation

log = logging.getLogger(__name__)

KEPT_S = 5.0
"""Clients read the result of an operation some time after its end (LXD keeps it 5 s too)."""


class Operations:
    """Starts operations and finds them."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._operations: dict[str, Operation] = {}

    def start(self, operation: Operation, work: Callable[[], Awaitable[Any]]) -> Operation:
        """Register an operation and run its work as a task of its own."""
        operation.changed = self._publish
        self._operations[operation.id] = operation
        operation.update()
        operation.status = model.RUNNING
        operation.task = asyncio.get_running_loop().create_task(
            self._run(operation, work), name=f"operation {operation.description} {operation.id}"
        )
        operation.task.add_done_callback(lambda task: self._never_ran(operation))
        operation.update()
        return operation

    def get(self, uuid: str) -> Operation:
        """The operation, or NotFound."""
        found = self._operations.get(uuid)
        if found is None:
            raise NotFound(f"Operation {uuid!r} not found")
        return found

    def all(self, project: str | None = None) -> list[Operation]:
        """The operations of a project, or of all with None."""
        return [one for one in self._operations.values() if project is None or one.project in ("", project)]

    def running(self) -> list[Operation]:
        """Operations that have not ended."""
        return [one for one in self._operations.values() if not one.done.is_set()]

    def end_sessions_of(self, owner: str) -> None:
        """Cancel the websocket operations that a client asked for: whoever has their secrets cannot use them more."""
        for operation in self.running():
            if operation.kind == "websocket" and operation.owner == owner and operation.task is not None:
                operation.task.cancel()

    async def stop(self, grace_s: float, tasks_grace_s: float = 0.0) -> None:
        """Let running operations end for some time, then cancel the rest and wait for their undo.

        Sessions have `grace_s` seconds, work has `tasks_grace_s` where that is more. A token does nothing but wait: it
        is cancelled at once.
        """
        for operation in self.running():
            if operation.kind == "token" and operation.task is not None:
                operation.task.cancel()
        tasks = [one.task for one in self.running() if one.task is not None]
        if not tasks:
            return
        _, pending = await asyncio.wait(tasks, timeout=grace_s)
        work = [one.task for one in self.running() if one.kind == "task" and one.task is not None]
        if work and tasks_grace_s > grace_s:
            await asyncio.wait(work, timeout=tasks_grace_s - grace_s)
            pending = {task for task in pending if not task.done()}
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)

    async def _run(self, operation: Operation, work: Callable[[], Awaitable[Any]]) -> None:
        model.current.set(operation)
        try:
            metadata = await work()
        except asyncio.CancelledError:
            self._end(operation, model.CANCELLED, "Cancelled" if operation.status == model.CANCELLING else "Stopped")
        except CorralError as error:
            self._end(operation, model.FAILURE, str(error))
        except Exception:
            log.exception("Operation %s (%s) failed", operation.id, operation.description)
            self._end(operation, model.FAILURE, f"Internal error: see the server's log for operation {operation.id}")
        else:
            self._end(operation, model.SUCCESS, "", metadata if isinstance(metadata, dict) else {})

    def _never_ran(self, operation: Operation) -> None:
        """A task that is cancelled before its first step runs nothing at all, not even the end of `_run`."""
        if not operation.done.is_set():
            self._end(operation, model.CANCELLED, "Cancelled")

    def _end(self, operation: Operation, status: int, error: str, metadata: dict[str, Any] | None = None) -> None:
        operation.error = error
        operation.update(status, **(metadata or {}))
        operation.done.set()
        asyncio.get_running_loop().call_later(KEPT_S, self._operations.pop, operation.id, None)

    def _publish(self, operation: Operation) -> None:
        if self._events.wants("operation"):
            wire = msgspec.to_builtins(operation.to_wire())
            if operation.kind == "token":
                # Its secret is for the one who asked for it, not for all who watch.
                wire["metadata"] = None
            self._events.publish(OperationChanged(wire, operation.project))
