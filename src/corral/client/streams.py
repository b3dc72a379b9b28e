"""Carrying bytes between local descriptors and the websockets of an operation: exec, console."""

from __future__ import annotations

import os
import select
import signal

from corral.client import codec
from corral.client.connection import BLOCK
from corral.client.server import escape
from corral.client.websocket import BINARY, TEXT, WebSocket, open_websocket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from corral.client.operations import Operation
    from corral.client.server import Server

    # Bytes read from the terminal become those to send; None ends the session.
    Filter = Callable[[bytes], bytes | None]

FORWARDED = (
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGABRT,
    signal.SIGTSTP,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGCONT,
)


def open_operation_websocket(server: Server, operation: Operation, name: str, secret: str = "") -> WebSocket:
    """The websocket that the operation calls `name` (`0`, `1`, `2`, `control`), by its secret."""
    secret = secret or operation.metadata["fds"][name]
    return open_websocket(
        server.connection, server.path(f"/operations/{escape(operation.id)}/websocket", {"secret": secret})
    )


class SignalPipe:
    """Signals as readable bytes, while used as a context manager; the handlers are put back afterwards."""

    def __init__(self, signals: tuple[signal.Signals, ...]) -> None:
        self._signals = signals
        self._reader, self._writer = os.pipe()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> SignalPipe:
        for descriptor in (self._reader, self._writer):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in self._signals:
            self._before[number] = signal.signal(number, lambda _number, _frame: None)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(-1)
        os.close(self._reader)
        os.close(self._writer)

    def fileno(self) -> int:
        """The descriptor to poll."""
        return self._reader

    def take(self) -> bytes:
        """The numbers of the signals that came."""
        try:
            return os.read(self._reader, 512)
        except BlockingIOError:
            return b""


class Streams:
    """One input, up to two outputs and a control websocket, carried in one loop until the outputs end."""

    def __init__(self, control: WebSocket | None = None) -> None:
        self.control = control
        self._input: tuple[int, WebSocket] | None = None
        self._filter: Filter | None = None
        self._outputs: dict[WebSocket, int] = {}
        self._websockets: list[WebSocket] = [control] if control else []
        self._ended = False

    def add_input(self, descriptor: int, websocket: WebSocket, filter_input: Filter | None = None) -> None:
        """Carry what `descriptor` gives to a websocket."""
        self._input = (descriptor, websocket)
        self._filter = filter_input
        if websocket not in self._websockets:
            self._websockets.append(websocket)

    def add_output(self, websocket: WebSocket, descriptor: int) -> None:
        """Carry what a websocket gives to `descriptor`."""
        self._outputs[websocket] = descriptor
        if websocket not in self._websockets:
            self._websockets.append(websocket)

    def send_control(self, message: dict[str, Any]) -> None:
        """Tell the server of a resize or a signal."""
        if self.control is not None and self.control.is_open:
            self.control.queue(TEXT, codec.encode(message).encode())

    def run(self, signals: SignalPipe, on_signal: Callable[[int], None], *, until_control_ends: bool = False) -> None:
        """Carry until every output has ended; on request on to the end of the control websocket, which is the server's.

        A command may close its outputs long before it ends, and servers kill the command of a client that is gone.
        """
        for websocket in self._websockets:
            websocket.stream.settimeout(0)
        for websocket in tuple(self._outputs):
            self._deliver(websocket, websocket.take_messages())
        while not self._ended and (self._outputs or (until_control_ends and self._is_controlled())):
            ready = self._poll(signals)
            if signals.fileno() in ready:
                for number in signals.take():
                    on_signal(number)
            for websocket in tuple(self._websockets):
                self._serve(websocket, ready.get(websocket.fileno(), 0))
            if self._input is not None and self._input[0] in ready:
                self._read_input()

    def _is_controlled(self) -> bool:
        return self.control is not None and self.control.is_open

    def _poll(self, signals: SignalPipe) -> dict[int, int]:
        poll = select.poll()
        poll.register(signals.fileno(), select.POLLIN)
        for websocket in self._websockets:
            poll.register(websocket.fileno(), select.POLLIN | (select.POLLOUT if websocket.has_outgoing else 0))
        if self._input is not None and not self._input[1].has_outgoing:
            poll.register(self._input[0], select.POLLIN)
        return dict(poll.poll())

    def _serve(self, websocket: WebSocket, events: int) -> None:
        if events & select.POLLOUT:
            websocket.send_some()
        if events & (select.POLLIN | select.POLLHUP | select.POLLERR):
            self._deliver(websocket, websocket.receive())
            while websocket.is_open and websocket.has_pending():
                self._deliver(websocket, websocket.receive())
        if not websocket.is_open:
            self._forget(websocket)

    def _deliver(self, websocket: WebSocket, messages: list[tuple[int, bytes]]) -> None:
        for kind, payload in messages:
            if kind == TEXT and not payload:
                self._outputs.pop(websocket, None)
            elif websocket in self._outputs:
                self._write(self._outputs[websocket], payload)

    def _write(self, descriptor: int, payload: bytes) -> None:
        view = memoryview(payload)
        while view:
            try:
                view = view[os.write(descriptor, view) :]
            except BlockingIOError:
                select.select([], [descriptor], [])
            except OSError:
                return  # Whoever read our output is gone; what runs there goes on, as with a closed pipe's other end.

    def _forget(self, websocket: WebSocket) -> None:
        if websocket in self._websockets:
            self._websockets.remove(websocket)
        self._outputs.pop(websocket, None)
        if self._input is not None and self._input[1] is websocket:
            self._input = None

    def _read_input(self) -> None:
        if self._input is None:
            return
        descriptor, websocket = self._input
        try:
            data = os.read(descriptor, BLOCK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data and self._filter is not None:
            filtered = self._filter(data)
            if filtered is None:
                self._ended = True
                return
            if not filtered:
                return
            data = filtered
        websocket.queue(BINARY, data) if data else websocket.queue(TEXT)
        if not data:
            self._input = None

    def close(self) -> None:
        """Close all websockets."""
        for websocket in self._websockets:
            websocket.stream.settimeout(5)
            websocket.close()


def window_resize(columns: int, lines: int) -> dict[str, Any]:
    """The control message for a new size of the terminal."""
    return {"command": "window-resize", "args": {"width": str(columns), "height": str(lines)}, "signal": 0}


def forward_signal(number: int) -> dict[str, Any]:
    """The control message for a signal."""
    return {"command": "signal", "args": None, "signal": number}
