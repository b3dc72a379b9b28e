"""Bringing an image from one server to another: pulled by the target, pushed by the source, or carried by us."""

from __future__ import annotations

from corral.client.server import escape
from corral.errors import CorralError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corral.cli.progress import Progress
    from corral.client.server import Server

MODES = ("pull", "push", "relay")


class Transfer:
    """An image on its way. `alias` has the target follow an alias of the source instead of a fingerprint."""

    def __init__(self, source: Server, image: dict[str, Any], target: Server) -> None:
        self.source = source
        self.image = image
        self.target = target
        self.mode = "pull"
        self.kind = ""
        self.alias = ""
        self.public = False
        self.auto_update = False

    @property
    def fingerprint(self) -> str:
        """The image's fingerprint."""
        return str(self.image["fingerprint"])


def image_secret(server: Server, fingerprint: str) -> str:
    """A secret by which another server gets a private image."""
    return str(server.start("POST", f"/images/{escape(fingerprint)}/secret").metadata.get("secret", ""))


def transfer_image(progress: Progress, transfer: Transfer) -> None:
    """Bring the image over. Raises CorralError."""
    if transfer.source.is_same_as(transfer.target):
        raise CorralError("The source and target servers must be different")
    if transfer.mode == "push":
        _push(progress, transfer)
    elif transfer.mode == "relay":
        _relay(progress, transfer)
    else:
        _pull(progress, transfer)


def _pull(progress: Progress, transfer: Transfer) -> None:
    addresses = transfer.source.addresses()
    if not addresses:
        raise CorralError("The source server isn't listening on the network")
    source: dict[str, Any] = {
        "type": "image",
        "mode": "pull",
        "protocol": "lxd",
        "certificate": transfer.source.certificate,
        "project": transfer.source.project or "default",
        "image_type": transfer.kind,
    }
    if transfer.alias and transfer.image["public"]:
        source["fingerprint"] = source["alias"] = transfer.alias
    else:
        source["fingerprint"] = transfer.fingerprint
    if not transfer.image["public"]:
        source["secret"] = image_secret(transfer.source, transfer.fingerprint)
    body = {"source": source, "auto_update": transfer.auto_update, "public": transfer.public, "properties": {}}
    failures = []
    for address in addresses:
        source["server"] = address
        try:
            progress.run(transfer.target, "POST", "/images", body)
            return
        except CorralError as error:
            failures.append((address, str(error)))
    if len({message for _, message in failures}) == 1:
        raise CorralError(f"Failed remote image download: {failures[0][1]}")
    details = "".join(f"\n - {address}: {message}" for address, message in failures)
    raise CorralError(f"Failed remote image download:{details}")


def _push(progress: Progress, transfer: Transfer) -> None:
    addresses = transfer.target.addresses()
    if not addresses:
        raise CorralError("The target server isn't listening on the network")
    announced = {
        "source": {"fingerprint": transfer.fingerprint, "mode": "push"},
        "expires_at": transfer.image["expires_at"],
        "properties": transfer.image["properties"],
        "public": transfer.public,
    }
    waiting = transfer.target.start("POST", "/images", announced)
    body = {
        "target": addresses[0],
        "certificate": transfer.target.certificate,
        "secret": waiting.metadata.get("secret", ""),
        "aliases": transfer.image.get("aliases") or [],
        "project": transfer.target.project or "default",
        "profiles": None,
    }
    try:
        progress.run(transfer.source, "POST", f"/images/{escape(transfer.fingerprint)}/export", body)
    finally:
        _cancel(waiting)


def _cancel(operation: Any) -> None:
    try:
        operation.cancel()
    except CorralError:
        return  # It has ended.


def _relay(progress: Progress, transfer: Transfer) -> None:
    import os
    from tempfile import TemporaryDirectory

    from corral.client.images import Upload, download_image, upload_image
    from corral.client.operations import Operation

    with TemporaryDirectory(prefix="corral_image_") as directory:
        metadata, rootfs = os.path.join(directory, "metadata"), os.path.join(directory, "rootfs")
        with open(metadata, "wb", buffering=0) as first, open(rootfs, "wb", buffering=0) as second:
            found = download_image(
                transfer.source, transfer.fingerprint, first.fileno(), second.fileno(), lambda _done: None
            )
        upload = Upload(metadata, rootfs if found.rootfs_size else "", public=transfer.public)
        Operation(transfer.target, upload_image(transfer.target, upload, lambda _done: None)).wait(progress.warn)
