"""Request bodies that are files: spooled to disk as they come, never held in memory."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

from aiohttp import ClientPayloadError, web

from corral.errors import InvalidRequest
from corral.server.images import form
from corral.server.images.spool import Spool

GONE = "The client went away before the end of the upload"


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
    """A split image, as form.py says."""
    try:
        return Received(await form.receive_form(await raw.multipart(), spool))
    except (ConnectionError, ClientPayloadError) as error:
        raise InvalidRequest(GONE) from error
    except (ValueError, AssertionError) as error:
        raise InvalidRequest(f"Invalid multipart image: {error}") from error
