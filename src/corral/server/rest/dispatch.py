"""The edge: one request in, one answer out. The only place that turns errors into HTTP."""

import asyncio
import logging
import uuid
from typing import Any
from urllib.parse import unquote

import msgspec
from aiohttp import ClientPayloadError, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestPayloadError

from corral.errors import CorralError, InvalidRequest, NotFound, NotSupported, TooLarge
from corral.server.context import Context
from corral.server.events.bus import requestor
from corral.server.events.model import Requestor
from corral.server.operations.model import Operation
from corral.server.projects import store as projects
from corral.server.rest import cors, etag, filtering, permission, responses
from corral.server.rest.authenticate import authenticate
from corral.server.rest.kept import Kept
from corral.server.rest.request import Request
from corral.server.rest.responses import Created, Listing, WithEtag
from corral.server.rest.routing import Route, Router, decode_body, merge
from corral.server.settings.settings import Settings

log = logging.getLogger(__name__)

MAX_BODY = 16 * 1024 * 1024
"""Bytes of a JSON body; uploads are streamed by their handlers."""

MAX_STRANGERS_BODY = 64 * 1024
"""Bytes of the body of one who is not trusted (yet): a certificate and a password."""

REPLACING = frozenset({"PUT", "PATCH"})
"""Methods whose body is what a thing is to be."""

UPLOAD = "application/octet-stream"
"""The type of a body that is a file."""

_INSTANCE_BASES = {"containers": "/1.0/containers", "virtual-machines": "/1.0/virtual-machines"}


