"""`config template`: the file templates of an instance."""

from __future__ import annotations

from corral.cli import output, table
from corral.cli.command import FORMAT, Command, Invocation
from corral.cli.session import Resource, read_stdin, stdin_is_terminal
from corral.client.server import escape, parse_reply


def _locate(invocation: Invocation) -> Resource:
    return invocation.session.resource(invocation.args[0], "Missing instance name")


def _target(resource: Resource, template: str) -> str:
    return resource.server.path(f"/instances/{escape(resource.name)}/metadata/templates", {"path": template})


def _write(resource: Resource, template: str, content: bytes) -> None:
    target = _target(resource, template)
    headers = {"Content-Type": "application/octet-stream"}
    response = resource.server.request("POST", target, content, headers)
    parse_reply(response, resource.server.base_url + target)


def _read(resource: Resource, template: str) -> bytes:
    target = _target(resource, template)
    response = resource.server.request("GET", target)
    if response.status != 200:
        parse_reply(response, resource.server.base_url + target)
    return response.read()


def create(invocation: Invocation) -> int:
    """Create an empty template."""
    _write(_locate(invocation), invocation.args[1], b"")
    return 0


def delete(invocation: Invocation) -> int:
    """Delete a template."""
    resource = _locate(invocation)
    resource.server.query("DELETE", _target(resource, invocation.args[1]))
    return 0


def edit(invocation: Invocation) -> int:
    """Edit a template, or replace it from standard input."""
    from corral.cli.editor import edit_loop

    resource, template = _locate(invocation), invocation.args[1]
    if not stdin_is_terminal():
        _write(resource, template, read_stdin())
        return 0
    content = _read(resource, template).decode("utf-8", "surrogateescape")
    edit_loop(
        content,
        lambda edited: _write(resource, template, edited.encode("utf-8", "surrogateescape")),
        "Error updating template file",
    )
    return 0


def list_templates(invocation: Invocation) -> int:
    """List the templates."""
    resource = _locate(invocation)
    names = resource.server.get(f"/instances/{escape(resource.name)}/metadata/templates") or []
    rows = [[name] for name in names]
    table.sort_rows(rows)
    table.show(invocation.text("format"), ["FILENAME"], rows, names)
    return 0


def show(invocation: Invocation) -> int:
    """Print a template."""
    output.write_bytes(_read(_locate(invocation), invocation.args[1]))
    return 0


_ONE = "[<remote>:]<instance> <template>"

COMMAND = Command(
    "template",
    "Manage instance file templates",
    commands=(
        Command(f"create {_ONE}", "Create new instance file templates", create, (2, 2)),
        Command(f"delete {_ONE}", "Delete instance file templates", delete, (2, 2), aliases=("rm",)),
        Command(f"edit {_ONE}", "Edit instance file templates", edit, (2, 2)),
        Command("list [<remote>:]<instance>", "List instance file templates", list_templates, (1, 1), flags=(FORMAT,)),
        Command(f"show {_ONE}", "Show content of instance file templates", show, (2, 2)),
    ),
)
