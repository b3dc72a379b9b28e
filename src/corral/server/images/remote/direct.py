"""An image at a URL, told by the headers of a server: its fingerprint and where its one file is."""

from dataclasses import dataclass

from corral import architectures
from corral.errors import InternalError, InvalidRequest
from corral.server.images.remote.model import RemoteSource
from corral.server.images.remote.transfer import fetch_file
from corral.server.images.spool import Spool
from corral.server.outbound.http import Call, Outbound
from corral.simplestreams import RemoteFile, RemoteImage

DEADLINE_S = 30.0


@dataclass(frozen=True, slots=True)
class DirectImages:
    """The image server at the other end of a source of the protocol `direct`: `name` is the fingerprint."""

    outbound: Outbound

    async def find(self, source: RemoteSource) -> RemoteImage:
        """Nobody is asked: the fingerprint is all there is."""
        if len(source.name) != 64 or source.name.strip("0123456789abcdef"):
            raise InvalidRequest(f"{source.name!r} is no fingerprint of an image")
        return RemoteImage(source.name, "", files=(RemoteFile("", source.name, 0),))

    async def download(self, source: RemoteSource, image: RemoteImage, spool: Spool) -> None:
        """Receive the file."""
        await fetch_file(self.outbound, source.server, image.files[0], spool, "main")


async def resolve_url(outbound: Outbound, url: str, version: str) -> RemoteSource:
    """Ask a server which image it has at a URL for the architectures of this machine."""
    if not url:
        raise InvalidRequest("Missing URL")
    names = [architectures.format_architecture(number) for number in architectures.local_architectures()]
    headers = {"LXD-Server-Architectures": ", ".join(names), "LXD-Server-Version": version}
    async with outbound.open(Call("HEAD", url, headers=headers, silence_s=DEADLINE_S)) as response:
        fingerprint = response.headers.get("LXD-Image-Hash", "")
        target = response.headers.get("LXD-Image-URL", "")
    for header, value in (("LXD-Image-Hash", fingerprint), ("LXD-Image-URL", target)):
        if not value:
            raise InternalError(f"Missing {header} header")
    return RemoteSource(target, "direct", fingerprint.lower())
