"""Bytes from another server into a spool: bounded, told as progress, taken up again where the connection broke."""

import hashlib
import time
from collections.abc import AsyncIterator

import aiohttp

from corral.errors import InternalError, InvalidRequest, NotFound, Unavailable
from corral.server.images.spool import Spool
from corral.server.operations.model import report
from corral.server.outbound.http import Call, Outbound
from corral.simplestreams import RemoteFile
from corral.units import format_size

REPORT_EVERY_S = 0.2
RESUMES = 5
"""How often one file is taken up again after its connection broke."""


class Meter:
    """Counts received bytes, tells the operation, and refuses more than were announced (0: any number)."""

    def __init__(self, label: str, total: int) -> None:
        self._label = f"{label}: " if label else ""
        self._total = total
        self._started = time.monotonic()
        self._told = 0.0
        self.received = 0

    def add(self, count: int) -> None:
        """Note some bytes; raises InvalidRequest where they are too many."""
        self.received += count
        if self._total and self.received > self._total:
            raise InvalidRequest(f"The server sends more than the {self._total} bytes that it announced")
        now = time.monotonic()
        if now - self._told >= REPORT_EVERY_S or self.received == self._total:
            self._told = now
            rate = format_size(int(self.received / max(now - self._started, 0.001)))
            done = f"{self.received * 100 // self._total}%" if self._total else format_size(self.received)
            report(download_progress=f"{self._label}{done} ({rate}/s)")


async def chunks_of(response: aiohttp.ClientResponse, meter: Meter) -> AsyncIterator[bytes]:
    """The body of an answer, piece by piece."""
    async for chunk in response.content.iter_any():
        meter.add(len(chunk))
        yield chunk


async def fetch_file(outbound: Outbound, url: str, file: RemoteFile, spool: Spool, name: str) -> None:
    """Receive a file of which size and hash may be known; InvalidRequest where it is another one."""
    label = {"main": "metadata"}.get(name, name)
    meter = Meter(label, file.size)
    digest = hashlib.sha256()
    spool.begin(name, digest)
    resumes = 0
    while True:
        before = meter.received
        try:
            await _receive(outbound, url, spool, meter)
            break
        except Unavailable:
            resumes += 1
            if meter.received == before or resumes > RESUMES:
                raise
    await spool.end()
    if file.size and meter.received != file.size:
        raise InvalidRequest(f"{url} has {meter.received} bytes instead of {file.size}")
    if file.sha256 and digest.hexdigest() != file.sha256:
        raise InvalidRequest(f"Hash mismatch for {url}: {digest.hexdigest()} != {file.sha256}")


async def _receive(outbound: Outbound, url: str, spool: Spool, meter: Meter) -> None:
    start = meter.received
    headers = {"Range": f"bytes={start}-"} if start else {}
    async with outbound.open(Call("GET", url, headers=headers)) as response:
        if response.status == 404:
            raise NotFound(f"Unable to fetch {url}: not found")
        if start and (
            response.status != 206 or not response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        ):
            raise InternalError(f"The transfer of {url} broke off after {start} bytes and cannot be taken up again")
        if not start and response.status != 200:
            raise InternalError(f"Unable to fetch {url}: status {response.status}")
        async for chunk in chunks_of(response, meter):
            await spool.write(chunk)
