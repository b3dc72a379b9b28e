"""`import`: an instance from a backup file."""

from __future__ import annotations

from corral.cli.backup import import_backup
from corral.cli.command import Command, Invocation, text


def run(invocation: Invocation) -> int:
    """Import an instance."""
    args = list(invocation.args)
    remote = args.pop(0) if len(args) > 1 and args[0].endswith(":") else ""
    server = invocation.session.server(remote)
    headers = {}
    if invocation.text("storage"):
        headers["X-LXD-pool"] = invocation.text("storage")
    if len(args) > 1:
        headers["X-LXD-name"] = args[1]
    import_backup(invocation.session, server, "/instances", args[0], headers)
    return 0


COMMAND = Command(
    "import [<remote>:] <backup file> [<instance name>]",
    "Import instance backups",
    run,
    (1, 3),
    long="Import backups of instances, with their snapshots",
    examples="{client} import backup0.tar.gz\n    Create a new instance from backup0.tar.gz.",
    flags=(text("storage", "Storage pool name", "s"),),
)
