"""Images of a simplestreams server: its catalog, kept for an hour (longer where it is away), and its files."""

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from corral import architectures, simplestreams
from corral.errors import InvalidRequest, NotFound, NotSupported, Unavailable
from corral.server.host.threads import in_thread
from corral.server.images.remote.model import RemoteSource
from corral.server.images.remote.transfer import fetch_file
from corral.server.images.spool import Spool
from corral.server.outbound.http import Call, Outbound, read_bounded
from corral.simplestreams import Offer, RemoteImage

T = TypeVar("T")

FORGOTTEN_S = 7 * 86400.0
KEPT_S = 3600.0
"""How long a catalog is taken from the disk without asking the server."""
INDEX_LIMIT = 4 << 20
PRODUCTS_LIMIT = 128 << 20
CATALOGS_LIMIT = 16
"""How many files of products an index may name."""


@dataclass(frozen=True, slots=True)
class StreamsImages:
    """The image server at the other end of a source of the protocol `simplestreams`."""

    outbound: Outbound
    cache_dir: Path
    fresh: bool = False

    async def find(self, source: RemoteSource) -> RemoteImage:
        """Look the image up in the catalog; what a kept catalog does not have is looked up in a fresh one."""
        if source.secret:
            raise InvalidRequest("Private images aren't supported by the simplestreams protocol")
        local = [architectures.format_architecture(number) for number in architectures.local_architectures()]
        try:
            offers = await self._offers(source.server, local)
            return simplestreams.find(offers, source.name, source.image_type, local, source.server)
        except NotFound:
            if self.fresh:
                raise
        return await replace(self, fresh=True).find(source)

    async def download(self, source: RemoteSource, image: RemoteImage, spool: Spool) -> None:
        """Receive the files one after another, each compared with its hash."""
        for name, file in zip(("main", "rootfs"), image.files, strict=False):
            if not file.sha256:
                raise NotSupported(f"The image server tells no hash of {file.path}")
            await fetch_file(self.outbound, _join(source.server, file.path), file, spool, name)

    async def _offers(self, server: str, local: Sequence[str]) -> list[Offer]:
        paths = await self._document(server, simplestreams.INDEX_PATH, INDEX_LIMIT, simplestreams.parse_index)
        if len(paths) > CATALOGS_LIMIT:
            raise InvalidRequest(f"The image server {server} has more than {CATALOGS_LIMIT} catalogs")
        offers: list[Offer] = []
        for path in paths:
            offers += await self._document(
                server, path, PRODUCTS_LIMIT, lambda data: simplestreams.parse_products(data, local)
            )
        return offers

    async def _document(self, server: str, path: str, limit: int, parse: Callable[[bytes], T]) -> T:
        """A document of the catalog; only one that makes sense is kept."""
        url = _join(server, path)
        kept = self.cache_dir / hashlib.sha256(url.encode()).hexdigest()
        data, age_s = await in_thread(_read_kept, kept)
        if data is not None and age_s < KEPT_S and not self.fresh:
            return await in_thread(parse, data)
        try:
            async with self.outbound.open(Call("GET", url)) as response:
                if response.status != 200:
                    raise Unavailable(f"Unable to fetch {url}: status {response.status}")
                fresh = await read_bounded(response, limit)
        except Unavailable:
            if data is not None:
                return await in_thread(parse, data)
            raise
        parsed = await in_thread(parse, fresh)
        await in_thread(_keep, kept, fresh)
        return parsed


def _join(server: str, path: str) -> str:
    return f"{server.rstrip('/')}/{path}"


def _read_kept(path: Path) -> tuple[bytes | None, float]:
    try:
        return path.read_bytes(), time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return None, 0.0


def _keep(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    for entry in os.scandir(path.parent):
        if entry.stat().st_mtime < time.time() - FORGOTTEN_S:
            os.unlink(entry.path)
    beside = path.with_name(f"{path.name}.{os.urandom(4).hex()}")
    try:
        beside.write_bytes(data)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
