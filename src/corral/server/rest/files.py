"""Files as answers: one as it is, several as parts of a form; the kernel copies them to the socket."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from corral.errors import NotFound
from corral.server.host.threads import in_thread
from corral.server.images import formats
from corral.server.images.model import Image
from corral.server.rest import streams


@dataclass(frozen=True, slots=True)
class SentFile:
    """A file to send: the name of its part, the name to save it under, and where it is."""

    part: str
    filename: str
    path: Path


def list_image_files(images_dir: Path, image: Image) -> list[SentFile]:
    """The files of an image, as they are sent. Raises NotFound where they are missing. Call it in a thread."""
    stored = formats.image_files(images_dir, image.fingerprint)
    try:
        name = f"{image.fingerprint}{formats.detect_format(stored.main).extension}"
        if stored.rootfs is None:
            return [SentFile(name, name, stored.main)]
        rootfs_name = f"{image.fingerprint}{formats.detect_format(stored.rootfs).extension}"
    except FileNotFoundError:
        raise NotFound(f"The files of image {image.fingerprint} are missing on the server") from None
    part = "rootfs.img" if image.type == "virtual-machine" else "rootfs"
    return [SentFile("metadata", f"meta-{name}", stored.main), SentFile(part, rootfs_name, stored.rootfs)]


class _File(web.FileResponse):
    """A file whose reader may go at any moment: asyncio tells of that otherwise than of any other broken connection."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        try:
            return await super().prepare(request)
        except RuntimeError as error:
            if request.transport is None or request.transport.is_closing():
                raise ConnectionResetError("The client has gone") from error
            raise


async def send(raw: web.BaseRequest, files: Sequence[SentFile]) -> web.StreamResponse:
    """Send one file inline (with ranges), or several as multipart/form-data. Raises NotFound where one is missing."""
    if not await in_thread(lambda: all(file.path.is_file() for file in files)):
        raise NotFound(f"The file {files[0].filename} is missing on the server")
    if len(files) == 1:
        return _File(
            files[0].path,
            headers={
                "Content-Type": "application/octet-stream",
                "Content-Disposition": f"inline;filename={files[0].filename}",
            },
        )
    return await _send_form(raw, files)


async def _send_form(raw: web.BaseRequest, files: Sequence[SentFile]) -> web.StreamResponse:
    boundary = uuid.uuid4().hex
    heads = [
        (
            f"{'' if index == 0 else chr(13) + chr(10)}--{boundary}\r\n"
            f'Content-Disposition: form-data; name="{file.part}"; filename="{file.filename}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode()
        for index, file in enumerate(files)
    ]
    tail = f"\r\n--{boundary}--\r\n".encode()
    sizes = await in_thread(lambda: [file.path.stat().st_size for file in files])
    response = web.StreamResponse(headers={"Content-Type": f"multipart/form-data; boundary={boundary}"})
    response.content_length = sum(map(len, heads)) + sum(sizes) + len(tail)
    await response.prepare(raw)
    if raw.method == "HEAD":
        return response
    for head, size, file in zip(heads, sizes, files, strict=True):
        await response.write(head)
        await _send_file(raw, response, file.path, size)
    await response.write(tail)
    await response.write_eof()
    return response


async def _send_file(raw: web.BaseRequest, response: web.StreamResponse, path: Path, size: int) -> None:
    with open(path, "rb") as stream:
        if size:
            await streams.copy_to(raw, stream, size)
