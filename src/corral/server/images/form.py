"""A split image as multipart/form-data: the parts `metadata` and then `rootfs` (`rootfs.img` of a machine)."""

from collections.abc import Callable

from aiohttp import BodyPartReader, ClientPayloadError, MultipartReader

from corral.errors import InvalidRequest
from corral.server.images.spool import Spool

CHUNK = 1 << 20
_ROOTFS_PARTS = ("rootfs", "rootfs.img")


async def receive_form(reader: MultipartReader, spool: Spool, count: Callable[[int], None] = lambda size: None) -> str:
    """Take both parts into a spool; `count` is told the size of each piece. Returns the root file's name.

    Raises InvalidRequest where the form is another one; a connection that breaks is the caller's to explain.
    """
    try:
        metadata = await reader.next()
        if not isinstance(metadata, BodyPartReader) or metadata.name != "metadata":
            raise InvalidRequest("Invalid multipart image: the first part must be 'metadata'")
        await _take(metadata, spool, "main", count)
        rootfs = await reader.next()
        if not isinstance(rootfs, BodyPartReader) or rootfs.name not in _ROOTFS_PARTS:
            raise InvalidRequest("Invalid multipart image: the second part must be 'rootfs' or 'rootfs.img'")
        await _take(rootfs, spool, "rootfs", count)
        if await reader.next() is not None:
            raise InvalidRequest("Invalid multipart image: there are more than two parts")
    except ClientPayloadError:
        raise
    except (ValueError, AssertionError) as error:
        raise InvalidRequest(f"Invalid multipart image: {error}") from error
    return rootfs.filename or ""


async def _take(part: BodyPartReader, spool: Spool, name: str, count: Callable[[int], None]) -> None:
    spool.begin(name)
    while chunk := await part.read_chunk(CHUNK):
        count(len(chunk))
        await spool.write(bytes(chunk))
    await spool.end()
