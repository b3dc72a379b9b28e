"""`export`: a backup of an instance as a file."""

from __future__ import annotations

from corral.cli.backup import expiry, export_backup, instance_path
from corral.cli.command import Command, Invocation, switch, text


def run(invocation: Invocation) -> int:
    """Export an instance."""
    resource = invocation.session.resource(invocation.args[0])
    only = invocation.switch("instance-only")
    body = {
        "name": "",
        "expires_at": expiry(),
        "instance_only": only,
        "container_only": only,
        "optimized_storage": invocation.switch("optimized-storage"),
        "compression_algorithm": invocation.text("compression"),
    }
    target = invocation.arg(1, "backup.tar.gz")
    export_backup(invocation.session, resource.server, instance_path(resource.name), body, target)
    return 0


COMMAND = Command(
    "export [<remote>:]<instance> [target] [--instance-only] [--optimized-storage]",
    "Export instance backups",
    run,
    (1, 2),
    examples="{client} export u1 backup0.tar.gz\n    Download a backup tarball of the u1 instance.",
    flags=(
        switch("instance-only", "Whether or not to only backup the instance (without snapshots)"),
        switch(
            "optimized-storage",
            "Use storage driver optimized format (can only be restored on a similar pool)",
        ),
        text("compression", "Compression algorithm to use (none for uncompressed)"),
    ),
)
