"""Pushes an image to another server, which gave a secret for it."""

import os
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

from corral.errors import InternalError
from corral.server.context import Context
from corral.server.host.threads import in_thread
from corral.server.images.formats import ImageFiles, image_files
from corral.server.images.model import Image
from corral.server.images.remote.transfer import Meter
from corral.server.outbound.lxd import LxdServer

CHUNK = 1 << 20


async def push_image(context: Context, image: Image, target: LxdServer, secret: str) -> None:
    """Send the image's files and wait until the target has stored them."""
    files = image_files(context.member.images_dir, image.fingerprint)
    headers = {
        "X-LXD-filename": files.main.name,
        "X-LXD-fingerprint": image.fingerprint,
        "X-LXD-secret": secret,
    }
    boundary = secrets.token_hex(16)
    parts = _plain(files) if files.rootfs is None else _form(files, image.type, boundary)
    kind = "application/octet-stream" if files.rootfs is None else f"multipart/form-data; boundary={boundary}"
    length = await in_thread(_length, parts)
    body = _send(parts, Meter("", length))
    sent = {**headers, "Content-Type": kind, "Content-Length": str(length)}
    operation = await target.post("images", body=body, headers=sent)
    if not isinstance(operation, dict) or not isinstance(operation.get("id"), str):
        raise InternalError(f"{target.address} did not start to store the image")
    secret = str((operation.get("metadata") or {}).get("secret", ""))
    await target.wait(operation["id"], secret)


def _plain(files: ImageFiles) -> list[bytes | Path]:
    return [files.main]


def _form(files: ImageFiles, kind: str, boundary: str) -> list[bytes | Path]:
    """The parts of multipart/form-data: text between the files."""
    assert files.rootfs is not None

    def head(name: str, path: Path) -> bytes:
        return (
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{path.name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode()

    root = "rootfs.img" if kind == "virtual-machine" else "rootfs"
    return [
        head("metadata", files.main),
        files.main,
        b"\r\n" + head(root, files.rootfs),
        files.rootfs,
        f"\r\n--{boundary}--\r\n".encode(),
    ]


def _length(parts: list[bytes | Path]) -> int:
    return sum(len(part) if isinstance(part, bytes) else part.stat().st_size for part in parts)


async def _send(parts: list[bytes | Path], meter: Meter) -> AsyncIterator[bytes]:
    for part in parts:
        if isinstance(part, bytes):
            meter.add(len(part))
            yield part
            continue
        descriptor = os.open(part, os.O_RDONLY | os.O_CLOEXEC)
        try:
            while chunk := await in_thread(os.read, descriptor, CHUNK):
                meter.add(len(chunk))
                yield chunk
        finally:
            os.close(descriptor)
