"""`image copy`: have a server fetch an image of another."""

from __future__ import annotations

from corral.cli.command import Invocation
from corral.cli.commands.image_alias import dereference, ensure_aliases
from corral.cli.progress import Progress
from corral.client.server import escape
from corral.errors import CorralError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corral.client.server import Server


def run(invocation: Invocation) -> int:
    """Copy an image."""
    if invocation.text("mode") != "pull":
        raise CorralError(f'Transfer mode "{invocation.text("mode")}" is not available: use --mode pull')
    session = invocation.session
    remote_name, name = session.remotes.parse(invocation.args[0])
    target = session.resource(invocation.args[1])
    if target.name:
        raise CorralError("Can't provide a name for the target image")
    server = target.server
    if invocation.text("target-project"):
        server = server.with_project(invocation.text("target-project"))
    remote = session.remotes.remotes[remote_name]
    aliases = list(invocation.texts("alias"))
    source: dict[str, Any] = {"type": "image", "mode": "pull"}
    if invocation.switch("vm"):
        source["image_type"] = "virtual-machine"
    if remote.protocol == "simplestreams":
        source.update(server=remote.addr, protocol="simplestreams", alias=name or "default")
    else:
        image_server = session.remotes.image_server(remote_name)
        if image_server.base_url == server.base_url and image_server.project == server.project:
            raise CorralError("The source and target servers must be different")
        image = _describe(image_server, source, name)
        if invocation.switch("copy-aliases"):
            aliases += [alias["name"] for alias in image.get("aliases") or ()]
    body = {
        "source": source,
        "auto_update": invocation.switch("auto-update"),
        "public": invocation.switch("public"),
        "properties": {},
    }
    progress = Progress(session, "Copying the image: %s")
    operation = progress.run(server, "POST", "/images", body)
    progress.done("Image copied successfully!")
    ensure_aliases(server, aliases, (operation.get("metadata") or {}).get("fingerprint", ""))
    return 0


def _describe(image_server: Server, source: dict[str, Any], name: str) -> dict[str, Any]:
    """Add to `source` how to get an image from an API server; the image."""
    image: dict[str, Any] = image_server.get(f"/images/{escape(dereference(image_server, name))}")
    environment = image_server.info.get("environment") or {}
    addresses = environment.get("addresses") or []
    is_local = image_server.base_url.startswith("http://")
    if is_local and not addresses:
        raise CorralError("The source server isn't listening on the network")
    source.update(
        protocol="lxd",
        server=f"https://{addresses[0]}" if is_local else image_server.base_url,
        certificate=environment.get("certificate", ""),
        fingerprint=image["fingerprint"],
        project=image_server.project or "default",
    )
    if not image["public"]:
        operation = image_server.start("POST", f"/images/{escape(image['fingerprint'])}/secret")
        source["secret"] = operation.metadata.get("secret", "")
    return image
