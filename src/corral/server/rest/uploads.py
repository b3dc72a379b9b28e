"""Request bodies that are files: spooled to disk as they come, never held in memory."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

from aiohttp import BodyPartReader, ClientPayloadError, web

from corral.errors import InvalidRequest
from corral.server.images.spool import Spool

CHUNK = 1 << 20
GONE = "The client went away before the end of the upload"
_ROOTFS_PARTS = ("rootfs", "rootfs.img")


@dataclass(frozen=True, slots=True)
class Received:
    """What came with an image besides its bytes: the name of the file, as far as the client gave one."""

    filename: str = ""


async def body_chunks(raw: web.BaseRequest) -> AsyncIterator[bytes]:
    """The body of a request, piece by piece; InvalidRequest where the client goes away before its end."""
    try:
        async for chunk in raw.content.iter_any():
            yield chunk
    except (ConnectionError, ClientPayloadError) as error:
        raise InvalidRequest(GONE) from error


async def receive_raw(chunks: AsyncIterator[bytes], first: bytes, spool: Spool) -> Received:
    """A unified image as the whole body, of which the first piece was read already."""
    spool.begin("main")
    await spool.write(first)
    async for chunk in chunks:
        await spool.write(chunk)
    await spool.end()
    return Received()


async def receive_form(raw: web.BaseRequest, spool: Spool) -> Received:
    """A split image: the parts `metadata` and then `rootfs` (or `rootfs.img`, a virtual machine's disk)."""
    try:
        reader = await raw.multipart()
        metadata = await reader.next()
        if not isinstance(metadata, BodyPartReader) or metadata.name != "metadata":
            raise InvalidRequest("Invalid multipart image: the first part must be 'metadata'")
        await _take(metadata, spool, "main")
        rootfs = await reader.next()
        if not isinstance(rootfs, BodyPartReader) or rootfs.name not in _ROOTFS_PARTS:
            raise InvalidRequest("Invalid multipart image: the second part must be 'rootfs' or 'rootfs.img'")
        await _take(rootfs, spool, "rootfs")
        if await reader.next() is not None:
            raise InvalidRequest("Invalid multipart image: there are more than two parts")
    except (ConnectionError, ClientPayloadError) as error:
        raise InvalidRequest(GONE) from error
    except (ValueError, AssertionError) as error:
        raise InvalidRequest(f"Invalid multipart image: {error}") from error
    return Received(rootfs.filename or "")


async def _take(part: BodyPartReader, spool: Spool, name: str) -> None:
    spool.begin(name)
    while chunk := await part.read_chunk(CHUNK):
        await spool.write(bytes(chunk))
    await spool.end()
