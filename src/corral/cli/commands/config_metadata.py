"""`config metadata`: the image metadata that an instance was made with."""

from __future__ import annotations

from corral.cli import output
from corral.cli.command import Command, Invocation
from corral.cli.records import IMAGE_METADATA
from corral.cli.session import order
from corral.client.server import escape

_HEADER = """This is a YAML representation of the instance metadata.
Any line starting with a '#' will be ignored.

A sample configuration looks like:

architecture: x86_64
creation_date: 1477146654
expiry_date: 0
properties:
  architecture: x86_64
  description: BusyBox x86_64
  name: busybox-x86_64
  os: BusyBox
templates:
  /template:
    when:
    - ""
    create_only: false
    template: template.tpl
    properties: {}"""


def show(invocation: Invocation) -> int:
    """Print the metadata as YAML."""
    from corral.client.yaml_output import render_yaml

    resource = invocation.session.resource(invocation.args[0], "Missing instance name")
    output.write(render_yaml(order(resource.server.get(_path(resource.name)), IMAGE_METADATA)))
    return 0


def _path(name: str) -> str:
    return f"/instances/{escape(name)}/metadata"


def edit(invocation: Invocation) -> int:
    """Edit the metadata as YAML."""
    from corral.cli.editor import edit_record
    from corral.client.yaml_input import parse_record
    from corral.client.yaml_output import render_yaml

    resource = invocation.session.resource(invocation.args[0], "Missing instance name")
    path = _path(resource.name)

    def fetch() -> tuple[str, str]:
        body, etag = resource.server.get_tagged(path)
        return render_yaml(order(body, IMAGE_METADATA)), etag

    def store(content: str, etag: str) -> None:
        resource.server.put(path, parse_record(content, IMAGE_METADATA), etag)

    edit_record(_HEADER, fetch, store)
    return 0


COMMAND = Command(
    "metadata",
    "Manage instance metadata files",
    commands=(
        Command("edit [<remote>:]<instance>", "Edit instance metadata files", edit, (1, 1)),
        Command("show [<remote>:]<instance>", "Show instance metadata files", show, (1, 1)),
    ),
)
