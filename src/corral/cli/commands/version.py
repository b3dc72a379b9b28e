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
    version = "unreachable"
    try:
        version = session.server(argument).info["environment"]["server_version"]
    except (CorralError, KeyError):
        pass  # Which is what is printed.
    output.line(f"Server version: {version}")
    return 0


COMMAND = Command("version [<remote>:]", "Show local and remote versions", run, (0, 1))
