"""/1.0/instances/NAME/files and /1.0/instances/NAME/sftp."""

import posixpath
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from corral.errors import InvalidRequest
from corral.server.instances.model import Instance
from corral.server.instances.sessions import files
from corral.server.rest import responses, streams
from corral.server.rest.dispatch import read_body
from corral.server.rest.request import Request
from corral.server.rest.routing import Routes

routes = Routes("/1.0/instances")

TYPES = ("file", "symlink", "directory")
PERMISSIONS = ("mode", "uid", "gid")
WRITES = ("overwrite", "append")
_PERMISSIONS = 0o777


@dataclass(frozen=True, slots=True)
class FileHeaders:
    """What the X-LXD-* headers of a push say; None where they say nothing.

    `modify` names what of a file that is there already shall be changed too: mode, uid, gid.
    """

    uid: int | None
    gid: int | None
    mode: int | None
    type: str
    write: str
    modify: tuple[str, ...] = ()


def parse_headers(headers: Mapping[str, str]) -> FileHeaders:
    """Read the headers of a push. A mode with a leading 0 is octal, else decimal, as LXD reads it."""
    mode = headers.get("X-LXD-mode", "")
    number = None
    if re.fullmatch(r"[0-9]+", mode):
        is_octal = mode.startswith("0") and len(mode) > 1 and not re.search("[89]", mode)
        number = int(mode, 8 if is_octal else 10) & _PERMISSIONS
    kind = headers.get("X-LXD-type") or "file"
    write = headers.get("X-LXD-write") or "overwrite"
    if write not in WRITES:
        raise InvalidRequest(f"Bad file write mode: {write}")
    if kind not in TYPES:
        raise InvalidRequest(f"Bad file type: {kind}")
    modify = tuple(word for text in headers.get("X-LXD-modify-perm", "").split(",") if (word := text.strip()))
    for word in modify:
        if word not in PERMISSIONS:
            raise InvalidRequest(f"Invalid modify-perm value {word!r}: use a list of {', '.join(PERMISSIONS)}")
    owner = _id(headers.get("X-LXD-uid", "")), _id(headers.get("X-LXD-gid", ""))
    return FileHeaders(*owner, number, kind, write, modify)


def _id(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,10}", text) and int(text) < 1 << 32 else None


def format_headers(facts: Mapping[str, Any]) -> dict[str, str]:
    """The headers of a file that is there."""
    moment = datetime.fromtimestamp(facts["mtime_ns"] // 1_000_000_000, UTC)
    return {
        "X-LXD-uid": str(facts["uid"]),
        "X-LXD-gid": str(facts["gid"]),
        "X-LXD-mode": f"{facts['mode'] & _PERMISSIONS:04o}",
        "X-LXD-modified": f"{moment:%Y-%m-%d %H:%M:%S} +0000 UTC",
        "X-LXD-type": "file" if facts["type"] == "other" else facts["type"],
    }


async def _find(request: Request, name: str) -> tuple[Instance, str]:
    instance = await files.get_instance(request.context, request.project, name)
    path = request.query.get("path", "")
    if not path:
        raise InvalidRequest("Missing path argument")
    if "\0" in path:
        raise InvalidRequest("The path holds a NUL character")
    return instance, path if path.startswith("/") else f"/{path}"


@routes.get("/{name}/files")
async def get_file(request: Request, name: str) -> web.StreamResponse:
    """Get a file, the target of a symbolic link or the names in a directory."""
    instance, path = await _find(request, name)
    context = request.context
    facts, _ = await files.call(context, instance, "stat", path)
    headers = format_headers(facts)
    base = posixpath.basename(path)
    if facts["type"] == "directory":
        names, _ = await files.call(context, instance, "list", path)
        files.publish(context, instance, "retrieved", path)
        return responses.sync(names, headers=headers)
    if facts["type"] == "symlink":
        target, _ = await files.call(context, instance, "readlink", path)
        files.publish(context, instance, "retrieved", path)
        # Made absolute, but not followed: the client decides what it does with it.
        absolute = posixpath.normpath(posixpath.join("/", posixpath.dirname(path), target))
        return streams.send_bytes(absolute.encode(errors="surrogateescape"), base, headers)
    _, fds = await files.call(context, instance, "read", path)
    files.publish(context, instance, "retrieved", path)
    return await streams.send_file(request.raw, fds[0], base, headers)


@routes.head("/{name}/files")
async def head_file(request: Request, name: str) -> web.StreamResponse:
    """Get the facts of a file."""
    instance, path = await _find(request, name)
    facts, _ = await files.call(request.context, instance, "stat", path)
    return web.Response(headers=format_headers(facts), content_type="application/json")


@routes.post("/{name}/files")
async def post_file(request: Request, name: str) -> None:
    """Create or change a file, or make a directory or a symbolic link."""
    instance, path = await _find(request, name)
    headers = parse_headers(request.raw.headers)
    context = request.context
    owner = {"uid": headers.uid, "gid": headers.gid, "mode": headers.mode, "modify": headers.modify}
    if headers.type == "directory":
        await files.call(context, instance, "mkdir", path, **owner)
    elif headers.type == "symlink":
        target = (await read_body(request.raw)).decode(errors="surrogateescape")
        await files.call(context, instance, "symlink", path, target=target)
    else:
        _, fds = await files.call(context, instance, "write", path, append=headers.write == "append", **owner)
        await streams.receive_file(request.raw, fds[0])
    files.publish(context, instance, "pushed", path)


@routes.delete("/{name}/files")
async def delete_file(request: Request, name: str) -> None:
    """Remove a file, a symbolic link or an empty directory."""
    instance, path = await _find(request, name)
    await files.call(request.context, instance, "remove", path)
    files.publish(request.context, instance, "deleted", path)


@routes.get("/{name}/sftp")
async def open_sftp(request: Request, name: str) -> web.StreamResponse:
    """Turn the connection into an SFTP session on the instance's files."""
    if request.raw.headers.get("Upgrade", "").lower() != "sftp":
        raise InvalidRequest("Missing or invalid upgrade header")
    instance = await files.get_instance(request.context, request.project, name)

    async def take(client: socket.socket) -> None:
        await files.open_sftp(request.context, instance, client)

    return await streams.hand_over(request.raw, "sftp", take)
