"""Commands that are the same for every record of the API that has a config: show, edit, get, set, unset.

A `Kind` says where the records are and what they are called; the functions here do the rest.
"""

from __future__ import annotations

from corral.cli import output
from corral.cli.command import switch
from corral.cli.session import order, parse_settings, pick
from corral.client.server import escape
from corral.errors import CorralError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from corral.cli.command import Invocation
    from corral.client.server import Server


class Kind:
    """A sort of record: its path below /1.0, the error where its name is missing, its fields, and its edit header.

    `check` refuses records that cannot be changed; `sorts_users` has `show` sort what uses the record.
    """

    def __init__(
        self,
        path: str,
        missing: str,
        fields: tuple[str, ...],
        writable: tuple[str, ...],
        header: str = "",
    ) -> None:
        self.path = path
        self.missing = missing
        self.fields = fields
        self.writable = writable
        self.header = header
        self.check: Callable[[dict[str, Any]], None] | None = None
        self.sorts_users = False

    def locate(self, invocation: Invocation) -> tuple[Server, str, str]:
        """(Server, path, name) of the record that the first argument names."""
        resource = invocation.session.resource(invocation.args[0], self.missing)
        server = resource.server
        target = str(invocation.values.get("target") or "")
        if target:
            server = server.with_target(target)
        return server, f"{self.path}/{escape(resource.name)}", resource.name


PROPERTY = switch("property", "The key is a field of the record itself, as its description is", "p")
"""For get, set and unset."""


def wants_property(invocation: Invocation) -> bool:
    """Whether a field of the record is meant rather than a config key."""
    return bool(invocation.values.get("property"))


def show_field(record: dict[str, Any], writable: tuple[str, ...], key: str, what: str) -> None:
    """Print a field that can be changed; what has parts is printed as YAML."""
    from corral.client.yaml_output import render_yaml

    if key not in writable:
        raise CorralError(f'The property "{key}" does not exist on the {what}')
    value = record.get(key)
    if isinstance(value, dict | list):
        output.write(render_yaml(value))
    else:
        output.line(str(value).lower() if isinstance(value, bool) else "" if value is None else str(value))


def set_fields(record: dict[str, Any], settings: dict[str, str], what: str) -> None:
    """Give fields of a record new values, of the types that they have; an empty text empties a field."""
    for key, text in settings.items():
        if key not in record or isinstance(record[key], dict | list):
            known = ", ".join(name for name, value in record.items() if not isinstance(value, dict | list))
            raise CorralError(f'The property "{key}" of the {what} cannot be set from text: use one of {known}')
        if isinstance(record[key], bool):
            if text.lower() not in ("", "true", "false", "1", "0"):
                raise CorralError(f'The property "{key}" of the {what} is true or false, not "{text}"')
            record[key] = text.lower() in ("true", "1")
        else:
            record[key] = text


def show(kind: Kind, invocation: Invocation) -> int:
    """Print a record as YAML."""
    from corral.client.yaml_output import render_yaml

    server, path, _ = kind.locate(invocation)
    body = order(server.get(path), kind.fields)
    if body.get("used_by") and kind.sorts_users:
        body["used_by"] = sorted(body["used_by"])
    output.write(render_yaml(body))
    return 0


def get(kind: Kind, invocation: Invocation, *, empty_line: bool = False) -> int:
    """Print the value of a config key; an unset one prints nothing, or an empty line."""
    server, path, name = kind.locate(invocation)
    key = invocation.args[1]
    if wants_property(invocation):
        show_field(server.get(path), kind.writable, key, f'{path.split("/")[1].rstrip("s")} "{name}"')
        return 0
    config = server.get(path).get("config") or {}
    if key in config or empty_line:
        output.line(str(config.get(key, "")))
    return 0


def set_keys(kind: Kind, invocation: Invocation) -> int:
    """Set config keys."""
    server, path, name = kind.locate(invocation)
    body, etag = server.get_tagged(path)
    if kind.check:
        kind.check(body)
    settings = parse_settings(invocation.args[1:])
    record = pick(body, kind.writable)
    if wants_property(invocation):
        set_fields(record, settings, f'{path.split("/")[1].rstrip("s")} "{name}"')
    else:
        record["config"] = {**(record.get("config") or {}), **settings}
    server.put(path, record, etag)
    return 0


def unset_key(kind: Kind, invocation: Invocation) -> int:
    """Unset a config key."""
    invocation.args = [*invocation.args, ""]
    return set_keys(kind, invocation)


def edit(kind: Kind, invocation: Invocation) -> int:
    """Edit a record as YAML."""
    from corral.cli.editor import edit_record
    from corral.client.yaml_input import parse_record
    from corral.client.yaml_output import render_yaml

    server, path, _ = kind.locate(invocation)

    def fetch() -> tuple[str, str]:
        body, etag = server.get_tagged(path)
        if kind.check:
            kind.check(body)
        return render_yaml(order(body, kind.fields)), etag

    def store(content: str, etag: str) -> None:
        server.put(path, parse_record(content, kind.writable), etag)

    edit_record(kind.header, fetch, store)
    return 0


def delete(kind: Kind, invocation: Invocation, noun: str) -> int:
    """Delete a record."""
    server, path, name = kind.locate(invocation)
    server.delete(path)
    invocation.session.say(f"{noun} {name} deleted")
    return 0


def rename(kind: Kind, invocation: Invocation, noun: str) -> int:
    """Give a record another name."""
    server, path, name = kind.locate(invocation)
    server.post(path, {"name": invocation.args[1]})
    invocation.session.say(f"{noun} {name} renamed to {invocation.args[1]}")
    return 0


def bind(function: Callable[..., int], *args: Any, **options: Any) -> Callable[[Invocation], int]:
    """A command's function for one kind of record."""
    kind, *rest = args
    return lambda invocation: function(kind, invocation, *rest, **options)


def pairs(args: list[str], message: str) -> dict[str, str]:
    """Config from `key=value` arguments."""
    config = {}
    for argument in args:
        key, equals, value = argument.partition("=")
        if not equals:
            raise CorralError(f"{message}: {argument}")
        config[key] = value
    return config
