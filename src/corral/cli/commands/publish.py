"""`publish`: an image from an instance or a snapshot."""

from __future__ import annotations

from corral.cli import keyed, output
from corral.cli.command import ANY_NUMBER_OF, Command, Invocation, switch, text, texts
from corral.cli.commands.image_alias import ensure_aliases
from corral.cli.progress import Progress
from corral.cli.records import INSTANCE_WRITABLE
from corral.cli.session import pick
from corral.client.server import escape
from corral.errors import CorralError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corral.client.server import Server


def run(invocation: Invocation) -> int:
    """Publish an instance."""
    session = invocation.session
    remote, name = session.remotes.parse(invocation.args[0])
    has_target = len(invocation.args) > 1 and "=" not in invocation.args[1]
    image_remote, image_name = session.remotes.parse(invocation.args[1] if has_target else "")
    if not name:
        raise CorralError("Instance name is mandatory")
    if image_name:
        raise CorralError('There is no "image name".  Did you want an alias?')
    properties = keyed.pairs(invocation.args[2 if has_target else 1 :], "Bad key=value pair")
    server = session.remotes.server(remote)
    is_remote = remote != image_remote
    body: dict[str, Any] = {
        "source": {"type": "snapshot" if "/" in name else "instance", "name": name},
        "compression_algorithm": invocation.text("compression"),
        "properties": properties or None,
        "public": invocation.switch("public") and not is_remote,
    }
    if invocation.text("expire"):
        body["expires_at"] = _check_time(invocation.text("expire"))
    was_stopped = "/" not in name and _stop(invocation, server, name)
    try:
        operation = Progress(session, "Publishing instance: %s").run(server, "POST", "/images", body)
    finally:
        if was_stopped:
            _change_state(server, name, "start")
    fingerprint = operation["metadata"]["fingerprint"]
    image_server = session.remotes.server(image_remote)
    if is_remote:
        _send(invocation, server, fingerprint, image_server)
    former = _targets(image_server, invocation.texts("alias")) if invocation.switch("reuse") else set()
    ensure_aliases(image_server, invocation.texts("alias"), fingerprint)
    for other in former - {fingerprint}:
        if not image_server.get(f"/images/{escape(other)}").get("aliases"):
            image_server.run("DELETE", f"/images/{escape(other)}")
    output.line(f"Instance published with fingerprint: {fingerprint}")
    return 0


def _targets(server: Server, aliases: list[str]) -> set[str]:
    """The images that have some aliases now."""
    known = server.get("/images/aliases", {"recursion": "1"}) or ()
    return {entry["target"] for entry in known if entry["name"] in aliases}


def _send(invocation: Invocation, server: Server, fingerprint: str, target: Server) -> None:
    """Copy the image to where it was wanted; it does not stay where it was made."""
    from corral.cli.image_transfer import Transfer, transfer_image

    path = f"/images/{escape(fingerprint)}"
    try:
        transfer = Transfer(server, server.get(path), target)
        transfer.public = invocation.switch("public")
        transfer_image(Progress(invocation.session, "Copying the image: %s"), transfer)
    finally:
        server.run("DELETE", path)


def _check_time(text_: str) -> str:
    from corral.cli.times import parse_time

    try:
        parse_time(text_)
    except ValueError as error:
        raise CorralError(f"Invalid expiration date {text_!r}: give it as in 2030-01-31T12:00:00Z") from error
    return text_


def _change_state(server: Server, name: str, action: str) -> None:
    body = {"action": action, "timeout": -1, "force": action == "stop", "stateful": False}
    server.run("PUT", f"/instances/{escape(name)}/state", body)


def _stop(invocation: Invocation, server: Server, name: str) -> bool:
    """Stop a running instance; an ephemeral one is kept from vanishing. Whether it ran."""
    path = f"/instances/{escape(name)}"
    instance, etag = server.get_tagged(path)
    if instance["status_code"] in (0, 102):
        return False
    if not invocation.switch("force"):
        raise CorralError("The instance is currently running. Use --force to have it stopped and restarted")
    is_ephemeral = instance["ephemeral"]
    if is_ephemeral:
        server.run("PUT", path, {**pick(instance, INSTANCE_WRITABLE), "ephemeral": False}, etag)
    try:
        _change_state(server, name, "stop")
    except CorralError as error:
        raise CorralError(f"Stopping instance failed!: {error}") from error
    if is_ephemeral:
        stopped, etag = server.get_tagged(path)
        server.run("PUT", path, {**pick(stopped, INSTANCE_WRITABLE), "ephemeral": True}, etag)
    return True


COMMAND = Command(
    "publish [<remote>:]<instance>[/<snapshot>] [<remote>:] [flags] [key=value...]",
    "Publish instances as images",
    run,
    (1, ANY_NUMBER_OF),
    flags=(
        switch("public", "Make the image public"),
        texts("alias", "New alias to define at target"),
        switch("force", "Stop the instance if currently running", "f"),
        text("compression", "Compression algorithm to use (none for uncompressed)"),
        switch("reuse", "Delete the image that had the aliases before, where none is left to it"),
        text("expire", "Image expiration date (format: rfc3339)"),
    ),
)
