"""An image of another server: how it is asked for, and what that server says of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from corral.server.images.spool import Spool


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


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of an image at a server of files: `path` is relative to the server's URL, `size` 0 where unknown."""

    path: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class RemoteImage:
    """What another server says of an image. Times are RFC 3339 text, empty for unknown; `size` 0 is unknown.

    `properties` is None where only the image's own metadata tells them.
    """

    fingerprint: str
    type: str
    architecture: str = ""
    size: int = 0
    filename: str = ""
    created_at: str = ""
    expires_at: str = ""
    properties: Mapping[str, str] | None = None
    aliases: Sequence[str] = ()
    files: Sequence[RemoteFile] = field(default_factory=tuple)


class ImageServer(Protocol):
    """Where images come from."""

    async def find(self, source: RemoteSource) -> RemoteImage:
        """The image that a source names; NotFound, or Unavailable where the server does not answer."""

    async def download(self, source: RemoteSource, image: RemoteImage, spool: Spool) -> None:
        """Receive the image's files, main first. The caller compares the fingerprint."""
