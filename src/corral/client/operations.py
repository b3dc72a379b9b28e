"""Waiting for what a server does in the background, with its progress, and cancelling it."""

from __future__ import annotations

from corral.client import codec
from corral.client.server import ApiError, escape
from corral.errors import CorralError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from corral.client.server import Server
    from corral.client.websocket import WebSocket

    Watch = Callable[[dict[str, Any]], None]

_FINAL_STATUS = 200
_CANCELLED = 401


class OperationFailed(CorralError):
    """The operation ended with an error, which is the message."""


class Interrupted(CorralError):
    """The user stopped waiting."""


def open_events(server: Server, kinds: str = "operation") -> WebSocket | None:
    """The stream of events of the server's project, or None where there is none to have."""
    from corral.client.websocket import open_websocket

    try:
        return open_websocket(server.connection, server.path("/events", {"type": kinds}))
    except CorralError:
        return None


class Operation:
    """A running operation. It is finished once its status code is 200 or more."""

    def __init__(
        self, server: Server, body: dict[str, Any], watch: Watch | None = None, events: WebSocket | None = None
    ) -> None:
        self._server = server
        self._watch = watch
        self._events = events
        self.body = body

    @property
    def id(self) -> str:
        """The operation's UUID."""
        return str(self.body["id"])

    @property
    def metadata(self) -> dict[str, Any]:
        """What the operation tells about itself."""
        return self.body.get("metadata") or {}

    def _finish(self, body: dict[str, Any]) -> dict[str, Any]:
        self.body = body
        if body.get("err"):
            raise OperationFailed(body["err"])
        if body.get("status_code") == _CANCELLED:
            raise OperationFailed("Operation cancelled")
        return body

    def wait(self, warn: Callable[[str], None] | None = None) -> dict[str, Any]:
        """Block until the end and return the final operation. Raises OperationFailed with the server's words.

        An interrupt from the keyboard cancels the operation; where it cannot be cancelled the third one leaves it.
        """
        interrupts = 0
        try:
            while True:
                try:
                    return self._wait()
                except KeyboardInterrupt:
                    interrupts += 1
                    self._server.connection.close()
                    self._interrupt(interrupts, warn)
        finally:
            if self._events is not None:
                self._events.close()
                self._events = None

    def _interrupt(self, interrupts: int, warn: Callable[[str], None] | None) -> None:
        try:
            self.cancel()
        except CorralError as error:
            if interrupts >= 3:
                message = "User signaled us three times, exiting. The remote operation will keep running"
                raise Interrupted(message) from None
            if warn is not None:
                warn(f"{error} (interrupt two more times to force)")
            return
        raise Interrupted("Remote operation canceled by user") from None

    def _wait(self) -> dict[str, Any]:
        if self.body.get("status_code", 0) >= _FINAL_STATUS:
            return self._finish(self.body)
        if self._events is not None:
            self._follow_events()
        path = self._server.path(f"/operations/{escape(self.id)}/wait")
        try:
            body = self._server.query("GET", path).metadata
        except ApiError as error:
            if error.status == 404 and self.body.get("status_code", 0) >= _FINAL_STATUS:
                return self._finish(self.body)
            raise
        return self._finish(body)

    def _follow_events(self) -> None:
        """Tell the watcher of each change until the operation ends or the events do."""
        events = self._events
        current = self._server.query("GET", self._server.path(f"/operations/{escape(self.id)}")).metadata
        self._note(current)
        while events is not None and events.is_open and self.body.get("status_code", 0) < _FINAL_STATUS:
            for _, payload in events.messages():
                event = codec.decode(payload.decode())
                metadata = event.get("metadata")
                if event.get("type") == "operation" and isinstance(metadata, dict) and metadata.get("id") == self.id:
                    self._note(metadata)

    def _note(self, body: dict[str, Any]) -> None:
        self.body = body
        if self._watch is not None:
            self._watch(body)

    def cancel(self) -> None:
        """Ask the server to cancel. Raises ApiError where it cannot."""
        self._server.query("DELETE", self._server.path(f"/operations/{escape(self.id)}"))
