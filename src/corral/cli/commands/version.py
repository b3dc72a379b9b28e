"""`version`: the versions of the client and of a server."""

from __future__ import annotations

from corral.cli import output
from corral.cli.command import Command, Invocation
from corral.errors import CorralError


def run(invocation: Invocation) -> int:
    """Print both versions; a server that does not answer is `unreachable`."""
    session = invocation.session
    output.line(f"Client version: {session.product.version}")
    argument = invocation.arg(0)
    if argument and not argument.endswith(":"):
        argument += ":"
    output.line(f"Server version: {_server_version(invocation, argument)}")
    return 0


def _server_version(invocation: Invocation, argument: str) -> str:
    try:
        return str(invocation.session.server(argument).info["environment"]["server_version"])
    except (CorralError, KeyError):
        return "unreachable"


COMMAND = Command("version [<remote>:]", "Show local and remote versions", run, (0, 1))
