"""`snapshot` and `restore`: states of an instance to come back to."""

from __future__ import annotations

from corral.cli.command import Command, Invocation, switch
from corral.client.server import ApiError, escape
from corral.errors import CorralError


def run(invocation: Invocation) -> int:
    """Snapshot an instance."""
    resource = invocation.session.resource(invocation.args[0])
    instance, slash, inner = resource.name.partition("/")
    name = invocation.arg(1)
    if slash and name:
        raise CorralError(f"Invalid instance name: {resource.name}")
    name = name or inner
    path = f"/instances/{escape(instance)}/snapshots"
    server = resource.server
    if invocation.switch("reuse") and name and _exists(server, f"{path}/{escape(name)}"):
        server.run("DELETE", f"{path}/{escape(name)}")
    body: dict[str, object] = {"name": name, "stateful": invocation.switch("stateful"), "expires_at": None}
    if invocation.switch("no-expiry"):
        body["expires_at"] = "0001-01-01T00:00:00Z"
    server.run("POST", path, body)
    return 0


def _exists(server: object, path: str) -> bool:
    from corral.client.server import Server

    assert isinstance(server, Server)
    try:
        server.get(path)
    except ApiError:
        return False
    return True


def restore(invocation: Invocation) -> int:
    """Bring an instance back to a snapshot."""
    resource = invocation.session.resource(invocation.args[0])
    snapshot = invocation.args[1]
    if "/" not in snapshot:
        snapshot = f"{resource.name}/{snapshot}"
    body = {"restore": snapshot, "stateful": invocation.switch("stateful")}
    resource.server.run("PUT", f"/instances/{escape(resource.name)}", body)
    return 0


COMMAND = Command(
    "snapshot [<remote>:]<instance> [<snapshot name>]",
    "Create instance snapshots",
    run,
    (1, 2),
    long="""Create instance snapshots

With --stateful the running state is kept too: the memory of processes, connections and so on.""",
    examples='{client} snapshot u1 snap0\n    Create a snapshot of "u1" called "snap0".',
    flags=(
        switch("stateful", "Whether or not to snapshot the instance's running state"),
        switch("no-expiry", "Ignore any configured auto-expiry for the instance"),
        switch("reuse", "If the snapshot name already exists, delete and create a new one"),
    ),
)
RESTORE = Command(
    "restore [<remote>:]<instance> <snapshot>",
    "Restore instances from snapshots",
    restore,
    (2, 2),
    long="Restore instances from snapshots\n\nWith --stateful the running state is restored too.",
    examples="""{client} snapshot u1 snap0
    Create the snapshot.

{client} restore u1 snap0
    Restore the snapshot.""",
    flags=(
        switch(
            "stateful",
            "Whether or not to restore the instance's running state from snapshot (if available)",
        ),
    ),
)
