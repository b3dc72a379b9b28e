"""`monitor`: the events of a server as they happen."""

from __future__ import annotations

from corral.cli import output, table
from corral.cli.command import Command, Invocation, switch, text, texts
from corral.client import codec
from corral.errors import CorralError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_LEVELS = ("panic", "fatal", "error", "warning", "info", "debug", "trace")
_LEVEL_NAMES = {"warn": "warning", "eror": "error", "dbug": "debug", "crit": "fatal"}


def run(invocation: Invocation) -> int:
    """Print events until the server ends the stream."""
    from corral.client.websocket import open_websocket

    style = invocation.text("format")
    if style not in ("json", "pretty", "yaml"):
        raise CorralError(f"Invalid format: {style}")
    style = "pretty" if invocation.switch("pretty") else style
    level = invocation.text("loglevel")
    if level and style != "pretty":
        raise CorralError("Log level filtering can only be used with pretty formatting")
    server = invocation.session.server(invocation.arg(0))
    query = {"all-projects": "true"} if invocation.switch("all-projects") else {}
    events = open_websocket(server.connection, server.path("/events", query))
    wanted = invocation.texts("type")
    lowest = _level_index(level) if level else _LEVELS.index("debug")
    while events.is_open:
        for _, payload in events.messages():
            event = codec.decode(payload.decode())
            if isinstance(event, dict) and event.get("type") and (not wanted or event["type"] in wanted):
                _print(event, style, lowest)
                output.flush()
    raise CorralError("The server closed the stream of events")


def _level_index(level: str) -> int:
    name = _LEVEL_NAMES.get(level.lower(), level.lower())
    if name not in _LEVELS:
        raise CorralError(f'not a valid logrus Level: "{level}"')
    return _LEVELS.index(name)


def _print(event: dict[str, Any], style: str, lowest: int) -> None:
    if style == "pretty":
        line = format_pretty(event, lowest)
        if line:
            output.line(line)
    elif style == "yaml":
        from corral.client.yaml_output import render_yaml

        output.line(render_yaml(_sorted(event), any_value=True) + "\n")
    else:
        output.line(table.render_json(_sorted(event)))


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(entry) for entry in value] if isinstance(value, list) else value


def format_pretty(event: dict[str, Any], lowest: int) -> str:
    """One line of a log for an event, or nothing where its level is below the wanted one."""
    metadata = event.get("metadata") or {}
    kind = event["type"]
    context: dict[str, Any] = {}
    if kind == "logging":
        level, message = str(metadata.get("level", "info")), str(metadata.get("message", ""))
        context = metadata.get("context") or {}
    elif kind == "lifecycle":
        level = "info"
        message = f"Action: {metadata.get('action')}, Source: {metadata.get('source')}"
        if metadata.get("requestor"):
            requestor = metadata["requestor"]
            message += f", Requestor: {requestor['protocol']}/{requestor['username']} ({requestor['address']})"
        context = metadata.get("context") or {}
    elif kind == "operation":
        level = "info"
        message = (
            f"ID: {metadata.get('id')}, Class: {metadata.get('class')}, Description: {metadata.get('description')}"
        )
        context = {
            "CreatedAt": metadata.get("created_at"),
            "Err": metadata.get("err"),
            "Location": metadata.get("location"),
            "MayCancel": str(metadata.get("may_cancel")).lower(),
            "Metadata": metadata.get("metadata"),
            "Resources": metadata.get("resources"),
            "Status": metadata.get("status"),
            "StatusCode": metadata.get("status"),
            "UpdatedAt": metadata.get("updated_at"),
        }
    else:
        raise CorralError(f"Not supported event type: {kind}")
    if _level_index(level) > lowest:
        return ""
    return _format_line(str(event.get("timestamp", "")), level, message, context)


def _format_line(timestamp: str, level: str, message: str, context: dict[str, Any]) -> str:
    name = _LEVEL_NAMES.get(level.lower(), level.lower())
    offset = "Z" if timestamp.endswith("Z") else timestamp[-6:]
    moment = timestamp.removesuffix(offset).partition(".")[0]
    line = f"{name.upper():<7} [{moment}{offset}] {message:<44}"
    pairs = "".join(f" {key}={_quoted(context[key])}" for key in sorted(context))
    return line + pairs if pairs else line.rstrip()


def _quoted(value: Any) -> str:
    shown = value if isinstance(value, str) else codec.encode(value)
    plain = all(letter.isalnum() or letter in "-._/@^+" for letter in shown) and shown
    return shown if plain else codec.encode(shown)


COMMAND = Command(
    "monitor [<remote>:]",
    "Monitor a local or remote {title} server",
    run,
    (0, 1),
    hidden=True,
    long="Monitor a local or remote {title} server\n\nEvents of all types are shown unless types are named.",
    examples="""{client} monitor --type=logging
    Only show log messages.

{client} monitor --pretty --type=logging --loglevel=info
    Show a pretty log of messages of info level or higher.

{client} monitor --type=lifecycle
    Only show lifecycle events.""",
    flags=(
        switch("pretty", "Pretty rendering (short for --format=pretty)"),
        switch("all-projects", "Show events from all projects"),
        texts("type", "Event type to listen for"),
        text("loglevel", "Minimum level for log messages (only available when using pretty format)"),
        text("format", "Format (json|pretty|yaml)", "f", "yaml"),
    ),
)
