"""A REST resource is declared once: its routes, bodies and answers; the edge derives the rest from the signatures.

    routes = Routes("/1.0/profiles", feature="features.profiles")

    @routes.get("/{name}", put=ProfilePut)
    async def get_profile(request: Request, name: str) -> Profile: ...

    @routes.put("/{name}")
    async def update_profile(request: Request, name: str, body: ProfilePut) -> None: ...

PATCH is derived from a PUT whose path has a GET with `put=`: the present state, with maps merged, goes to the PUT.
"""

import inspect
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol, TypeVar, get_type_hints

import msgspec

from corral.errors import InvalidRequest

Handler = Callable[..., Awaitable[Any]]
H = TypeVar("H", bound=Handler)


class Register(Protocol):
    """A decorator that leaves the handler as it is."""

    def __call__(self, handler: H, /) -> H: ...


class Access(Enum):
    """Who may call a route."""

    ANYONE = "anyone"
    TRUSTED = "trusted"
    ADMIN = "admin"


@dataclass(eq=False, slots=True)
class Route:
    """One method on one path."""

    method: str
    pattern: str
    handler: Handler
    access: Access
    feature: str | None
    body: type[Any] | None = None
    put: type[msgspec.Struct] | None = None
    parameters: tuple[str, ...] = ()
    extension: str | None = None
    upload: Handler | None = None


@dataclass(eq=False)
class Routes:
    """The routes of one resource.

    `feature` names the project feature that gives a project its own set of the things; without it the things are the
    server's. `project` resources without a feature (instances, operations) always belong to their project.
    """

    prefix: str
    feature: str | None = None
    access: Access = Access.TRUSTED
    routes: list[Route] = field(default_factory=list)

    def get(self, path: str, *, put: type[msgspec.Struct] | None = None, access: Access | None = None) -> "Register":
        """Declare a GET; `put` is the struct of what may be edited, for ETag and PATCH."""
        return self._add("GET", path, access, put)

    def head(self, path: str, *, access: Access | None = None) -> "Register":
        """Declare a HEAD."""
        return self._add("HEAD", path, access)

    def put(self, path: str, *, access: Access | None = None) -> "Register":
        """Declare a PUT (and, by it, a PATCH)."""
        return self._add("PUT", path, access)

    def patch(self, path: str, *, access: Access | None = None) -> "Register":
        """Declare a PATCH of its own; the body is what was sent."""
        return self._add("PATCH", path, access)

    def post(self, path: str, *, access: Access | None = None, upload: Handler | None = None) -> "Register":
        """Declare a POST; `upload` serves it instead where the body is a file (application/octet-stream)."""
        return self._add("POST", path, access, upload=upload)

    def delete(self, path: str, *, access: Access | None = None) -> "Register":
        """Declare a DELETE."""
        return self._add("DELETE", path, access)

    def _add(
        self,
        method: str,
        path: str,
        access: Access | None,
        put: type[msgspec.Struct] | None = None,
        upload: Handler | None = None,
    ) -> "Register":
        def register(handler: H) -> H:
            pattern = self.prefix + path or "/"
            route = Route(method, pattern, handler, access or self.access, self.feature, put=put, upload=upload)
            hints = get_type_hints(handler)
            names = list(inspect.signature(handler).parameters)[1:]
            route.body = hints.get("body")
            route.parameters = tuple(name for name in names if name != "body")
            self.routes.append(route)
            return handler

        return register


class _Node:
    __slots__ = ("children", "parameter", "parameter_name", "routes", "tail", "tail_name")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.parameter: _Node | None = None
        self.parameter_name = ""
        self.routes: dict[str, Route] = {}
        self.tail: _Node | None = None
        self.tail_name = ""


class Router:
    """Finds the routes of a path. Fixed words win over parameters; `{name*}` takes all the rest, slashes too."""

    def __init__(self, tables: Iterable[Routes]) -> None:
        self._root = _Node()
        for table in tables:
            for route in table.routes:
                self._insert(route)

    def find(self, parts: list[str]) -> tuple[dict[str, Route], dict[str, str]] | None:
        """The routes by method and the arguments of a path's escaped parts; None for an unknown path."""
        node, arguments = self._root, {}
        for depth, part in enumerate(parts):
            if node.tail is not None and part != "":
                arguments[node.tail_name] = "/".join(parts[depth:])
                return node.tail.routes, arguments
            child = node.children.get(part)
            if child is None and node.parameter is not None and part != "":
                arguments[node.parameter_name] = part
                child = node.parameter
            if child is None:
                return None
            node = child
        return (node.routes, arguments) if node.routes else None

    def _insert(self, route: Route) -> None:
        node = self._root
        for part in route.pattern.strip("/").split("/"):
            if part.endswith("*}"):
                node.tail, node.tail_name = node.tail or _Node(), part[1:-2]
                node = node.tail
            elif part.startswith("{"):
                if node.parameter is None:
                    node.parameter, node.parameter_name = _Node(), part[1:-1]
                if node.parameter_name != part[1:-1]:
                    raise ValueError(f"{route.pattern}: the parameter is {node.parameter_name} elsewhere")
                node = node.parameter
            elif part or route.pattern == "/":
                node = node.children.setdefault(part, _Node())
        if route.method in node.routes:
            raise ValueError(f"{route.method} {route.pattern} is declared twice")
        node.routes[route.method] = route


def decode_body(data: bytes, kind: type[Any]) -> Any:
    """A JSON body as a typed value; InvalidRequest names the field that is wrong.

    Clients written in Go send null for an empty map or list: where the type has no null, it means absent.
    """
    try:
        return msgspec.json.decode(data or b"{}", type=kind)
    except msgspec.ValidationError as error:
        if b"null" not in data:
            raise InvalidRequest(f"Invalid request body: {error}") from error
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"Invalid request body: not JSON ({error})") from error
    try:
        return msgspec.convert(_without_nulls(msgspec.json.decode(data)), kind)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"Invalid request body: {error}") from error


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(inner) for name, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def merge(present: dict[str, Any], data: bytes) -> dict[str, Any]:
    """PATCH: what was sent over what there is; maps (config, devices) are merged by key."""
    try:
        sent = msgspec.json.decode(data or b"{}", type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise InvalidRequest(f"Invalid request body: {error}") from error
    merged = dict(present)
    for name, value in sent.items():
        before = merged.get(name)
        if isinstance(value, dict) and isinstance(before, dict):
            merged[name] = {**before, **value}
        elif value is not None:
            merged[name] = value
    return merged
