"""A request as handlers see it: context, project, caller, query, and the way to start an operation."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Concatenate, ParamSpec

from aiohttp import web

from corral.errors import InvalidRequest
from corral.server.auth.peer import PeerCertificate
from corral.server.context import Context
from corral.server.db.database import Database
from corral.server.operations.model import Connect, Operation
from corral.server.operations.registry import Operations
from corral.server.rest.kept import Kept

P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. A caller on the Unix socket is an administrator: the socket's mode and group decide who that is.

    `projects` names those that a restricted client may use; None is all. `certificate` is what a TLS client showed,
    trusted or not.
    """

    username: str
    protocol: str
    address: str
    trusted: bool = True
    admin: bool = True
    projects: frozenset[str] | None = None
    certificate: PeerCertificate | None = None

    def may_see(self, project: str) -> bool:
        """Whether things of a project may be shown to the caller."""
        return self.projects is None or project in self.projects


@dataclass(eq=False)
class Request:
    """One request. `project` is the effective project of the resource: the default one where the project shares it.

    `base` is the path prefix by which the instances are asked: /1.0/instances, /1.0/containers or
    /1.0/virtual-machines.
    """

    raw: web.BaseRequest
    context: Context
    caller: Caller
    kept: Kept = field(default_factory=Kept)
    requested_project: str = "default"
    project: str = "default"
    base: str = "/1.0/instances"
    arguments: dict[str, str] = field(default_factory=dict)

    @property
    def db(self) -> Database:
        """The shared database."""
        return self.context.db

    @cached_property
    def query(self) -> Mapping[str, str]:
        """The parameters of the URL: text by name."""
        return self.raw.query if "?" in self.raw.raw_path else {}

    @cached_property
    def recursion(self) -> int:
        """0, 1 or 2; what follows a `;` (`fields=`) is for the handler."""
        text = self.query.get("recursion", "0").partition(";")[0]
        return int(text) if text.isdecimal() else 0

    @property
    def all_projects(self) -> bool:
        """Whether things of all projects are wanted."""
        wanted = self.query.get("all-projects", "").lower() in ("true", "1", "yes", "on")
        if wanted and self.query.get("project"):
            raise InvalidRequest("Cannot specify a project when requesting all projects")
        return wanted

    def start(
        self,
        description: str,
        verb: Callable[Concatenate[Context, P], Awaitable[Any]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Operation:
        """Run a verb as an operation; what it returns (a dict) is added to the operation's metadata.

        `resources`, `metadata` and `cancellable` are set on the operation by `operation()` where a handler needs them.
        """
        return self.operation(
            Operation(description, self.requested_project, {}), lambda: verb(self.context, *args, **kwargs)
        )

    def operation(self, operation: Operation, work: Callable[[], Awaitable[Any]]) -> Operation:
        """Run work as an operation that the handler described itself."""
        if self.caller.certificate is not None and self.caller.trusted:
            operation.owner = self.caller.certificate.fingerprint
        return self.context.parts[Operations].start(operation, work)

    def start_on(
        self,
        resources: dict[str, list[str]],
        description: str,
        verb: Callable[Concatenate[Context, P], Awaitable[Any]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Operation:
        """Run a verb as a cancellable operation on some things, given as {kind: [URLs]}."""
        operation = Operation(description, self.requested_project, resources, cancellable=True)
        return self.operation(operation, lambda: verb(self.context, *args, **kwargs))

    def open_sockets(
        self,
        description: str,
        resources: dict[str, list[str]],
        secrets: dict[str, str],
        connect: Connect,
        work: Callable[[], Awaitable[Any]],
        metadata: dict[str, Any] | None = None,
    ) -> Operation:
        """Run work as a websocket operation: clients connect with the secret of each descriptor."""
        operation = Operation(
            description,
            self.requested_project,
            resources,
            {**(metadata or {}), "fds": secrets},
            connect=connect,
            secrets=secrets,
            kind="websocket",
        )
        return self.operation(operation, work)
