"""`config`: the configuration of the server and of instances."""

from __future__ import annotations

from corral.cli import keyed, output
from corral.cli.command import ANY_NUMBER_OF, TARGET, Command, Invocation, switch
from corral.cli.records import (
    INSTANCE,
    INSTANCE_OMITTED,
    INSTANCE_WRITABLE,
    SERVER_WRITABLE,
    SNAPSHOT,
    SNAPSHOT_WRITABLE,
)
from corral.cli.session import Resource, order, parse_settings, pick
from corral.client.server import escape
from corral.errors import CorralError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corral.client.server import Server

_HEADER = """This is a YAML representation of the configuration.
Any line starting with a '#' will be ignored.

A sample configuration looks like:
name: instance1
profiles:
- default
config:
  volatile.eth0.hwaddr: 00:16:3e:e9:f8:7f
devices:
  homedir:
    path: /extra
    source: /home/user
    type: disk
ephemeral: false

Note that the name is shown but cannot be changed"""


def _locate(invocation: Invocation, argument: str) -> Resource:
    """The instance or the server that an argument means; a member only for a server."""
    resource = invocation.session.resource(argument)
    target = invocation.text("target")
    if target and resource.name:
        raise CorralError("--target cannot be used with instances")
    if target:
        resource.server.require_cluster()
        resource.server = resource.server.with_target(target)
    return resource


def _path(name: str) -> str:
    instance, slash, snapshot = name.partition("/")
    return f"/instances/{escape(instance)}" + (f"/snapshots/{escape(snapshot)}" if slash else "")


def show(invocation: Invocation) -> int:
    """Print a configuration as YAML."""
    from corral.client.yaml_output import render_yaml

    resource = _locate(invocation, invocation.arg(0))
    expanded = invocation.switch("expanded")
    if not resource.name:
        if expanded:
            raise CorralError("--expanded cannot be used with a server")
        body = resource.server.get("")
        output.write(render_yaml({"config": body.get("config") or {}}))
        return 0
    body = resource.server.get(_path(resource.name))
    if expanded:
        body["config"], body["devices"] = body["expanded_config"], body["expanded_devices"]
    is_snapshot = "/" in resource.name
    shown = order(body, SNAPSHOT, INSTANCE_OMITTED) if is_snapshot else pick(body, INSTANCE_WRITABLE)
    output.write(render_yaml(shown))
    return 0


def _fields_of(resource: Resource) -> tuple[dict[str, Any], tuple[str, ...], str]:
    """An instance or snapshot, which of its fields can be changed, and its ETag."""
    if not resource.name:
        raise CorralError("--property cannot be used with a server")
    writable = SNAPSHOT_WRITABLE if "/" in resource.name else INSTANCE_WRITABLE
    body, etag = resource.server.get_tagged(_path(resource.name))
    return body, writable, etag


def get(invocation: Invocation) -> int:
    """Print the value of a key."""
    args = invocation.args
    resource = _locate(invocation, args[0] if len(args) > 1 else "")
    key = args[-1]
    if keyed.wants_property(invocation):
        record, writable, _ = _fields_of(resource)
        keyed.show_field(record, writable, key, f'instance "{resource.name}"')
        return 0
    if resource.name:
        field = "expanded_config" if invocation.switch("expanded") else "config"
        output.line(str((resource.server.get(_path(resource.name))[field] or {}).get(key, "")))
        return 0
    if invocation.switch("expanded"):
        raise CorralError("--expanded cannot be used with a server")
    value = (resource.server.get("").get("config") or {}).get(key)
    output.line("" if value is None else str(value).lower() if isinstance(value, bool) else str(value))
    return 0


def _names_server_only(args: list[str]) -> bool:
    """Whether the first argument is already a key: the server is meant, and no remote is named."""
    if all("=" in argument for argument in args):
        return True
    first = args[0]
    if "." in (first.partition(":")[2] if ":" in first else first):
        return True
    return len(args) == 2 and not any("=" in argument for argument in args)


def set_keys(invocation: Invocation) -> int:
    """Set keys of an instance or of the server."""
    return _change(invocation, invocation.args, unset=False)


def unset(invocation: Invocation) -> int:
    """Unset a key of an instance or of the server."""
    return _change(invocation, [*invocation.args, ""], unset=True)


