"""What a caller may do: everybody, the trusted, administrators, and clients restricted to some projects."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

from corral.errors import Forbidden
from corral.server.rest.request import Request
from corral.server.rest.routing import Access, Route

T = TypeVar("T")

PROJECT_NOUNS = frozenset(
    {
        "instances",
        "images",
        "profiles",
        "networks",
        "network-acls",
        "network-allocations",
        "network-zones",
        "operations",
        "events",
    }
)
"""Resources that belong to a project as a whole; of storage pools only the volumes and buckets do."""

OVER_PROJECTS = frozenset(
    {
        "/1.0/events",
        "/1.0/instances",
        "/1.0/network-allocations",
        "/1.0/operations",
        "/1.0/storage-pools/{pool}/volumes",
        "/1.0/storage-pools/{pool}/volumes/{type}",
    }
)
"""What is listed over all projects at once."""

POOL_NOUNS = frozenset({"volumes", "buckets"})
READ_ONLY = frozenset({"GET", "HEAD"})

_REFUSED = "not authorized"


def check_access(request: Request, route: Route) -> None:
    """Raise Forbidden where the caller is not of the kind that a route is for."""
    caller = request.caller
    if route.access is not Access.ANYONE and not caller.trusted:
        raise Forbidden(_REFUSED)
    if route.access is Access.ADMIN and not caller.admin:
        raise Forbidden(_REFUSED)
    if route.pattern.startswith("/internal") and caller.protocol not in ("unix", "cluster"):
        raise Forbidden(_REFUSED)


def check_project(request: Request, route: Route) -> None:
    """Raise Forbidden where a restricted caller asks for what is outside of its projects.

    It may read what its projects share with the default one, and change only what belongs to them. A single operation
    and a certificate are checked by their routes.
    """
    projects = request.caller.projects
    if projects is None or not request.caller.trusted or route.pattern.startswith("/1.0/operations/"):
        return
    if not is_of_project(route):
        if route.method not in READ_ONLY and not route.pattern.startswith("/1.0/certificates"):
            raise Forbidden(_REFUSED)
        return
    if request.all_projects:
        # What is listed is filtered by `visible`, operations and events by their routes.
        if route.method not in READ_ONLY or route.pattern not in OVER_PROJECTS:
            raise Forbidden(_REFUSED)
        return
    if request.requested_project not in projects:
        if route.access is not Access.ANYONE or route.method not in READ_ONLY:
            raise Forbidden(_REFUSED)
        # What is public there is for everybody: here the client is a stranger.
        request.caller = dataclasses.replace(request.caller, trusted=False)
        return
    if route.method not in READ_ONLY and request.project not in projects:
        raise Forbidden(_REFUSED)


def visible(request: Request, values: Sequence[T]) -> Sequence[T]:
    """Those of the wire objects of all projects that a caller may see; what does not say its project is hidden."""
    if request.caller.projects is None or not request.all_projects:
        return values
    return [value for value in values if getattr(value, "project", None) in request.caller.projects]


def hide_used_by(request: Request, values: Iterable[Any]) -> None:
    """Take the URLs of things in other projects out of the `used_by` of wire objects for a restricted caller."""
    if request.caller.projects is None:
        return
    for value in values:
        if hasattr(value, "used_by"):
            value.used_by = [used for used in value.used_by if request.caller.may_see(_project_of(used))]


def _project_of(used: str) -> str:
    return parse_qs(urlsplit(used).query).get("project", ["default"])[0]


def is_of_project(route: Route) -> bool:
    """Whether what a route serves belongs to a project."""
    words = route.pattern.strip("/").split("/")
    noun = words[1] if len(words) > 1 else ""
    return noun in PROJECT_NOUNS or (noun == "storage-pools" and len(words) > 3 and words[3] in POOL_NOUNS)
