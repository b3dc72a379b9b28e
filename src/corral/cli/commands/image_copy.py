"""`image copy`: have a server fetch an image of another."""

from __future__ import annotations

from corral.cli.command import Invocation
from corral.cli.commands.image_alias import dereference, ensure_aliases
from corral.cli.image_transfer import MODES, Transfer, transfer_image
from corral.cli.progress import Progress
from corral.client.server import escape
from corral.errors import CorralError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corral.client.server import Server


def run(invocation: Invocation) -> int:
    """Copy an image."""
    mode = invocation.text("mode")
    if mode not in MODES:
        raise CorralError(f'Unknown transfer mode "{mode}": use pull, push or relay')
    if mode != "pull" and invocation.switch("auto-update"):
        raise CorralError("Auto update is only available in pull mode")
    session = invocation.session
    remote_name, name = session.remotes.parse(invocation.args[0])
    target = session.resource(invocation.args[1])
    if target.name:
        raise CorralError("Can't provide a name for the target image")
    server = target.server
    if invocation.text("target-project"):
        server = server.with_project(invocation.text("target-project"))
    progress = Progress(session, "Copying the image: %s")
    if session.remotes.remotes[remote_name].protocol == "simplestreams":
        aliases, fingerprint = _from_simplestreams(invocation, server, progress)
    else:
        aliases, fingerprint = _from_server(
            invocation, session.remotes.image_server(remote_name), name, server, progress
        )
    progress.done("Image copied successfully!")
    ensure_aliases(server, [*invocation.texts("alias"), *aliases], fingerprint)
    return 0


def _kind(invocation: Invocation) -> str:
    return "virtual-machine" if invocation.switch("vm") else ""


def _from_simplestreams(invocation: Invocation, server: Server, progress: Progress) -> tuple[list[str], str]:
    remote_name, name = invocation.session.remotes.parse(invocation.args[0])
    source: dict[str, Any] = {
        "type": "image",
        "mode": "pull",
        "protocol": "simplestreams",
        "server": invocation.session.remotes.remotes[remote_name].addr,
        "alias": name or "default",
        "image_type": _kind(invocation),
    }
    body = {
        "source": source,
        "auto_update": invocation.switch("auto-update"),
        "public": invocation.switch("public"),
        "properties": {},
    }
    operation = progress.run(server, "POST", "/images", body)
    return [], str((operation.get("metadata") or {}).get("fingerprint", ""))


def _from_server(
    invocation: Invocation, source: Server, name: str, server: Server, progress: Progress
) -> tuple[list[str], str]:
    kind = _kind(invocation)
    image = source.get(f"/images/{escape(dereference(source, name, kind))}")
    transfer = Transfer(source, image, server)
    transfer.mode = invocation.text("mode")
    transfer.kind = kind
    transfer.public = invocation.switch("public")
    transfer.auto_update = invocation.switch("auto-update")
    if not image["fingerprint"].startswith(name):
        transfer.alias = name
    transfer_image(progress, transfer)
    copies = [alias["name"] for alias in image.get("aliases") or ()] if invocation.switch("copy-aliases") else []
    return copies, str(image["fingerprint"])
