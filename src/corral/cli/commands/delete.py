"""`delete`: remove instances and snapshots."""

from __future__ import annotations

import sys

from corral.cli import output
from corral.cli.command import ANY_NUMBER_OF, Command, Invocation, switch
from corral.client.server import escape
from corral.errors import CorralError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corral.cli.session import Resource

_STOPPED = 102


def run(invocation: Invocation) -> int:
    """Delete what is named, after a look that all of it exists."""
    resources = [invocation.session.resource(argument) for argument in invocation.args]
    found = [_find(resource) for resource in resources]
    for resource, instance in zip(resources, found, strict=True):
        if invocation.switch("interactive"):
            _confirm(resource.name)
        if instance is None:
            resource.server.run("DELETE", snapshot_path(resource.name))
            continue
        if instance["status_code"] not in (0, _STOPPED):
            if not invocation.switch("force"):
                raise CorralError("The instance is currently running, stop it first or pass --force")
            _stop(resource)
            if instance["ephemeral"]:
                continue
        resource.server.run("DELETE", f"/instances/{escape(resource.name)}")
    return 0


def snapshot_path(name: str) -> str:
    """The path below /1.0 of `instance/snapshot`."""
    instance, _, snapshot = name.partition("/")
    return f"/instances/{escape(instance)}/snapshots/{escape(snapshot)}"


def _find(resource: Resource) -> dict[str, Any] | None:
    """The instance, or None for a snapshot. Raises CorralError where it does not exist."""
    shown = f'"{resource.remote}:{resource.name}"'
    is_snapshot = "/" in resource.name
    path = snapshot_path(resource.name) if is_snapshot else f"/instances/{escape(resource.name)}"
    try:
        body: dict[str, Any] = resource.server.get(path)
    except CorralError as error:
        kind = "instance snapshot" if is_snapshot else "instance"
        raise CorralError(f"Failed checking {kind} exists {shown}: {error}") from error
    return None if is_snapshot else body


def _confirm(name: str) -> None:
    output.write(f"Remove {name} (yes/no): ")
    output.flush()
    if sys.stdin.readline().removesuffix("\n").lower() != "yes":
        raise CorralError("User aborted delete operation")


def _stop(resource: Resource) -> None:
    body = {"action": "stop", "timeout": -1, "force": True, "stateful": False}
    try:
        resource.server.run("PUT", f"/instances/{escape(resource.name)}/state", body)
    except CorralError as error:
        raise CorralError(f"Stopping the instance failed: {error}") from error


COMMAND = Command(
    "delete [<remote>:]<instance>[/<snapshot>] [[<remote>:]<instance>[/<snapshot>]...]",
    "Delete instances and snapshots",
    run,
    (1, ANY_NUMBER_OF),
    aliases=("rm",),
    flags=(
        switch("force", "Force the removal of running instances", "f"),
        switch("interactive", "Require user confirmation", "i"),
    ),
)
