"""`rebuild`: wipe an instance's root and make it anew, from an image or empty."""

from __future__ import annotations

from corral.cli.command import Command, Invocation, switch
from corral.cli.commands.action import change_state
from corral.cli.commands.launch import Wanted, describe_image
from corral.cli.progress import Progress
from corral.client.server import escape
from corral.errors import CorralError


def run(invocation: Invocation) -> int:
    """Rebuild an instance, stopping a running one meanwhile where that is asked for."""
    session, empty = invocation.session, invocation.switch("empty")
    if not empty and len(invocation.args) == 1:
        raise CorralError("You need to specify an image name or use --empty")
    wanted = Wanted(session, invocation.args, empty=empty)
    if "/" in wanted.name:
        raise CorralError(f"Instance snapshots cannot be rebuilt: {wanted.name}")
    server = session.remotes.server(wanted.remote)
    path = f"/instances/{escape(wanted.name)}"
    present = server.get(path)
    body: dict[str, object] = {"source": {"type": "none"}}
    if not empty:
        wants_vm = present["type"] == "virtual-machine"
        body = {"source": describe_image(session, server, wanted, wants_vm=wants_vm)["source"]}
    restart = invocation.switch("force") and present["status"] == "Running"
    full_name = f"{wanted.remote}:{wanted.name}"
    if restart:
        stop: dict[str, object] = {"action": "stop", "timeout": -1, "force": True, "stateful": False}
        change_state(session, server, wanted.name, stop, full_name)
    try:
        Progress(session, "Rebuilding instance: %s").run(server, "POST", f"{path}/rebuild", body)
    finally:
        # A rebuild that failed has left the old root in place.
        if restart:
            start: dict[str, object] = {"action": "start", "timeout": -1, "force": False, "stateful": False}
            change_state(session, server, wanted.name, start, full_name)
    return 0


COMMAND = Command(
    "rebuild [<remote>:]<image> [<remote>:]<instance>",
    "Rebuild instances",
    run,
    (1, 2),
    long="""Rebuild instances

The root disk is wiped and made anew from the image, or empty with --empty. Configuration and devices stay.""",
    flags=(
        switch("empty", "Rebuild as an empty instance"),
        switch("force", "If an instance is running, stop it and then rebuild it", "f"),
    ),
    examples="""{client} rebuild debian/12 c1

{client} rebuild c1 --empty""",
)
