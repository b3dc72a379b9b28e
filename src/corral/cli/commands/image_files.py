"""`image export` and `image import`: images as files."""

from __future__ import annotations

import os

from corral.cli.command import Invocation
from corral.cli.commands.image_alias import dereference, ensure_aliases
from corral.cli.progress import Progress
from corral.cli.transfer import Meter
from corral.errors import CorralError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from corral.client.server import Server


def locate(invocation: Invocation, argument: str) -> tuple[Server, str]:
    """(Server, fingerprint) of an image on any remote."""
    remote, name = invocation.session.remotes.parse(argument)
    server = invocation.session.remotes.image_server(remote)
    kind = "virtual-machine" if invocation.values.get("vm") else ""
    return server, dereference(server, name, kind)


def export(invocation: Invocation) -> int:
    """Download an image as one or two files."""
    server, fingerprint = locate(invocation, invocation.args[0])
    download = _downloader(invocation, invocation.args[0])
    target = invocation.arg(1, ".")
    metadata = os.path.join(target, fingerprint) if os.path.isdir(target) else target
    metadata = fingerprint if target == "." else metadata
    rootfs = f"{metadata}.root"
    progress = Progress(invocation.session, "Exporting the image: %s")
    try:
        with open(metadata, "wb", buffering=0) as first, open(rootfs, "wb", buffering=0) as second:
            found = download(server, fingerprint, first.fileno(), second.fileno(), Meter(progress))
        if not found.rootfs_size:
            os.unlink(rootfs)
        _rename_parts(metadata, rootfs if found.rootfs_size else "", (found.metadata_name, found.rootfs_name), target)
    except BaseException:
        for path in (metadata, rootfs):
            if os.path.exists(path):
                os.unlink(path)
        progress.done()
        raise
    progress.done("Image exported successfully!")
    return 0


def _downloader(invocation: Invocation, argument: str) -> Callable[..., Any]:
    remotes = invocation.session.remotes
    if remotes.remotes[remotes.parse(argument)[0]].protocol == "simplestreams":
        from corral.client.simplestreams import download_offer

        return download_offer
    from corral.client.images import download_image

    return download_image


def _rename_parts(metadata: str, rootfs: str, names: tuple[str, str], target: str) -> None:
    """Give the files the names that the server told; a chosen name of a single file gets its extension."""
    if os.path.isdir(target):
        for path, name in zip((metadata, rootfs), names, strict=True):
            if path and name:
                os.rename(path, os.path.join(target, os.path.basename(name)))
    elif not rootfs and names[0]:
        extension = names[0].partition(".")[2]
        if extension:
            os.rename(metadata, f"{metadata}.{extension}")


def import_image(invocation: Invocation) -> int:
    """Import an image from files, a directory or a URL."""
    session = invocation.session
    job = _ImportArguments(invocation)
    server = session.remotes.server(job.remote)
    progress = Progress(session, "Transferring image: %s")
    if job.image.startswith("http://"):
        raise CorralError("Only https:// is supported for remote image import")
    if job.image.startswith("https://"):
        source = {"type": "url", "mode": "pull", "protocol": "direct", "url": job.image}
        body = {"public": invocation.switch("public"), "properties": job.properties, "source": source}
        operation = progress.run(server, "POST", "/images", body)
    else:
        operation = _upload(invocation, server, job, progress)
    fingerprint = operation["metadata"]["fingerprint"]
    progress.done(f"Image imported with fingerprint: {fingerprint}")
    ensure_aliases(server, invocation.texts("alias"), fingerprint)
    return 0


class _ImportArguments:
    """What `image import` was called with: files, properties, a remote, in any order."""

    def __init__(self, invocation: Invocation) -> None:
        remotes = invocation.session.remotes
        self.remote = remotes.default_remote
        self.properties: dict[str, str] = {}
        files = []
        for argument in invocation.args:
            key, equals, value = argument.partition("=")
            if equals and not os.path.exists(argument):
                self.properties[key.strip()] = value.strip()
            elif argument.endswith(":"):
                self.remote = remotes.parse(argument)[0]
            else:
                files.append(argument)
        self.image = files[0] if files else invocation.args[0]
        self.rootfs = files[1] if len(files) > 1 else ""


def _upload(invocation: Invocation, server: Server, job: _ImportArguments, progress: Progress) -> dict[str, Any]:
    from corral.client.images import Upload, upload_image
    from corral.client.operations import Operation

    packed = ""
    image = os.path.normpath(job.image)
    if os.path.isdir(image):
        image = packed = _pack(image)
    try:
        upload = Upload(image, job.rootfs, public=invocation.switch("public"))
        upload.properties = job.properties
        size = sum(os.stat(path).st_size for path in (image, job.rootfs) if path)
        operation = Operation(server, upload_image(server, upload, Meter(progress, size)))
        return operation.wait(progress.warn)
    except BaseException:
        progress.done()
        raise
    finally:
        if packed:
            os.unlink(packed)


def _pack(directory: str) -> str:
    """A tarball of an image directory."""
    import tempfile

    if os.geteuid() != 0:
        raise CorralError("Must run as root to import from directory")
    descriptor, path = tempfile.mkstemp(prefix="corral_image_")
    os.close(descriptor)
    argv = ["tar", "-C", directory, "--numeric-owner", "--restrict", "--force-local", "--xattrs", "-cJf", path]
    argv += ["rootfs", "templates", "metadata.yaml"]
    code = os.spawnvp(os.P_WAIT, "tar", argv)
    if code != 0:
        os.unlink(path)
        raise CorralError(f"Failed to run: {' '.join(argv)}: exit status {code}")
    return path
