"""`profile`: profiles and which instances use them."""

from __future__ import annotations

from corral.cli import keyed, table
from corral.cli.command import ANY_NUMBER_OF, FORMAT, Command, Invocation, switch, text
from corral.cli.commands.config import update_instance
from corral.cli.commands.config_device import device_command
from corral.cli.keyed import Kind, bind
from corral.cli.records import PROFILE, PROFILE_WRITABLE
from corral.cli.session import Resource, order, pick
from corral.client.server import ApiError, escape
from corral.errors import CorralError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

KIND = Kind(
    "/profiles",
    "Missing profile name",
    PROFILE,
    PROFILE_WRITABLE,
    """This is a YAML representation of the profile.
Any line starting with a '#' will be ignored.

A profile consists of a set of configuration items followed by a set of
devices.

An example would look like:
name: onenic
config:
  raw.lxc: lxc.aa_profile=unconfined
devices:
  eth0:
    nictype: bridged
    parent: br0
    type: nic

Note that the name is shown but cannot be changed""",
)


def _instance(invocation: Invocation) -> tuple[Resource, dict[str, Any], str]:
    resource = invocation.session.resource(invocation.args[0], "Missing instance name")
    body, etag = resource.server.get_tagged(f"/instances/{escape(resource.name)}")
    body["profiles"] = body.get("profiles") or []
    return resource, body, etag


def add(invocation: Invocation) -> int:
    """Add a profile to an instance."""
    resource, body, etag = _instance(invocation)
    profile = invocation.args[1]
    body["profiles"].append(profile)
    update_instance(resource.server, resource.name, body, etag)
    invocation.session.say(f"Profile {profile} added to {resource.name}")
    return 0


def assign(invocation: Invocation) -> int:
    """Replace the profiles of an instance."""
    resource, body, etag = _instance(invocation)
    profiles = invocation.args[1]
    body["profiles"] = profiles.split(",") if profiles else None
    update_instance(resource.server, resource.name, body, etag)
    invocation.session.say(f"Profiles {profiles or '(none)'} applied to {resource.name}")
    return 0


def remove(invocation: Invocation) -> int:
    """Remove a profile from an instance."""
    resource, body, etag = _instance(invocation)
    profile = invocation.args[1]
    if profile not in body["profiles"]:
        raise CorralError(f"Profile {profile} isn't currently applied to {resource.name}")
    body["profiles"] = [name for name in body["profiles"] if name != profile]
    update_instance(resource.server, resource.name, body, etag)
    invocation.session.say(f"Profile {profile} removed from {resource.name}")
    return 0


def copy(invocation: Invocation) -> int:
    """Copy a profile, also to another server or project."""
    source = invocation.session.resource(invocation.args[0], "Missing source profile name")
    target = invocation.session.resource(invocation.args[1])
    server = target.server
    if invocation.text("target-project"):
        server = server.with_project(invocation.text("target-project"))
    body = source.server.get(f"/profiles/{escape(source.name)}")
    record, name = pick(body, PROFILE_WRITABLE), target.name or source.name
    if invocation.switch("refresh"):
        try:
            server.put(f"/profiles/{escape(name)}", record)
        except ApiError as error:
            if error.status != 404:
                raise
        else:
            return 0
    server.post("/profiles", {**record, "name": name})
    return 0


def create(invocation: Invocation) -> int:
    """Create an empty profile."""
    resource = invocation.session.resource(invocation.args[0], "Missing profile name")
    resource.server.post("/profiles", {"name": resource.name, "config": {}, "description": "", "devices": {}})
    invocation.session.say(f"Profile {resource.name} created")
    return 0


def list_profiles(invocation: Invocation) -> int:
    """List the profiles."""
    profiles = invocation.session.server(invocation.arg(0)).get("/profiles", {"recursion": "1"}) or []
    rows = [[entry["name"], entry["description"], str(len(entry.get("used_by") or ()))] for entry in profiles]
    table.sort_rows(rows)
    header = ["NAME", "DESCRIPTION", "USED BY"]
    table.show(invocation.text("format"), header, rows, [order(entry, PROFILE) for entry in profiles])
    return 0


_ONE = "[<remote>:]<profile>"

COMMAND = Command(
    "profile",
    "Manage profiles",
    commands=(
        Command("add [<remote>:]<instance> <profile>", "Add profiles to instances", add, (2, 2)),
        Command(
            "assign [<remote>:]<instance> <profiles>",
            "Assign sets of profiles to instances",
            assign,
            (2, 2),
            aliases=("apply",),
            examples="""{client} profile assign foo default,bar
    Have "foo" use the profiles "default" and "bar".

{client} profile assign foo ''
    Remove all profiles from "foo".""",
        ),
        Command(
            f"copy {_ONE} {_ONE}",
            "Copy profiles",
            copy,
            (2, 2),
            aliases=("cp",),
            flags=(
                switch("refresh", "Update the target profile from the source if it already exists"),
                text("target-project", "Copy to a project different from the source"),
            ),
        ),
        Command(f"create {_ONE}", "Create profiles", create, (1, 1)),
        Command(f"delete {_ONE}", "Delete profiles", bind(keyed.delete, KIND, "Profile"), (1, 1), aliases=("rm",)),
        device_command("profile"),
        Command(
            f"edit {_ONE}",
            "Edit profile configurations as YAML",
            bind(keyed.edit, KIND),
            (1, 1),
            examples="{client} profile edit <profile> < profile.yaml\n    Update a profile from profile.yaml.",
        ),
        Command(
            f"get {_ONE} <key>",
            "Get values for profile configuration keys",
            bind(keyed.get, KIND, empty_line=True),
            (2, 2),
            flags=(keyed.PROPERTY,),
        ),
        Command("list [<remote>:]", "List profiles", list_profiles, (0, 1), aliases=("ls",), flags=(FORMAT,)),
        Command("remove [<remote>:]<instance> <profile>", "Remove profiles from instances", remove, (2, 2)),
        Command(
            f"rename {_ONE} <new-name>", "Rename profiles", bind(keyed.rename, KIND, "Profile"), (2, 2), aliases=("mv",)
        ),
        Command(
            f"set {_ONE} <key><value>...",
            "Set profile configuration keys",
            bind(keyed.set_keys, KIND),
            (2, ANY_NUMBER_OF),
            flags=(keyed.PROPERTY,),
            long=f"""Set profile configuration keys

A single key may also be set with:
    {{client}} profile set {_ONE} <key> <value>""",
        ),
        Command(f"show {_ONE}", "Show profile configurations", bind(keyed.show, KIND), (1, 1)),
        Command(
            f"unset {_ONE} <key>",
            "Unset profile configuration keys",
            bind(keyed.unset_key, KIND),
            (2, 2),
            flags=(keyed.PROPERTY,),
        ),
    ),
)
