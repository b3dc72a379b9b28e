"""An image of another server: how it is asked for, and what that server says of it."""

from dataclasses import dataclass
from typing import Protocol

from corral.server.images.spool import Spool
from corral.simplestreams import RemoteImage


@dataclass(frozen=True, slots=True)
class RemoteSource:
    """An image as somebody asks for it: `name` is an alias or (the beginning of) a fingerprint.

    `certificate` pins the server, `secret` opens a private image, `image_type` is empty where it does not matter,
    `project` is one of the other server's.
    """

    server: str
    protocol: str
    name: str
    certificate: str = ""
    secret: str = ""
    image_type: str = ""
    project: str = ""


class ImageServer(Protocol):
    """Where images come from."""

    async def find(self, source: RemoteSource) -> RemoteImage:
        """The image that a source names; NotFound, or Unavailable where the server does not answer."""

    async def download(self, source: RemoteSource, image: RemoteImage, spool: Spool) -> None:
        """Receive the image's files, main first. The caller compares the fingerprint."""
