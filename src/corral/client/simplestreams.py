"""A simplestreams image server as the image commands see it: paths as of an API server, answered from its catalog."""

from __future__ import annotations

import base64
import ssl
import urllib.error
import urllib.parse
import urllib.request

from corral import architectures, simplestreams
from corral.client.connection import Connection, ConnectionLost
from corral.client.server import ApiError, Reply, Server
from corral.errors import CorralError, NotFound, TooLarge

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from corral.simplestreams import Offer, RemoteFile, RemoteImage

    Record = dict[str, Any]

_TIMEOUT_S = 30.0
_CATALOG_LIMIT = 128 << 20
_CATALOGS_LIMIT = 16
_BLOCK = 1 << 18
_NEVER_USED = "0001-01-01T00:00:00Z"
_IMAGES, _ALIASES = "/images", "/images/aliases"


class _NoDowngrade(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from HTTPS to anything else."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if req.type == "https" and not newurl.startswith("https://"):
            raise ConnectionLost(f"{req.full_url} leads away from HTTPS, to {newurl}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class Catalog(Server):
    """Answers GETs of images and aliases; everything else is not found, as this server only offers images."""

    def __init__(self, url: str, user_agent: str) -> None:
        super().__init__(Connection(self._refuse, "", user_agent), url)
        self._info = {}
        self._user_agent = user_agent
        self._offers: list[Offer] | None = None
        self._local = [architectures.format_architecture(one) for one in architectures.local_architectures()]

    def _refuse(self) -> Any:
        raise CorralError(f"{self.base_url} is a simplestreams image server: it has images and nothing else")

    def query(self, method: str, target: str, body: Any = None, etag: str = "") -> Reply:
        """The answer to a GET below /1.0/images. Raises ApiError."""
        path, _, query = target.removeprefix("/1.0").partition("?")
        wanted = dict(urllib.parse.parse_qsl(query))
        if method != "GET" or not path.startswith(_IMAGES) or "filter" in wanted:
            raise ApiError(f"{self.base_url} is a simplestreams image server: it has images and nothing else", 404)
        name = urllib.parse.unquote(path.removeprefix(_ALIASES).removeprefix(_IMAGES).removeprefix("/"))
        if path.startswith(_ALIASES):
            return Reply({"metadata": self._alias(name, wanted.get("type", "")) if name else self._aliases()}, "")
        return Reply({"metadata": self._image(name) if name else [_record(*one) for one in self._named()]}, "")

    def find(self, name: str, kind: str = "") -> RemoteImage:
        """The image of an alias or of the beginning of a fingerprint. Raises ApiError."""
        try:
            return simplestreams.find(self._catalog(), name, kind, self._local, self.base_url)
        except NotFound as error:
            raise ApiError(str(error), 404) from error

    def _named(self) -> list[tuple[RemoteImage, list[str]]]:
        return simplestreams.name_images(self._catalog(), self._local, self.base_url)

    def _aliases(self) -> list[Record]:
        return [_alias_record(name, image) for image, names in self._named() for name in names]

    def _alias(self, name: str, kind: str) -> Record:
        image = self.find(name, kind)
        if image.fingerprint.startswith(name):
            raise ApiError("Image alias not found", 404)
        return _alias_record(name, image)

    def _image(self, name: str) -> Record:
        found = self.find(name)
        names = next((names for image, names in self._named() if image.fingerprint == found.fingerprint), [])
        return _record(found, names)

    def _catalog(self) -> list[Offer]:
        if self._offers is None:
            paths = simplestreams.parse_index(self._read(simplestreams.INDEX_PATH))
            if len(paths) > _CATALOGS_LIMIT:
                raise CorralError(f"The image server {self.base_url} has more than {_CATALOGS_LIMIT} catalogs")
            every = architectures.NAMES.values()
            self._offers = [offer for path in paths for offer in simplestreams.parse_products(self._read(path), every)]
        return self._offers

    def _read(self, path: str) -> bytes:
        data = bytearray()
        for piece in self._open(path):
            data += piece
            if len(data) > _CATALOG_LIMIT:
                raise TooLarge(f"{self.base_url}/{path} is larger than {_CATALOG_LIMIT} bytes")
        return bytes(data)

    def download(self, file: RemoteFile, write: Callable[[bytes], None]) -> int:
        """Hand a file's content over, piece by piece; its size. Raises CorralError where it is not what was told."""
        from hashlib import sha256

        digest, size = sha256(), 0
        for piece in self._open(file.path):
            digest.update(piece)
            size += len(piece)
            if file.size and size > file.size:
                break
            write(piece)
        if digest.hexdigest() != file.sha256:
            raise CorralError(f"The file {file.path} of {self.base_url} is not the one that its catalog names")
        return size

    def _open(self, path: str) -> Iterator[bytes]:
        parts = urllib.parse.urlsplit(self.base_url)
        login, _, host = parts.netloc.rpartition("@")
        url = f"{parts.scheme}://{host}{parts.path.rstrip('/')}/{path}"
        request = urllib.request.Request(url, headers={"User-Agent": self._user_agent})
        if login:
            credentials = base64.b64encode(urllib.parse.unquote(login).encode()).decode()
            request.add_unredirected_header("Authorization", f"Basic {credentials}")
        context = urllib.request.HTTPSHandler(context=ssl.create_default_context())
        try:
            with urllib.request.build_opener(context, _NoDowngrade).open(request, timeout=_TIMEOUT_S) as answer:
                while piece := answer.read(_BLOCK):
                    yield piece
        except urllib.error.HTTPError as error:
            error.close()
            raise ApiError(f"Unable to fetch {url}: status {error.code}", error.code) from error
        except (OSError, ValueError) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            raise ConnectionLost(f"Unable to fetch {url}: {reason}") from error


def _alias_record(name: str, image: RemoteImage) -> Record:
    return {"name": name, "description": "", "target": image.fingerprint, "type": image.type}


def _record(image: RemoteImage, names: list[str]) -> Record:
    """The image as the API shows one."""
    return {
        "auto_update": False,
        "properties": dict(image.properties or {}),
        "public": True,
        "expires_at": image.expires_at,
        "profiles": None,
        "aliases": [{"name": name, "description": ""} for name in names],
        "architecture": image.architecture,
        "cached": False,
        "filename": image.filename,
        "fingerprint": image.fingerprint,
        "size": image.size,
        "type": image.type,
        "created_at": image.created_at,
        "last_used_at": _NEVER_USED,
        "uploaded_at": image.created_at,
    }


def download_offer(server: Server, fingerprint: str, metadata: int, rootfs: int, meter: Callable[[int], None]) -> Any:
    """Write an image's files to two descriptors, each compared with its hash; the sizes and names of the parts."""
    from corral.client.files import write_all
    from corral.client.images import Download

    assert isinstance(server, Catalog)
    files = server.find(fingerprint).files
    download, done = Download(), 0

    def store(descriptor: int) -> Callable[[bytes], None]:
        def write(piece: bytes) -> None:
            nonlocal done
            done += write_all(descriptor, piece)
            meter(done)

        return write

    download.metadata_size = server.download(files[0], store(metadata))
    download.metadata_name = files[0].path.rpartition("/")[2]
    if len(files) > 1:
        download.rootfs_size = server.download(files[1], store(rootfs))
        download.rootfs_name = files[1].path.rpartition("/")[2]
    return download
