"""Images of another server with this API: public ones by alias or fingerprint, private ones with a secret."""

from dataclasses import dataclass
from typing import Any

import msgspec
from aiohttp import MultipartReader

from corral.api import images as wire
from corral.errors import CorralError, InternalError, InvalidRequest, NotFound
from corral.server.images.form import receive_form
from corral.server.images.remote.model import RemoteSource
from corral.server.images.remote.transfer import Meter, chunks_of
from corral.server.images.spool import Spool
from corral.server.outbound.http import Outbound
from corral.server.outbound.lxd import LxdServer
from corral.simplestreams import RemoteImage


@dataclass(frozen=True, slots=True)
class LxdImages:
    """The image server at the other end of a source of the protocol `lxd`."""

    outbound: Outbound

    async def find(self, source: RemoteSource) -> RemoteImage:
        """Ask for the image: by alias first, unless a secret says which it is."""
        server = self._server(source)
        if source.secret:
            return _read(await self._ask(server, source.name, secret=source.secret))
        return _read(await self._ask(server, await _resolve_alias(server, source)))

    async def _ask(self, server: LxdServer, fingerprint: str, **query: str) -> Any:
        try:
            return await server.get("images", fingerprint, **query)
        except CorralError as error:
            raise type(error)(f"Failed getting remote image info: {error}") from error

    async def download(self, source: RemoteSource, image: RemoteImage, spool: Spool) -> None:
        """Receive the one file, or the form with both."""
        query = {"secret": source.secret} if source.secret else {}
        async with self._server(source).download("images", image.fingerprint, "export", **query) as response:
            if response.content_type != "multipart/form-data":
                meter = Meter("", image.size)
                spool.begin("main")
                async for chunk in chunks_of(response, meter):
                    await spool.write(chunk)
                await spool.end()
                return
            meter = Meter("", image.size)
            await receive_form(MultipartReader(response.headers, response.content), spool, meter.add)

    def _server(self, source: RemoteSource) -> LxdServer:
        return LxdServer(self.outbound, source.server, source.certificate, source.project)


async def _resolve_alias(server: LxdServer, source: RemoteSource) -> str:
    """The fingerprint that an alias stands for; the name itself where there is no such alias."""
    try:
        alias = await server.get("images", "aliases", source.name)
    except NotFound:
        return source.name
    if not isinstance(alias, dict) or not isinstance(alias.get("target"), str):
        raise InternalError(f"{source.server} gives no sense for the alias {source.name!r}")
    kind = alias.get("type") or "container"
    return alias["target"] if source.image_type in ("", kind) else source.name


def _read(answer: Any) -> RemoteImage:
    try:
        image = msgspec.convert(answer, wire.RemoteImage)
    except msgspec.ValidationError as error:
        raise InternalError(f"The other server describes the image wrongly: {error}") from error
    if len(image.fingerprint) != 64 or image.fingerprint.strip("0123456789abcdef"):
        raise InvalidRequest(f"The other server gives {image.fingerprint!r} for a fingerprint")
    return RemoteImage(
        fingerprint=image.fingerprint,
        type=image.type or "container",
        architecture=image.architecture,
        size=max(image.size, 0),
        filename=image.filename,
        created_at=image.created_at,
        expires_at=image.expires_at,
        properties=image.properties or {},
        aliases=[alias.name for alias in image.aliases or ()],
    )
