"""The API of one server: queries with project and target, the envelope of answers, etags and operations."""

from __future__ import annotations

from corral.client import codec
from corral.errors import CorralError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corral.client.connection import Body, Connection, Response
    from corral.client.operations import Operation, Watch

_SAFE = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~")


class ApiError(CorralError):
    """An error that the server answered."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class NotJson(CorralError):
    """An answer that has no envelope."""


def escape(text: str, keep: str = "") -> str:
    """Percent-encoded text for one segment of a path or one value of a query."""
    if all(letter in _SAFE or letter in keep for letter in text):
        return text
    escaped = []
    for byte in text.encode("utf-8", "surrogateescape"):
        letter = chr(byte)
        escaped.append(letter if letter in _SAFE or letter in keep else f"%{byte:02X}")
    return "".join(escaped)


def query_string(query: dict[str, str]) -> str:
    """`?a=1&b=2`, or nothing for an empty query."""
    if not query:
        return ""
    return "?" + "&".join(f"{name}={escape(value)}" for name, value in query.items())


class Reply:
    """The parts of an answered envelope."""

    __slots__ = ("envelope", "etag")

    def __init__(self, envelope: dict[str, Any], etag: str) -> None:
        self.envelope = envelope
        self.etag = etag

    @property
    def metadata(self) -> Any:
        """What the server answered."""
        return self.envelope.get("metadata")


def parse_reply(response: Response, url: str) -> Reply:
    """The envelope of an answer. Raises ApiError for an error, NotJson for anything that is no envelope."""
    content = response.read()
    try:
        envelope = codec.decode(content.decode())
    except ValueError as error:
        if response.status != 200:
            message = f"Failed to fetch {url}: {response.status} {response.reason}"
            raise ApiError(message, response.status) from error
        raise NotJson(f"The answer to {url} is not JSON: {error}") from error
    if not isinstance(envelope, dict):
        raise NotJson(f"The answer to {url} is no API answer")
    if envelope.get("type") == "error":
        raise ApiError(envelope.get("error") or response.reason, response.status)
    return Reply(envelope, response.headers.get("etag", ""))


class Server:
    """A server as one project and, in a cluster, one member sees it."""

    def __init__(self, connection: Connection, base_url: str, project: str = "", target: str = "") -> None:
        self.connection = connection
        self.base_url = base_url
        self.project = project
        self.target = target
        self._info: dict[str, Any] | None = None

    def with_project(self, project: str) -> Server:
        """The same server, in another project."""
        return self._copy(project, self.target)

    def with_target(self, target: str) -> Server:
        """The same server, at one member of its cluster."""
        return self._copy(self.project, target)

    def _copy(self, project: str, target: str) -> Server:
        server = Server(self.connection, self.base_url, project, target)
        server._info = self._info
        return server

    def path(self, path: str, query: dict[str, str] | None = None) -> str:
        """`/1.0` with `path`, the query and this server's project and target."""
        merged = dict(query or {})
        if self.target:
            merged.setdefault("target", self.target)
        if self.project and "all-projects" not in merged:
            merged.setdefault("project", self.project)
        return "/1.0" + path + query_string(merged)

    def request(self, method: str, target: str, body: Body = None, headers: dict[str, str] | None = None) -> Response:
        """A raw request; `target` is complete."""
        return self.connection.request(method, target, headers, body)

    def query(self, method: str, target: str, body: Any = None, etag: str = "") -> Reply:
        """A request with a JSON body; `target` is complete. Raises ApiError."""
        headers = {}
        content = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            content = codec.encode(body).encode()
        if etag:
            headers["If-Match"] = etag
        return parse_reply(self.connection.request(method, target, headers, content), self.base_url + target)

    def get(self, path: str, query: dict[str, str] | None = None) -> Any:
        """The metadata at a path below /1.0."""
        return self.query("GET", self.path(path, query)).metadata

    def get_tagged(self, path: str) -> tuple[Any, str]:
        """The metadata at a path below /1.0 and its etag."""
        reply = self.query("GET", self.path(path))
        return reply.metadata, reply.etag

    def put(self, path: str, body: Any, etag: str = "") -> None:
        """Replace what is at a path below /1.0, synchronously."""
        self.query("PUT", self.path(path), body, etag)

    def post(self, path: str, body: Any) -> None:
        """Create or rename, synchronously."""
        self.query("POST", self.path(path), body)

    def delete(self, path: str) -> None:
        """Delete what is at a path below /1.0, synchronously."""
        self.query("DELETE", self.path(path))

    def start(self, method: str, path: str, body: Any = None, etag: str = "", watch: Watch | None = None) -> Operation:
        """Begin what the server does in the background; `watch` is told of its progress."""
        from corral.client.operations import Operation, open_events

        events = open_events(self) if watch is not None else None
        try:
            reply = self.query(method, self.path(path), body, etag)
        except BaseException:
            if events is not None:
                events.close()
            raise
        if reply.envelope.get("type") != "async":  # Done already: some requests are quick for some servers.
            return Operation(self, {"id": "", "status_code": 200, "metadata": {}}, None, events)
        return Operation(self, reply.metadata, watch, events)

    def run(self, method: str, path: str, body: Any = None, etag: str = "") -> dict[str, Any]:
        """Begin what the server does in the background, wait for its end and return the operation."""
        return self.start(method, path, body, etag).wait()

    @property
    def info(self) -> dict[str, Any]:
        """GET /1.0, asked once."""
        if self._info is None:
            self._info = dict(self.get(""))
        return self._info

    @property
    def is_clustered(self) -> bool:
        """Whether the server is a member of a cluster."""
        return bool(self.info.get("environment", {}).get("server_clustered"))

    def is_same_as(self, other: Server) -> bool:
        """Whether another remote leads to the same place: the same daemon, project and member."""
        if self is other:
            return True
        if (self.project or "default") != (other.project or "default"):
            return False
        here, there = self._identity(), other._identity()
        return here == there and here[0] != ""

    def _identity(self) -> tuple[str, str]:
        environment = self.info.get("environment") or {}
        return str(environment.get("certificate", "")), self.target or str(environment.get("server_name", ""))

    def addresses(self) -> list[str]:
        """The URLs at which other servers reach this one."""
        urls = [self.base_url] if self.base_url.startswith("https://") else []
        for address in (self.info.get("environment") or {}).get("addresses") or ():
            url = f"https://{address}"
            if not address.startswith(":") and url not in urls:
                urls.append(url)
        return urls

    @property
    def certificate(self) -> str:
        """The server's certificate in PEM, for other servers to trust."""
        return str((self.info.get("environment") or {}).get("certificate", ""))

    def require_cluster(self) -> None:
        """Raise where `--target` makes no sense."""
        if not self.is_clustered:
            raise CorralError("To use --target, the destination remote must be a cluster")
