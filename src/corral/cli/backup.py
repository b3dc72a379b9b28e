"""Backups of instances and volumes: have one made and fetch it, or send one."""

from __future__ import annotations

import os

from corral.cli.progress import Progress
from corral.cli.transfer import Meter
from corral.client.files import read_blocks, write_all
from corral.client.operations import Operation
from corral.client.server import escape, parse_reply
from corral.errors import CorralError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corral.cli.session import Session
    from corral.client.server import Server

_LIFETIME_S = 24 * 3600


def expiry() -> str:
    """A day from now: when the server may forget a backup that nobody fetched."""
    import time

    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + _LIFETIME_S))


def export_backup(session: Session, server: Server, path: str, body: dict[str, Any], target: str) -> None:
    """Have a backup made below `path`, write it to a file or `-`, and delete it on the server."""
    noun = "storage volume" if "/volumes/" in path else "instance"
    try:
        made = Progress(session, f"Backing up {noun}: %s").run(server, "POST", f"{path}/backups", body)
    except CorralError as error:
        raise CorralError(f"Create {noun} backup: {error}") from error
    name = str(made["resources"]["backups"][0]).partition("?")[0].rpartition("/")[2]
    progress = Progress(session, "Exporting the backup: %s")
    try:
        _download(server, f"{path}/backups/{name}/export", target, progress)
    except CorralError as error:
        progress.done()
        raise CorralError(f"Fetch {noun} backup file: {error}") from error
    finally:
        server.run("DELETE", f"{path}/backups/{name}")
    if target != "-":
        progress.done("Backup exported successfully!")


def _download(server: Server, path: str, target: str, progress: Progress) -> None:
    url = server.path(path)
    response = server.request("GET", url)
    if response.status != 200:
        parse_reply(response, server.base_url + url)
    if target == "-":
        for piece in response.chunks():
            write_all(1, piece)
        return
    meter = Meter(progress, int(response.headers.get("content-length") or 0))
    try:
        with open(target, "wb", buffering=0) as file:
            done = 0
            for piece in response.chunks():
                done += write_all(file.fileno(), piece)
                meter(done)
    except BaseException:
        if os.path.isfile(target):
            os.unlink(target)
        raise


def import_backup(session: Session, server: Server, path: str, source: str, headers: dict[str, str]) -> None:
    """Send a backup from a file or `-` to `path` and wait until it is imported."""
    noun = "custom volume" if "/volumes/" in path else "instance"
    descriptor = 0 if source == "-" else os.open(source, os.O_RDONLY)
    progress = Progress(session, f"Importing {noun}: %s")
    try:
        meter = Meter(progress, os.fstat(descriptor).st_size)
        url = server.path(path)
        headers = {"Content-Type": "application/octet-stream", **headers}
        reply = parse_reply(server.request("POST", url, read_blocks(descriptor, meter), headers), server.base_url + url)
        Operation(server, reply.metadata).wait(progress.warn)
    finally:
        if source != "-":
            os.close(descriptor)
        progress.done()


def instance_path(name: str) -> str:
    """The path below /1.0 of an instance."""
    return f"/instances/{escape(name)}"
