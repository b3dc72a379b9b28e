"""Every route of the table, asked by strangers and by a client restricted to one project.

What is not listed here is expected to be refused: who adds a route that may be read or written otherwise says so.
"""

import asyncio
import http.client
import re
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from corral.server.rest import openapi, permission
from corral.server.rest.routes import table
from corral.server.rest.routing import Route

from .conftest import Server
from .test_network import listen, trust

Make = Callable[[str], Path]
Statuses = dict[str, int]

OPEN = frozenset(
    {
        "GET /",
        "GET /1.0",
        "POST /1.0/certificates",
        "GET /1.0/images",
        "GET /1.0/images/aliases/{name*}",
        "GET /1.0/images/{fingerprint}",
        "GET /1.0/images/{fingerprint}/export",
        "GET /1.0/operations/{uuid}/websocket",
    }
)
"""What answers strangers: with public things only, or for a password, token or secret."""

OF_THE_SERVER = frozenset(
    {
        "GET /",
        "GET /1.0",
        "GET /1.0/certificates",
        "GET /1.0/certificates/{fingerprint}",
        "PATCH /1.0/certificates/{fingerprint}",
        "POST /1.0/certificates",
        "PUT /1.0/certificates/{fingerprint}",
        "GET /1.0/cluster",
        "GET /1.0/cluster/groups",
        "GET /1.0/cluster/members",
        "GET /1.0/cluster/members/{name}",
        "GET /1.0/metadata/configuration",
        "GET /1.0/metrics",
        "GET /1.0/projects",
        "GET /1.0/resources",
        "GET /1.0/storage-pools",
        "GET /1.0/storage-pools/{pool}",
        "GET /1.0/storage-pools/{pool}/resources",
    }
)
"""What belongs to no project, or is filtered by its route, and is there for restricted clients too."""

OVER_PROJECTS = {f"GET {pattern}" for pattern in permission.OVER_PROJECTS}


def name_of(route: Route) -> str:
    return f"{route.method} {route.pattern}"


def every_route() -> list[Route]:
    hidden = [route for one in table.ALL for route in one.routes if route.pattern.startswith("/internal")]
    return [*openapi.public_routes(table.ALL), *hidden]


def path_of(route: Route) -> str:
    return re.sub(r"\{[^}]*\}", "other", route.pattern)


@contextmanager
def connected(port: int, certificate: Path | None) -> Iterator[http.client.HTTPSConnection]:
    tls = ssl.create_default_context()
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    if certificate is not None:
        tls.load_cert_chain(certificate)
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=20, context=tls)
    try:
        yield connection
    finally:
        connection.close()


def ask_all(port: int, certificate: Path | None, query: str, left_out: frozenset[str] = frozenset()) -> Statuses:
    """The status that each route answers with; a body that can be read, and means nothing, goes with all that write."""
    found: Statuses = {}
    with connected(port, certificate) as connection:
        for route in every_route():
            if name_of(route) in left_out:
                continue
            body = None if route.method in ("GET", "HEAD", "DELETE") else b"{}"
            connection.request(route.method, path_of(route) + query, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            found[name_of(route)] = answer.status
    return found


def not_refused(found: Statuses) -> set[str]:
    return {name for name, status in found.items() if status != 403}


async def test_strangers_are_refused_all_but_what_is_open(server: Server, client_certificate: Make) -> None:
    port = await listen(server)
    for certificate in (None, client_certificate("stranger")):
        found = await asyncio.to_thread(ask_all, port, certificate, "")
        allowed = {name for name in not_refused(found) if found[name] not in (404, 400)}
        assert not_refused(found) <= OPEN | {"GET /1.0/operations/{uuid}/wait", "POST /1.0/images"}
        assert allowed == {"GET /", "GET /1.0", "GET /1.0/images"}


async def test_a_restricted_client_is_refused_all_of_another_project(server: Server, client_certificate: Make) -> None:
    port = await listen(server)
    for name in ("mine", "other"):
        assert (await server.ask("POST", "/1.0/projects", {"name": name})).status == 201
    certificate = client_certificate("restricted")
    await trust(server, certificate, restricted=True, projects=["mine"])
    # An operation and a project of another are not found, or refused, by their routes.
    by_route = {name_of(route) for route in every_route() if route.pattern.startswith("/1.0/operations/")}
    for query in ("?project=other", "?project=default", ""):
        found = await asyncio.to_thread(ask_all, port, certificate, query)
        public = {name for name in OPEN if "/images" in name}
        assert not_refused(found) - by_route <= OF_THE_SERVER | public, query
        assert {found[name] for name in public} <= {200, 404}
        assert {name: found[name] for name in by_route if found[name] not in (403, 404, 400)} == {}
    listings = frozenset(OVER_PROJECTS - {"GET /1.0/operations"})
    found = await asyncio.to_thread(ask_all, port, certificate, "?all-projects=true", listings)
    assert not_refused(found) - by_route <= OF_THE_SERVER | OVER_PROJECTS


async def test_a_restricted_client_changes_nothing_of_the_server(server: Server, client_certificate: Make) -> None:
    port = await listen(server)
    assert (await server.ask("POST", "/1.0/projects", {"name": "mine"})).status == 201
    certificate = client_certificate("restricted")
    await trust(server, certificate, restricted=True, projects=["mine"])
    of_projects = frozenset(name_of(route) for route in every_route() if permission.is_of_project(route))
    found = await asyncio.to_thread(ask_all, port, certificate, "?project=mine", of_projects)
    assert not_refused(found) <= OF_THE_SERVER
    assert all(name.startswith("/internal") or found[name] == 403 for name in found if "/internal" in name)


async def test_a_metrics_certificate_opens_metrics_only(server: Server, client_certificate: Make) -> None:
    port = await listen(server)
    certificate = client_certificate("metrics")
    await trust(server, certificate, type="metrics")
    found = await asyncio.to_thread(ask_all, port, certificate, "", frozenset({"GET /1.0/metrics"}))
    assert not_refused(found) <= OPEN | {"GET /1.0/operations/{uuid}/wait", "POST /1.0/images"}
