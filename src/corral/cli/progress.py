"""One line of progress on a terminal, rewritten in place, and the line that replaces it at the end."""

from __future__ import annotations

from corral.cli import output
from corral.cli.session import stdout_is_terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corral.cli.session import Session
    from corral.client.server import Server


class Progress:
    """Progress of one thing. `pattern` frames each status (`Retrieving image: %s`)."""

    def __init__(self, session: Session, pattern: str = "%s") -> None:
        self.is_shown = not session.quiet and stdout_is_terminal()
        self._quiet = session.quiet
        self._pattern = pattern
        self._widest = 0

    def update(self, status: str) -> None:
        """Show a status in place of the last."""
        if self.is_shown:
            self._print(self._fit(self._pattern % status))

    def _print(self, message: str) -> None:
        if not message and not self._widest:
            return
        if len(message) < self._widest:
            output.write("\r" + " " * self._widest)
        self._widest = max(self._widest, len(message))
        output.write("\r" + message)
        output.flush()

    def _fit(self, message: str) -> str:
        import os

        try:
            return message if len(message) <= os.get_terminal_size(1).columns else ""
        except OSError:
            return message

    def done(self, message: str = "") -> None:
        """Remove the progress and leave `message`, if any, on its line."""
        if self._quiet:
            message = ""
        if not message and not self._widest:
            return
        if self._widest:
            output.write("\r" + " " * self._widest)
        output.write("\r" + (message + "\n" if message else ""))
        output.flush()

    def warn(self, message: str) -> None:
        """Tell the user of something while the wait goes on."""
        self._print(self._fit(message))

    def watch(self, body: dict[str, Any]) -> None:
        """Show what a running operation tells."""
        for key, value in (body.get("metadata") or {}).items():
            if key.endswith("_progress") and isinstance(value, str):
                self.update(value)
                return

    def run(
        self, server: Server, method: str, path: str, body: Any = None, message: str = "", etag: str = ""
    ) -> dict[str, Any]:
        """Do something in the background of the server, show its progress and return the finished operation."""
        try:
            operation = server.start(method, path, body, etag, self.watch if self.is_shown else None)
            finished = operation.wait(self.warn)
        except BaseException:
            self.done()
            raise
        self.done(message)
        return finished
