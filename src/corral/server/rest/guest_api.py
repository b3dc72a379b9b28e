"""The API on /dev/lxd/sock: answers to guests about themselves. Plain: no envelope, no operations, nothing to change.

Paths, texts and status codes are LXD 5.0's. Any method reads, as there.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote

import msgspec
from aiohttp import web

from corral.errors import CorralError, NotFound
from corral.server.context import Context
from corral.server.events.model import Lifecycle
from corral.server.host.threads import in_thread
from corral.server.images import store as images
from corral.server.images.model import Image
from corral.server.instances.guest import guest_events, guests
from corral.server.instances.guest.guest_events import GuestEvents
from corral.server.instances.model import Instance
from corral.server.projects import store as projects
from corral.server.rest import files, responses, websocket
from corral.server.rest.streams import Upgraded

SEND_TIMEOUT_S = 5.0
"""How long a guest that streams events may not read."""

MAX_MESSAGE = 4096
"""Bytes of what a guest that watches events may send at once; it has nothing to say."""

_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Type: application/json\r\n"
    b"X-Content-Type-Options: nosniff\r\n\r\n"
)

Handler = Callable[[Context, Instance, web.BaseRequest, str], Awaitable[web.StreamResponse]]


def refused(status: int, text: str) -> web.Response:
    """An error."""
    return web.Response(
        text=f"{text}\n", status=status, content_type="text/plain", headers={"X-Content-Type-Options": "nosniff"}
    )


def _text(text: str) -> web.Response:
    return web.Response(body=text.encode(), content_type="application/octet-stream")


def _json(value: Any) -> web.Response:
    return web.Response(body=msgspec.json.encode(value) + b"\n", content_type="application/json")


async def _show_server(context: Context, instance: Instance, raw: web.BaseRequest, _: str) -> web.StreamResponse:
    return _json(guests.show_server(context, instance))


async def _list_keys(context: Context, instance: Instance, raw: web.BaseRequest, _: str) -> web.StreamResponse:
    return _json(guests.list_keys(instance.expanded_config))


async def _get_key(context: Context, instance: Instance, raw: web.BaseRequest, key: str) -> web.StreamResponse:
    if not guests.is_readable(key):
        return refused(403, "not authorized")
    value = instance.expanded_config.get(key)
    return refused(404, "not found") if value is None else _text(value)


async def _get_meta_data(context: Context, instance: Instance, raw: web.BaseRequest, _: str) -> web.StreamResponse:
    return _text(guests.show_meta_data(instance))


async def _get_devices(context: Context, instance: Instance, raw: web.BaseRequest, _: str) -> web.StreamResponse:
    return _json(guests.show_devices(instance))


async def _watch_events(context: Context, instance: Instance, raw: web.BaseRequest, _: str) -> web.StreamResponse:
    """By websocket, or as lines after the head of an answer that has no end."""
    words = raw.query.get("type", "")
    types = frozenset(words.split(",")) if words else guest_events.TYPES
    events = context.parts[GuestEvents]
    listener = events.listen(instance.id, types)
    try:
        if raw.headers.get("Upgrade", "").lower() == "websocket":
            return await websocket.send_events(raw, listener, MAX_MESSAGE, SEND_TIMEOUT_S)
        await _stream(raw, listener.queue)
        return Upgraded()
    finally:
        events.leave(instance.id, listener)


async def _stream(raw: web.BaseRequest, queue: "asyncio.Queue[dict[str, Any] | None]") -> None:
    """Write events as they come; ends with the daemon or by cancellation, when the guest has gone."""
    data = _STREAM_HEAD
    try:
        while True:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await raw.writer.write(data)
                await raw.writer.drain()
            event = await queue.get()
            if event is None:
                break
            data = msgspec.json.encode(event) + b"\n"
    except TimeoutError:
        pass
    finally:
        if raw.transport is not None:
            raw.transport.abort()


async def _export_image(
    context: Context, instance: Instance, raw: web.BaseRequest, fingerprint: str
) -> web.StreamResponse:
    if not guests.offers_images(instance.expanded_config):
        return refused(403, "not authorized")
    asked = raw.query.get("project") or "default"
    try:
        image = await context.db.read(_find_image, instance, asked, fingerprint)
        sent = await in_thread(files.list_image_files, context.member.images_dir, image)
    except CorralError as error:
        return responses.of_error(error)
    source = f"/1.0/images/{image.fingerprint}"
    context.events.publish(Lifecycle("image-retrieved", source, image.project))
    return await files.send(raw, sent)


def _find_image(tx: Any, instance: Instance, asked: str, fingerprint: str) -> Image:
    """A public or cached image of the default project or of the guest's own: the others are none of its business."""
    own = projects.get_project(tx, instance.project)
    of_own = own.name if own.has("features.images") else "default"
    if asked not in ("default", of_own, own.name):
        raise NotFound("Image not found")
    image = images.get_image(tx, "default" if asked == "default" else of_own, fingerprint)
    if not image.public and not image.cached:
        raise NotFound(f'Image "{image.fingerprint}" not found')
    return image


_ROUTES: tuple[tuple[re.Pattern[str], Handler], ...] = (
    (re.compile(r"/1\.0"), _show_server),
    (re.compile(r"/1\.0/config"), _list_keys),
    (re.compile(r"/1\.0/config/([^/]+)"), _get_key),
    (re.compile(r"/1\.0/meta-data"), _get_meta_data),
    (re.compile(r"/1\.0/devices"), _get_devices),
    (re.compile(r"/1\.0/events"), _watch_events),
    (re.compile(r"/1\.0/images/([^/]+)/export"), _export_image),
)
STREAMS = frozenset({_watch_events})
DOWNLOADS = frozenset({_export_image})


async def _show_versions(context: Context, instance: Instance, raw: web.BaseRequest, _: str) -> web.StreamResponse:
    return _json(["/1.0"])


def find(path: str) -> tuple[Handler, str] | None:
    """The handler of a path as it was sent, and the part of it that is variable; raises ValueError for bad escapes."""
    if path == "/":
        return _show_versions, ""
    for pattern, handler in _ROUTES:
        match = pattern.fullmatch(path)
        if match is not None:
            return handler, _unescape(match[1]) if match.groups() else ""
    return None


def _unescape(part: str) -> str:
    if re.search("%(?![0-9A-Fa-f]{2})", part):
        raise ValueError("a damaged escape")
    return unquote(part, errors="strict")


async def answer(
    context: Context, instance: Instance, raw: web.BaseRequest, handler: Handler, argument: str
) -> web.StreamResponse:
    """The answer to a guest that is known."""
    if handler is not _show_versions and not guests.is_offered(instance.expanded_config):
        return refused(403, "not authorized")
    return await handler(context, instance, raw, argument)
