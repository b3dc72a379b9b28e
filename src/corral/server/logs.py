"""The daemon's log: one logfmt line a record, to standard error and a file or syslog, and as events of the API."""

import asyncio
import contextlib
import logging
import logging.handlers
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

from corral.server.events.bus import Events
from corral.server.events.model import Logging

_LEVELS = {
    logging.DEBUG: "debug",
    logging.INFO: "info",
    logging.WARNING: "warning",
    logging.ERROR: "error",
    logging.CRITICAL: "fatal",
}


class LogfmtFormatter(logging.Formatter):
    """`time="2026-01-02T03:04:05Z" level=info msg="..."`, with a traceback as further lines."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        message = record.getMessage().replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        line = f'time="{moment}" level={_LEVELS.get(record.levelno, "info")} msg="{message}"'
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class EventHandler(logging.Handler):
    """Hands log records to those who listen to `logging` events; made in the event loop, used from any thread."""

    def __init__(self, events: Events) -> None:
        super().__init__()
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if not self._events.wants("logging"):
            return
        level = _LEVELS.get(record.levelno, "info")
        event = Logging(level, record.getMessage(), {"module": record.name.removeprefix("corral.")})
        if threading.get_ident() == self._thread:
            self._events.publish(event)
        else:
            # A queue that is filled from another thread does not wake its reader.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._events.publish, event)


_LXD_AREAS = {"database": "db", "dqlite": "db"}
"""Areas as LXD calls them."""


def trace(areas: str) -> None:
    """Have the debug messages of some areas, such as `db,instances`, reach every log, whatever else is shown."""
    for area in filter(None, areas.split(",")):
        logger = logging.getLogger(f"corral.server.{_LXD_AREAS.get(area.strip(), area.strip())}")
        logger.setLevel(logging.DEBUG)
        for handler in logging.getLogger().handlers:
            logger.addHandler(_Below(handler))


class _Below(logging.Handler):
    """Hands on what a handler leaves out because of its level."""

    def __init__(self, handler: logging.Handler) -> None:
        super().__init__()
        self._handler = handler

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < self._handler.level:
            self._handler.emit(record)


def configure(*, debug: bool, verbose: bool, file: Path | None, syslog: str | None) -> None:
    """Set up the handlers: standard error shows warnings, more with `verbose` and `debug`; files get information."""
    root = logging.getLogger()
    root.setLevel(logging.DEBUG if debug else logging.INFO)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    stderr = logging.StreamHandler(sys.stderr)
    stderr.setLevel(logging.DEBUG if debug else logging.INFO if verbose else logging.WARNING)
    handlers: list[logging.Handler] = [stderr]
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.handlers.WatchedFileHandler(file))
    if syslog is not None:
        handlers.append(logging.handlers.SysLogHandler(address="/dev/log"))
        handlers[-1].ident = f"{syslog}: "  # type: ignore[attr-defined]
    for handler in handlers:
        handler.setFormatter(LogfmtFormatter())
        root.addHandler(handler)
