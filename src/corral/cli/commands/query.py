"""`query`: a raw request to the API."""

from __future__ import annotations

from corral.cli import output
from corral.cli.command import Command, Invocation, switch, text
from corral.cli.session import order
from corral.client import codec
from corral.client.server import NotJson, Reply, Server
from corral.errors import CorralError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


_ENVELOPE = ("type", "status", "status_code", "operation", "error_code", "error", "metadata")


def run(invocation: Invocation) -> int:
    """Send a request and print the answer's metadata."""
    session = invocation.session
    if session.project:
        raise CorralError("--project cannot be used with the query command")
    remote, path = session.remotes.parse(invocation.args[0])
    if not path.startswith("/"):
        raise CorralError("Query path must start with /")
    server = session.remotes.server(remote)
    method = invocation.text("request")
    try:
        reply = server.query(method, path, _parse_data(invocation.text("data")))
    except NotJson:
        _print_raw_answer(server, method, path, invocation.text("data"))
        return 0
    if invocation.switch("wait") and reply.envelope.get("operation"):
        reply = _wait(server, reply)
    if invocation.switch("raw"):
        output.line(pretty(order(reply.envelope, _ENVELOPE), sort_keys=False))
    elif reply.metadata is not None and reply.metadata != {}:
        output.line(pretty(reply.metadata))
    return 0


def _parse_data(data: str) -> Any:
    """JSON where it is JSON, else the text itself."""
    try:
        return codec.decode(data)
    except ValueError:
        return data


def _print_raw_answer(server: Server, method: str, path: str, data: str) -> None:
    """What is not an API answer (a log file, an export) is printed as it came."""
    response = server.request(method, path, data.encode() or None, {"Content-Type": "plain/text"})
    if response.status != 200:
        raise CorralError(f"Failed to fetch {server.base_url}{path}: {response.status} {response.reason}")
    for piece in response.chunks():
        output.write_bytes(piece)


def _wait(server: Server, reply: Reply) -> Reply:
    path, _, query = str(reply.envelope["operation"]).partition("?")
    finished = server.query("GET", f"{path}/wait" + (f"?{query}" if query else ""))
    if isinstance(finished.metadata, dict) and finished.metadata.get("err"):
        raise CorralError(str(finished.metadata["err"]))
    return finished


def pretty(value: Any, *, sort_keys: bool = True) -> str:
    """JSON with tabs and the line's end that the encoder adds."""
    import json

    text = json.dumps(value, indent="\t", sort_keys=sort_keys, ensure_ascii=False)
    return text + "\n"


COMMAND = Command(
    "query [<remote>:]<API path>",
    "Send a raw query to {title}",
    run,
    (1, 1),
    hidden=True,
    examples="""{client} query -X DELETE --wait /1.0/instances/c1
    Delete local instance "c1".""",
    flags=(
        switch("wait", "Wait for the operation to complete"),
        switch("raw", "Print the raw response"),
        text("request", "Action (defaults to GET)", "X", "GET"),
        text("data", "Input data", "d"),
    ),
)
