"""Uploading and downloading images: one file, or metadata and root file system as a multipart form."""

from __future__ import annotations

import os

from corral.client.files import read_blocks, write_all
from corral.client.server import escape, parse_reply, query_string
from corral.errors import CorralError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from corral.client.connection import Response
    from corral.client.server import Server

    Meter = Callable[[int], None]


class Upload:
    """An image to send: file names, and what the server is to know of it."""

    def __init__(self, metadata: str, rootfs: str = "", *, public: bool = False) -> None:
        self.metadata = metadata
        self.rootfs = rootfs
        self.public = public
        self.properties: dict[str, str] = {}
        self.is_virtual_machine = bool(rootfs) and _is_qcow2(rootfs)


def _is_qcow2(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(4) == b"QFI\xfb"


def upload_image(server: Server, upload: Upload, meter: Meter) -> dict[str, Any]:
    """Send an image; the operation that imports it. `meter` is told how many bytes went."""
    boundary = os.urandom(20).hex()
    headers = {"X-LXD-filename": os.path.basename(upload.metadata)}
    if upload.public:
        headers["X-LXD-public"] = "true"
    if upload.properties:
        headers["X-LXD-properties"] = query_string(upload.properties)[1:]
    if upload.rootfs:
        headers["Content-Type"] = f"multipart/form-data; boundary={boundary}"
        body = _multipart(upload, boundary, meter)
    else:
        headers["Content-Type"] = "application/octet-stream"
        body = _file_blocks(upload.metadata, 0, meter)
    target = server.path("/images")
    operation: dict[str, Any] = parse_reply(
        server.request("POST", target, body, headers), server.base_url + target
    ).metadata
    return operation


def _file_blocks(path: str, before: int, meter: Meter) -> Iterator[bytes]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield from read_blocks(descriptor, lambda done: meter(before + done))
    finally:
        os.close(descriptor)


def _multipart(upload: Upload, boundary: str, meter: Meter) -> Iterator[bytes]:
    rootfs_name = "rootfs.img" if upload.is_virtual_machine else "rootfs"
    before = 0
    for name, path in (("metadata", upload.metadata), (rootfs_name, upload.rootfs)):
        filename = os.path.basename(path).replace("\\", "\\\\").replace('"', '\\"')
        yield (
            f"--{boundary}\r\n"
            f'Content-Disposition: form-data; name="{name}"; filename="{filename}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode("utf-8", "surrogateescape")
        yield from _file_blocks(path, before, meter)
        before += os.stat(path).st_size
        yield b"\r\n"
    yield f"--{boundary}--\r\n".encode()


class Download:
    """A downloaded image: the sizes of its parts and the names that the server gave them."""

    def __init__(self) -> None:
        self.metadata_size = 0
        self.metadata_name = ""
        self.rootfs_size = 0
        self.rootfs_name = ""


def download_image(server: Server, fingerprint: str, metadata: int, rootfs: int, meter: Meter) -> Download:
    """Write an image's parts to two descriptors. Raises CorralError where the content is not the fingerprint's."""
    from hashlib import sha256

    target = server.path(f"/images/{escape(fingerprint)}/export")
    response = server.request("GET", target)
    if response.status != 200:
        parse_reply(response, server.base_url + target)
    digest = sha256()
    download = Download()
    content_type = response.headers.get("content-type", "")
    if content_type.startswith("multipart/form-data"):
        parts = _Parts(response, _parameter(content_type, "boundary"), meter)
        download.metadata_name, download.metadata_size = parts.save(("metadata",), metadata, digest)
        download.rootfs_name, download.rootfs_size = parts.save(("rootfs", "rootfs.img"), rootfs, digest)
    else:
        download.metadata_name = _parameter(response.headers.get("content-disposition", ""), "filename")
        if not download.metadata_name:
            raise CorralError("No filename in Content-Disposition header")
        for piece in response.chunks():
            digest.update(piece)
            download.metadata_size += write_all(metadata, piece)
            meter(download.metadata_size)
    if not digest.hexdigest().startswith(fingerprint):
        message = f"Image fingerprint doesn't match. Got {digest.hexdigest()} expected {fingerprint}"
        raise CorralError(message)
    return download


def _parameter(header: str, name: str) -> str:
    """The value of a header's parameter: `form-data; name="a"; filename=b`."""
    for part in header.split(";")[1:]:
        key, _, value = part.strip().partition("=")
        if key.lower() == name:
            return value.strip('"').replace('\\"', '"')
    return ""


class _Parts:
    """Reads a multipart form part by part."""

    def __init__(self, response: Response, boundary: str, meter: Meter) -> None:
        self._chunks = response.chunks()
        self._delimiter = f"\r\n--{boundary}".encode()
        self._buffer = b"\r\n"
        self._meter = meter
        self._done = 0

    def _more(self) -> bool:
        piece = next(self._chunks, b"")
        self._done += len(piece)
        self._meter(self._done)
        self._buffer += piece
        return bool(piece)

    def save(self, names: tuple[str, ...], descriptor: int, digest: Any) -> tuple[str, int]:
        """Write the next part, which must have one of the names; (file name, size)."""
        while self._delimiter not in self._buffer or b"\r\n\r\n" not in self._buffer:
            if not self._more():
                raise CorralError("Invalid multipart image")
        _, _, self._buffer = self._buffer.partition(self._delimiter)
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        disposition = next(
            (
                line
                for line in head.decode("utf-8", "surrogateescape").split("\r\n")
                if line.lower().startswith("content-disposition:")
            ),
            "",
        )
        if _parameter(disposition, "name") not in names:
            raise CorralError("Invalid multipart image")
        return _parameter(disposition, "filename"), self._copy(descriptor, digest)

    def _copy(self, descriptor: int, digest: Any) -> int:
        size = 0
        keep = len(self._delimiter) - 1
        while True:
            end = self._buffer.find(self._delimiter)
            ready = self._buffer[:end] if end >= 0 else self._buffer[: max(0, len(self._buffer) - keep)]
            digest.update(ready)
            size += write_all(descriptor, ready)
            self._buffer = self._buffer[len(ready) :]
            if end >= 0:
                return size
            if not self._more():
                raise CorralError("Invalid multipart image")