class Dispatcher:
    """Serves requests with the routes of a table."""

    def __init__(self, context: Context, router: Router) -> None:
        self._context = context
        self._router = router
        self._kept = Kept()
        self.ready = asyncio.Event()

    async def __call__(self, raw: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; never raises for an error of the user or of ours."""
        response = await self._answer_safely(raw)
        if not response.prepared and "Origin" in raw.headers:
            response.headers.update(cors.headers_of(self._context.parts[Settings].config))
        return response

    async def _answer_safely(self, raw: web.BaseRequest) -> web.StreamResponse:
        try:
            if raw.method == "OPTIONS":
                return responses.sync({})
            return await self._serve(raw)
        except CorralError as error:
            if error.status >= 500:
                log.warning("%s %s: %s", raw.method, raw.path_qs, error)
            return responses.of_error(error)
        except (ConnectionError, RequestPayloadError, ClientPayloadError, HttpProcessingError) as error:
            # Nobody is there to read this, but for one who sent what is no HTTP.
            log.debug("%s %s broke off: %r", raw.method, raw.path_qs, error)
            return responses.failed(400, "The request ended before its end")
        except web.HTTPException:
            raise
        except Exception:
            reference = uuid.uuid4().hex[:12]
            log.exception("Request %s failed: %s %s", reference, raw.method, raw.path_qs)
            return responses.failed(500, f"Internal error (reference {reference} in the server's log)")

    async def _serve(self, raw: web.BaseRequest) -> web.StreamResponse:
        path = raw.rel_url.raw_path
        if not self.ready.is_set() and not path.startswith("/internal/"):
            await self.ready.wait()
        parts = path.strip("/").split("/")
        base = "/1.0/instances"
        if len(parts) > 1 and parts[0] == "1.0" and parts[1] in _INSTANCE_BASES:
            base = _INSTANCE_BASES[parts[1]]
            parts[1] = "instances"
        found = self._router.find(parts)
        if found is None:
            raise NotFound("not found")
        routes, arguments = found
        caller = await authenticate(raw, self._context)
        token = requestor.set(Requestor(caller.username, caller.protocol, caller.address))
        try:
            request = Request(raw, self._context, caller, self._kept, base=base)
            request.arguments = {name: _unquote(value) for name, value in arguments.items()}
            return await self._call(request, routes)
        finally:
            requestor.reset(token)

    async def _call(self, request: Request, routes: dict[str, Route]) -> web.StreamResponse:
        method = request.raw.method
        route = routes.get(method)
        if method == "PATCH" and route is None and "PUT" in routes and "GET" in routes:
            route = routes["PUT"]
        if route is None and method == "HEAD":
            route = routes.get("GET")
        if route is None:
            raise NotSupported("not implemented")
        permission.check_access(request, route)
        _check_target(request, route)
        await self._resolve_project(request, route)
        permission.check_project(request, route)
        # aiohttp's content_type says octet-stream of a request that says nothing: such a one is JSON.
        if route.upload is not None and request.raw.headers.get("Content-Type", "").startswith(UPLOAD):
            return self._answer(request, route, await route.upload(request))
        arguments: dict[str, Any] = {name: request.arguments[name] for name in route.parameters}
        if route.body is not None:
            arguments["body"] = await self._body(request, route, routes)
        return self._answer(request, route, await route.handler(request, **arguments))

    async def _resolve_project(self, request: Request, route: Route) -> None:
        name = request.query.get("project") or "default"
        request.requested_project = name
        if name == "default":
            request.project = name
            return
        project = await request.db.read(projects.get_project, name)
        own = route.feature is None or project.has(route.feature)
        request.project = name if own else "default"

    async def _body(self, request: Request, route: Route, routes: dict[str, Route]) -> Any:
        assert route.body is not None
        data = await read_body(request.raw, MAX_BODY if request.caller.trusted else MAX_STRANGERS_BODY)
        if not data and request.raw.method in REPLACING:
            # Nothing is no configuration: it would take away all there is.
            raise InvalidRequest("Invalid request body: it is empty")
        get = routes.get("GET")
        if request.raw.method == "POST" or get is None or get.put is None:
            return decode_body(data, route.body)
        value = await get.handler(request, **{name: request.arguments[name] for name in get.parameters})
        part = value.etag_of if isinstance(value, WithEtag) else etag.writable_part(value, get.put)
        etag.check(request.raw.headers.get("If-Match"), part)
        if request.raw.method == "PATCH" and route.method == "PUT":
            present = value.value if isinstance(value, WithEtag) else value
            plain = msgspec.to_builtins(etag.writable_part(present, get.put))
            return decode_body(msgspec.json.encode(merge(plain, data)), route.body)
        return decode_body(data, route.body)

    def _answer(self, request: Request, route: Route, result: Any) -> web.StreamResponse:
        if isinstance(result, WithEtag):
            permission.hide_used_by(request, [result.value])
            return responses.encoded(result.body, headers={"ETag": result.etag})
        match result:
            case web.StreamResponse():
                return result
            case Operation():
                return responses.accepted(result, f"/1.0/operations/{result.id}")
            case Listing():
                return self._collection(request, result)
            case Created():
                return responses.sync(result.metadata, status=201, headers={"Location": result.location})
            case None:
                return responses.sync({})
        headers = {}
        if route.method == "GET" and route.put is not None:
            headers["ETag"] = f'"{etag.compute(etag.writable_part(result, route.put))}"'
        permission.hide_used_by(request, [result])
        return responses.sync(result, headers=headers)

    def _collection(self, request: Request, listing: Listing[Any]) -> web.StreamResponse:
        items = permission.visible(request, listing.items)
        permission.hide_used_by(request, items)
        expression = request.query.get("filter")
        if expression:
            clauses = filtering.parse(expression)
            items = [item for item in items if filtering.matches(clauses, item)]
        if request.recursion == 0:
            return responses.sync([listing.url(item) for item in items])
        return responses.sync(items)


def _check_target(request: Request, route: Route) -> None:
    """Raise NotFound where another member than this one is asked: there is none."""
    target = request.query.get("target", "")
    member = request.context.member
    if target in ("", member.name, member.location) or route.pattern == "/1.0/instances":
        return
    raise NotFound("Cluster member not found")


def _unquote(part: str) -> str:
    try:
        text = unquote(part, errors="strict")
    except UnicodeDecodeError as error:
        raise InvalidRequest("Invalid URL: not UTF-8") from error
    if "\0" in text:
        raise InvalidRequest("Invalid URL: it has a NUL character")
    return text


async def read_body(raw: web.BaseRequest, limit: int = MAX_BODY) -> bytes:
    """The whole JSON body of a request, bounded; a null is none."""
    text = await read_bytes(raw, limit)
    return b"" if text.strip() == b"null" else text


async def read_bytes(raw: web.BaseRequest, limit: int = MAX_BODY) -> bytes:
    """The whole body of a request as it came, bounded."""
    if raw.content_length is not None and raw.content_length > limit:
        raise TooLarge(f"The request body is larger than {limit} bytes")
    data = bytearray()
    async for chunk in raw.content.iter_any():
        data += chunk
        if len(data) > limit:
            raise TooLarge(f"The request body is larger than {limit} bytes")
    return bytes(data)
