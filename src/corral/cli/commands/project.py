"""`project`: projects, and which one is used when none is named."""

from __future__ import annotations

from corral.cli import keyed, table
from corral.cli.command import ANY_NUMBER_OF, FORMAT, Command, Invocation, texts
from corral.cli.keyed import Kind, bind
from corral.cli.records import PROJECT, PROJECT_WRITABLE
from corral.cli.session import order, split_pair
from corral.client.server import escape
from corral.errors import CorralError

KIND = Kind(
    "/projects",
    "Missing project name",
    PROJECT,
    PROJECT_WRITABLE,
    """This is a YAML representation of the project.
Any line starting with a '#' will be ignored.

A project consists of a set of features and a description.

An example would look like:
name: my-project
features:
  images: True
  profiles: True
description: My own project

Note that the name is shown but cannot be changed""",
)
_SIZES = ("memory", "disk")


def create(invocation: Invocation) -> int:
    """Create a project."""
    resource = invocation.session.resource(invocation.args[0], "Missing project name")
    config = dict(split_pair(entry, "Bad key=value pair") for entry in invocation.texts("config"))
    resource.server.post("/projects", {"name": resource.name, "config": config, "description": ""})
    invocation.session.say(f"Project {resource.name} created")
    return 0


def delete(invocation: Invocation) -> int:
    """Delete a project; one that is in use as the default makes way for `default`."""
    keyed.delete(KIND, invocation, "Project")
    remote, name = invocation.session.remotes.parse(invocation.args[0])
    remotes = invocation.session.remotes
    if remotes.remotes[remote].project == name:
        remotes.remotes[remote].project = ""
        remotes.save()
    return 0


def rename(invocation: Invocation) -> int:
    """Rename a project."""
    server, path, name = KIND.locate(invocation)
    server.run("POST", path, {"name": invocation.args[1]})
    invocation.session.say(f"Project {name} renamed to {invocation.args[1]}")
    return 0


def list_projects(invocation: Invocation) -> int:
    """List the projects, with what they have of their own."""
    resource = invocation.session.resource(invocation.arg(0))
    projects = resource.server.get("/projects", {"recursion": "1"}) or []
    current = resource.server.project or "default"
    rows = []
    for project in projects:
        config = project.get("config") or {}
        features = [
            "YES" if config.get(f"features.{feature}", "").lower() in ("true", "1", "yes", "on") else "NO"
            for feature in ("images", "profiles", "storage.volumes", "networks")
        ]
        name = project["name"] + (" (current)" if project["name"] == current else "")
        rows.append([name, *features, project["description"], str(len(project.get("used_by") or ()))])
    table.sort_rows(rows)
    header = ["NAME", "IMAGES", "PROFILES", "STORAGE VOLUMES", "NETWORKS", "DESCRIPTION", "USED BY"]
    table.show(invocation.text("format"), header, rows, [order(project, PROJECT) for project in projects])
    return 0


def switch_to(invocation: Invocation) -> int:
    """Make a project the default of its remote."""
    remotes = invocation.session.remotes
    remote, name = remotes.parse(invocation.args[0])
    if not name:
        raise CorralError("Missing project name")
    invocation.session.remotes.server(remote).get(f"/projects/{escape(name)}")
    remotes.remotes[remote].project = name
    remotes.save()
    return 0


def info(invocation: Invocation) -> int:
    """Show limits and usage."""
    from corral.units import format_size_iec

    server, path, _ = KIND.locate(invocation)
    resources = (server.get(f"{path}/state") or {}).get("resources") or {}
    rows = []
    for name, entry in resources.items():
        limit, usage = entry.get("Limit", -1), entry.get("Usage", 0)
        is_size = name in _SIZES
        shown_limit = "UNLIMITED" if limit < 0 else format_size_iec(limit) if is_size else str(limit)
        rows.append([name.upper(), shown_limit, format_size_iec(usage) if is_size else str(usage)])
    table.sort_rows(rows)
    shown: dict[str, object] = resources
    if invocation.text("format") == "yaml":
        # lxc writes the keys of this one so in YAML, and as they come in JSON.
        shown = {name: {key.lower(): value for key, value in entry.items()} for name, entry in resources.items()}
    table.show(invocation.text("format"), ["RESOURCE", "LIMIT", "USAGE"], rows, {"resources": shown})
    return 0


_ONE = "[<remote>:]<project>"

COMMAND = Command(
    "project",
    "Manage projects",
    commands=(
        Command(
            f"create {_ONE}",
            "Create projects",
            create,
            (1, 1),
            flags=(texts("config", "Config key/value to apply to the new project", "c"),),
        ),
        Command(f"delete {_ONE}", "Delete projects", delete, (1, 1), aliases=("rm",)),
        Command(
            f"edit {_ONE}",
            "Edit project configurations as YAML",
            bind(keyed.edit, KIND),
            (1, 1),
            examples="{client} project edit <project> < project.yaml\n    Update a project from project.yaml.",
        ),
        Command(
            f"get {_ONE} <key>",
            "Get values for project configuration keys",
            bind(keyed.get, KIND, empty_line=True),
            (2, 2),
            flags=(keyed.PROPERTY,),
        ),
        Command(f"info {_ONE}", "Get a summary of resource allocations", info, (1, 1), flags=(FORMAT,)),
        Command("list [<remote>:]", "List projects", list_projects, (0, 1), aliases=("ls",), flags=(FORMAT,)),
        Command(f"rename {_ONE} <new-name>", "Rename projects", rename, (2, 2), aliases=("mv",)),
        Command(
            f"set {_ONE} <key>=<value>...",
            "Set project configuration keys",
            bind(keyed.set_keys, KIND),
            (2, ANY_NUMBER_OF),
            flags=(keyed.PROPERTY,),
            long=f"""Set project configuration keys

A single key may also be set with:
    {{client}} project set {_ONE} <key> <value>""",
        ),
        Command(f"show {_ONE}", "Show project options", bind(keyed.show, KIND), (1, 1)),
        Command(f"switch {_ONE}", "Switch the current project", switch_to, (1, 1)),
        Command(
            f"unset {_ONE} <key>",
            "Unset project configuration keys",
            bind(keyed.unset_key, KIND),
            (2, 2),
            flags=(keyed.PROPERTY,),
        ),
    ),
)
