"""`console`: the console of an instance, live or what it said so far."""

from __future__ import annotations

import signal

from corral.cli import output
from corral.cli.command import Command, Invocation, switch, text
from corral.client.server import escape, parse_reply
from corral.errors import CorralError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corral.cli.session import Session
    from corral.client.operations import Operation
    from corral.client.server import Server

_ESCAPE = 0x01
_QUIT = ord("q")


def run(invocation: Invocation) -> int:
    """Attach to a console, or show its log."""
    kind = invocation.text("type")
    if kind not in ("console", "vga"):
        raise CorralError(f'Unknown output type "{kind}"')
    resource = invocation.session.resource(invocation.args[0])
    if not invocation.switch("show-log"):
        attach(invocation.session, resource.server, resource.name, kind)
        return 0
    if kind != "console":
        raise CorralError("The --show-log flag is only supported for by 'console' output type")
    said = _read_log(resource.server, resource.name)
    output.write("\nConsole log:\n\n")
    output.write_bytes(said)
    output.write("\n")
    return 0


def _read_log(server: Server, name: str) -> bytes:
    target = server.path(f"/instances/{escape(name)}/console")
    response = server.request("GET", target)
    if response.status != 200:
        parse_reply(response, server.base_url + target)
    return response.read()


def attach(session: Session, server: Server, name: str, kind: str) -> None:
    """Hand the terminal to the console until it ends or the user detaches."""
    if kind == "console":
        _attach_text(server, name)
    elif kind == "vga":
        from corral.cli.commands.console_vga import attach_vga

        attach_vga(session, server, name)
    else:
        raise CorralError(f'Unknown console type "{kind}"')


class Detach:
    """Looks for ctrl+a q in what the user types."""

    def __init__(self) -> None:
        self._escaped = False

    def __call__(self, data: bytes) -> bytes | None:
        kept = bytearray()
        for byte in data:
            if byte == _ESCAPE and not self._escaped:
                self._escaped = True
            elif byte == _QUIT and self._escaped:
                return None
            else:
                self._escaped = False
                kept.append(byte)
        return bytes(kept)


def _attach_text(server: Server, name: str) -> None:
    import os

    from corral.cli.terminal import RawMode, size_of
    from corral.client.streams import SignalPipe

    try:
        os.ttyname(0)
    except OSError as error:
        message = "The console needs a terminal as standard input; use --show-log to read what it said"
        raise CorralError(message) from error
    columns, lines = size_of(0)
    body = {"width": columns, "height": lines, "type": "console"}
    with RawMode(0), SignalPipe((signal.SIGWINCH, signal.SIGTERM, signal.SIGHUP)) as signals:
        output.write("To detach from the console, press: <ctrl>+a q\n\r")
        output.flush()
        operation = server.start("POST", f"/instances/{escape(name)}/console", body)
        _carry(server, operation, signals)


def _carry(server: Server, operation: Operation, signals: object) -> None:
    from corral.cli.terminal import size_of
    from corral.client.streams import SignalPipe, Streams, open_operation_websocket, window_resize
    from corral.client.websocket import CLOSE

    assert isinstance(signals, SignalPipe)
    streams = Streams(open_operation_websocket(server, operation, "control"))
    console = open_operation_websocket(server, operation, "0")
    streams.add_input(0, console, Detach())
    streams.add_output(console, 1)

    def on_signal(number: int) -> None:
        if number == signal.SIGWINCH:
            streams.send_control(window_resize(*size_of(0)))
        else:
            console.is_open = False

    try:
        streams.run(signals, on_signal)
        # The server ends the console when the control websocket goes, and only then is it done with the terminal.
        if streams.control is not None:
            streams.control.stream.settimeout(None)
            streams.control.send(CLOSE, b"\x03\xe8Detaching from console")
        operation.wait()
    finally:
        streams.close()


COMMAND = Command(
    "console [<remote>:]<instance>",
    "Attach to instance consoles",
    run,
    (1, 1),
    long="""Attach to instance consoles

The boot console of an instance, to use it or, with --show-log, to read what it has printed.""",
    flags=(
        switch("show-log", "Retrieve the instance's console log"),
        text(
            "type",
            "Type of connection to establish: 'console' for serial console, 'vga' for SPICE graphical output",
            "t",
            "console",
        ),
    ),
)
