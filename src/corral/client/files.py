"""Files of an instance through the API: get, put and delete, with ownership and mode in headers."""

from __future__ import annotations

import os

from corral.client import codec
from corral.client.server import escape, parse_reply

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from corral.client.connection import Body, Response
    from corral.client.server import Server

BLOCK = 262144


class RemoteFile:
    """What lies at a path: `kind` is file, directory or symlink; entries for directories, content for the others."""

    def __init__(self, response: Response) -> None:
        headers = response.headers
        self.kind = headers.get("x-lxd-type", "file")
        self.uid = int(headers.get("x-lxd-uid") or 0)
        self.gid = int(headers.get("x-lxd-gid") or 0)
        self.mode = int(headers.get("x-lxd-mode") or "0", 8) & 0o7777
        self._response = response
        self.entries: list[str] = []
        if self.kind == "directory":
            self.entries = codec.decode(response.read().decode()).get("metadata") or []

    def chunks(self) -> Iterator[bytes]:
        """The content in pieces."""
        return self._response.chunks()

    def read(self) -> bytes:
        """The whole content; a symlink's is its target."""
        return self._response.read()


def _target(server: Server, instance: str, path: str) -> str:
    return server.path(f"/instances/{escape(instance)}/files", {"path": path})


def get_file(server: Server, instance: str, path: str) -> RemoteFile:
    """What lies at a path of an instance. Raises ApiError."""
    target = _target(server, instance, path)
    response = server.request("GET", target)
    if response.status != 200:
        parse_reply(response, server.base_url + target)
    return RemoteFile(response)


def put_file(
    server: Server,
    instance: str,
    path: str,
    headers: dict[str, str],
    body: Body = None,
) -> None:
    """Create or replace what lies at a path; `headers` come from `file_headers`. Raises ApiError."""
    target = _target(server, instance, path)
    response = server.request("POST", target, b"" if body is None else body, headers)
    parse_reply(response, server.base_url + target)


def delete_file(server: Server, instance: str, path: str) -> None:
    """Delete what lies at a path. Raises ApiError."""
    server.query("DELETE", _target(server, instance, path))


def file_headers(kind: str, uid: int = -1, gid: int = -1, mode: int = -1) -> dict[str, str]:
    """The headers for ownership, mode and kind; what is negative is left to the server."""
    headers = {}
    if uid >= 0:
        headers["X-LXD-uid"] = str(uid)
    if gid >= 0:
        headers["X-LXD-gid"] = str(gid)
    if mode >= 0:
        headers["X-LXD-mode"] = f"{mode:04o}"
    headers["X-LXD-type"] = kind
    return headers


def read_blocks(descriptor: int, progress: Callable[[int], None] | None = None) -> Iterator[bytes]:
    """The rest of a file in blocks; `progress` is told how many bytes have been read."""
    total = 0
    while data := os.read(descriptor, BLOCK):
        total += len(data)
        yield data
        if progress is not None:
            progress(total)


def write_all(descriptor: int, data: bytes) -> int:
    """Write all of `data`; its length."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    return len(data)