def _change(invocation: Invocation, args: list[str], *, unset: bool) -> int:
    server_only = _names_server_only(args)
    resource = _locate(invocation, "" if server_only else args[0])
    settings = args if server_only else args[1:]
    if keyed.wants_property(invocation):
        record, writable, etag = _fields_of(resource)
        record = pick(record, writable)
        keyed.set_fields(record, parse_settings(settings), f'instance "{resource.name}"')
        resource.server.run("PUT", _path(resource.name), record, etag)
        return 0
    if resource.name:
        _change_instance(resource, parse_settings(settings), unset=unset)
        return 0
    body, etag = resource.server.get_tagged("")
    config = {**(body.get("config") or {}), **parse_settings(settings)}
    resource.server.put("", {"config": config}, etag)
    return 0


def _change_instance(resource: Resource, settings: dict[str, str], *, unset: bool) -> None:
    body, etag = resource.server.get_tagged(_path(resource.name))
    config = body["config"] or {}
    for key, value in settings.items():
        if not unset:
            config[key] = value
        elif key in config:
            del config[key]
        else:
            raise CorralError(f"Can't unset key '{key}', it's not currently set")
    body["config"] = config
    update_instance(resource.server, resource.name, body, etag)


def update_instance(server: Server, name: str, body: dict[str, Any], etag: str) -> None:
    """Write the changed instance back and wait."""
    server.run("PUT", f"/instances/{escape(name)}", pick(body, INSTANCE_WRITABLE), etag)


def edit(invocation: Invocation) -> int:
    """Edit a configuration as YAML."""
    from corral.cli.editor import edit_record
    from corral.client.yaml_input import parse_record
    from corral.client.yaml_output import render_yaml

    resource = _locate(invocation, invocation.arg(0))
    server, name = resource.server, resource.name
    path = _path(name) if name else ""
    is_snapshot = "/" in name
    writable = SNAPSHOT_WRITABLE if is_snapshot else INSTANCE_WRITABLE if name else SERVER_WRITABLE

    def fetch() -> tuple[str, str]:
        body, etag = server.get_tagged(path)
        if not name:
            return render_yaml({"config": body.get("config") or {}}), etag
        for field in INSTANCE_OMITTED:
            body.pop(field, None)
        return render_yaml(order(body, SNAPSHOT if is_snapshot else INSTANCE)), etag

    def store(content: str, etag: str) -> None:
        record = parse_record(content, writable)
        if is_snapshot and not record.get("expires_at"):
            record["expires_at"] = "0001-01-01T00:00:00Z"
        if name:
            server.run("PUT", path, record, etag)
        else:
            server.put(path, record, etag)

    edit_record(_HEADER if name else "", fetch, store)
    return 0


def _commands() -> tuple[Command, ...]:
    from corral.cli.commands import config_device, config_metadata, config_template, config_trust

    return (config_device.COMMAND, config_metadata.COMMAND, config_template.COMMAND, config_trust.COMMAND)


_EXPANDED = switch("expanded", "Use the expanded configuration", "e")

COMMAND = Command(
    "config",
    "Manage instance and server configuration options",
    commands=(
        Command(
            "edit [<remote>:][<instance>[/<snapshot>]]",
            "Edit instance or server configurations as YAML",
            edit,
            (0, 1),
            flags=(TARGET,),
            examples="{client} config edit <instance> < instance.yaml\n    Update the instance from instance.yaml.",
        ),
        Command(
            "get [<remote>:][<instance>] <key>",
            "Get values for instance or server configuration keys",
            get,
            (1, 2),
            flags=(_EXPANDED, keyed.PROPERTY, TARGET),
        ),
        Command(
            "set [<remote>:][<instance>] <key>=<value>...",
            "Set instance or server configuration keys",
            set_keys,
            (1, ANY_NUMBER_OF),
            flags=(keyed.PROPERTY, TARGET),
            long="""Set instance or server configuration keys

A single key may also be set with:
    {client} config set [<remote>:][<instance>] <key> <value>""",
            examples="""{client} config set [<remote>:]<instance> limits.cpu=2
    Give the instance two CPUs.

{client} config set core.https_address=[::]:8443
    Have the server listen on port 8443, IPv4 and IPv6.""",
        ),
        Command(
            "show [<remote>:][<instance>[/<snapshot>]]",
            "Show instance or server configurations",
            show,
            (0, 1),
            flags=(_EXPANDED, TARGET),
        ),
        Command(
            "unset [<remote>:][<instance>] <key>",
            "Unset instance or server configuration keys",
            unset,
            (1, 2),
            flags=(keyed.PROPERTY, TARGET),
        ),
        *_commands(),
    ),
)
