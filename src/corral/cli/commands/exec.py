"""`exec`: run a command in an instance, with its terminal or with separate input, output and errors."""

from __future__ import annotations

import os
import signal

from corral.cli.command import ANY_NUMBER_OF, Command, Invocation, number, switch, text, texts
from corral.cli.session import stdin_is_terminal, stdout_is_terminal
from corral.client.operations import OperationFailed
from corral.client.server import escape
from corral.errors import CorralError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corral.client.operations import Operation
    from corral.client.server import Server
    from corral.client.streams import Streams


def run(invocation: Invocation) -> int:
    """Run the command and return its exit code."""
    interactive = _is_interactive(invocation)
    resource = invocation.session.resource(invocation.args[0])
    columns, lines = _terminal_size()
    body = {
        "command": invocation.args[1:],
        "wait-for-websocket": True,
        "interactive": interactive,
        "environment": _environment(invocation),
        "width": columns,
        "height": lines,
        "record-output": False,
        "user": _identity(invocation, "user"),
        "group": _identity(invocation, "group"),
        "cwd": invocation.text("cwd"),
    }
    return _run_with_terminal(invocation, resource.server, resource.name, body)


def _is_interactive(invocation: Invocation) -> bool:
    mode = invocation.text("mode")
    wants, refuses = invocation.switch("force-interactive"), invocation.switch("force-noninteractive")
    if wants and refuses:
        raise CorralError("You can't pass -t and -T at the same time")
    if mode != "auto" and (wants or refuses):
        raise CorralError("You can't pass -t or -T at the same time as --mode")
    if invocation.switch("disable-stdin"):
        return False
    if mode == "interactive" or wants:
        return True
    if mode == "non-interactive" or refuses:
        return False
    return stdin_is_terminal() and stdout_is_terminal()


def _identity(invocation: Invocation, name: str) -> int:
    value = invocation.number(name)
    if not 0 <= value < 2**32:
        raise CorralError(f'invalid argument "{value}" for "--{name}" flag: a user or group ID is expected')
    return value


def _environment(invocation: Invocation) -> dict[str, str]:
    environment = {}
    terminal = os.environ.get("TERM")
    if terminal is not None:
        environment["TERM"] = terminal
    for entry in invocation.texts("env"):
        name, _, value = entry.partition("=")
        environment[name] = value
    return environment


def _terminal_size() -> tuple[int, int]:
    if not stdout_is_terminal():
        return 0, 0
    from corral.cli.terminal import size_of

    return size_of(1)


def _run_with_terminal(invocation: Invocation, server: Server, name: str, body: dict[str, Any]) -> int:
    if not (body["interactive"] and stdin_is_terminal()):
        return _carry(invocation, server, name, body)
    from corral.cli.terminal import RawMode

    with RawMode(0):
        return _carry(invocation, server, name, body)


def _carry(invocation: Invocation, server: Server, name: str, body: dict[str, Any]) -> int:
    from corral.client.streams import FORWARDED, SignalPipe

    interactive = bool(body["interactive"])
    with SignalPipe((*FORWARDED, signal.SIGWINCH)) as signals:
        operation = server.start("POST", f"/instances/{escape(name)}/exec", body)
        streams = _open_streams(server, operation, interactive, with_stdin=not invocation.switch("disable-stdin"))
        try:
            streams.run(signals, lambda number: _on_signal(streams, number, interactive), until_control_ends=True)
        finally:
            streams.close()
    return _exit_code(operation)


def _open_streams(server: Server, operation: Operation, interactive: bool, *, with_stdin: bool) -> Streams:
    from corral.client.streams import Streams, open_operation_websocket
    from corral.client.websocket import TEXT

    streams = Streams(open_operation_websocket(server, operation, "control"))
    first = open_operation_websocket(server, operation, "0")
    if with_stdin:
        streams.add_input(0, first)
    else:
        first.send(TEXT)
    if interactive:
        streams.add_output(first, 1)
    else:
        streams.add_output(open_operation_websocket(server, operation, "1"), 1)
        streams.add_output(open_operation_websocket(server, operation, "2"), 2)
    return streams


def _on_signal(streams: Streams, number: int, interactive: bool) -> None:
    from corral.client.streams import forward_signal, window_resize

    if number == signal.SIGWINCH:
        if interactive:
            streams.send_control(window_resize(*_terminal_size()))
        return
    if number == signal.SIGHUP and not _has_terminal():
        number = signal.SIGTERM  # The session is over: what runs there should end, not reload.
    streams.send_control(forward_signal(int(number)))


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _exit_code(operation: Operation) -> int:
    """The command's exit code; an operation that failed without one is an error."""
    try:
        operation.wait()
    except OperationFailed as error:
        code = operation.metadata.get("return")
        if isinstance(code, int) and code:
            from corral.cli import output

            output.warn(f"Error: {error}")
            return code
        raise
    code = operation.metadata.get("return")
    return code & 0xFF if isinstance(code, int) else 0


COMMAND = Command(
    "exec [<remote>:]<instance> [flags] [--] <command line>",
    "Execute commands in instances",
    run,
    (2, ANY_NUMBER_OF),
    long="""Execute commands in instances

The command is run as it is, without a shell: variables, redirections and other patterns of a shell mean nothing to
it. Where a shell is needed, run one:

  {client} exec <instance> -- sh -c "cd /tmp && pwd"

The command gets a terminal where standard input and standard output are terminals, unless told otherwise.""",
    flags=(
        texts("env", "Environment variable to set (e.g. HOME=/home/foo)"),
        text("mode", "Override the terminal mode (auto, interactive or non-interactive)", default="auto"),
        switch("force-interactive", "Force pseudo-terminal allocation", "t"),
        switch("force-noninteractive", "Disable pseudo-terminal allocation", "T"),
        switch("disable-stdin", "Disable stdin (reads from /dev/null)", "n"),
        number("user", "User ID to run the command as (default 0)", default=0),
        number("group", "Group ID to run the command as (default 0)", default=0),
        text("cwd", "Directory to run the command in (default /root)"),
    ),
)
