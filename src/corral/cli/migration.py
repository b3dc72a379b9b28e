"""Moving data between two servers: one request makes the source send, another the target receive."""

from __future__ import annotations

from corral.errors import CorralError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corral.cli.progress import Progress
    from corral.client.server import Server

    Body = dict[str, Any]

MODES = ("pull", "push", "relay")


class Side:
    """One end: where the request goes and what it says."""

    def __init__(self, server: Server, path: str, body: Body) -> None:
        self.server = server
        self.path = path
        self.body = body

    def addresses(self, which: str) -> list[str]:
        """Where the other server reaches this one. Raises CorralError where it listens nowhere."""
        found = self.server.addresses()
        if not found:
            raise CorralError(f"The {which} server isn't listening on the network")
        return found


def check_mode(mode: str) -> None:
    """Raise for a mode that does not exist."""
    if mode not in MODES:
        raise CorralError(f'Unknown transfer mode "{mode}": use pull, push or relay')


def migrate(progress: Progress, mode: str, source: Side, target: Side) -> Body:
    """Send from one server to the other; the target's finished operation. `target.body["source"]` is filled in."""
    if mode == "push":
        return _push(progress, source, target)
    if mode == "relay":
        return _relay(source, target)
    return _pull(progress, source, target)


def _pull(progress: Progress, source: Side, target: Side) -> Body:
    addresses = source.addresses("source")
    sending = source.server.start("POST", source.path, source.body)
    origin = target.body["source"]
    origin.update(type="migration", mode="pull", secrets=sending.metadata, certificate=source.server.certificate)
    failures = []
    for address in addresses:
        origin["operation"] = f"{address}/1.0/operations/{sending.id}"
        try:
            return progress.run(target.server, "POST", target.path, target.body)
        except CorralError as error:
            failures.append(f"{address}: {error}")
    raise CorralError("Failed to receive from the source server:\n - " + "\n - ".join(failures))


def _push(progress: Progress, source: Side, target: Side) -> Body:
    address = target.addresses("target")[0]
    target.body["source"].update(type="migration", mode="push")
    receiving = target.server.start("POST", target.path, target.body)
    source.body["target"] = {
        "operation": f"{address}/1.0/operations/{receiving.id}",
        "secrets": receiving.metadata,
        "certificate": target.server.certificate,
    }
    progress.run(source.server, "POST", source.path, source.body)
    return receiving.wait()


def _relay(source: Side, target: Side) -> Body:
    from corral.client.relay import relay_operations

    sending = source.server.start("POST", source.path, source.body)
    target.body["source"].update(type="migration", mode="push")
    receiving = target.server.start("POST", target.path, target.body)
    relay_operations((source.server, sending), (target.server, receiving))
    return receiving.wait()
