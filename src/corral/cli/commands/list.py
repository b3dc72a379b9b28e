"""`list`: the instances, in columns of the user's choice, filtered by the server where it can and here elsewhere."""

from __future__ import annotations

from corral.cli import table
from corral.cli.command import ANY_NUMBER_OF, FORMAT, Command, Invocation, switch, text
from corral.cli.commands.list_columns import DEFAULT_ALL_PROJECTS, DEFAULT_COLUMNS, parse_columns
from corral.errors import CorralError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corral.client.server import Server

# The fields that the server filters by; nested ones and lists of values are filtered here.
_SERVER_FIELDS = frozenset(
    [
        "architecture",
        "ephemeral",
        "stateful",
        "description",
        "created_at",
        "name",
        "status",
        "status_code",
        "last_used_at",
        "location",
        "type",
        "project",
    ]
)


def run(invocation: Invocation) -> int:
    """List the instances."""
    session = invocation.session
    all_projects = invocation.switch("all-projects")
    if session.project and all_projects:
        raise CorralError("Can't specify --project with --all-projects")
    remote, filters = _split_arguments(invocation)
    server = session.remotes.server(remote)
    text_of_columns = _column_text(invocation, all_projects)
    is_default = text_of_columns in (DEFAULT_COLUMNS, DEFAULT_ALL_PROJECTS)
    if "L" in text_of_columns and not is_default and not server.is_clustered:
        raise CorralError("Can't specify column L when not clustered")
    shown_format = invocation.text("format")
    columns = parse_columns(text_of_columns)
    needs_state = any(column.needs_state for column in columns)
    server_filters = [entry for entry in filters if _is_for_server(entry)]
    instances = _fetch(server, server_filters, all_projects, full=needs_state)
    client_filters = [entry for entry in filters if entry not in server_filters]
    if client_filters:
        from corral.cli.commands.list_filters import matches

        if not needs_state and any(entry.startswith(("ipv4=", "ipv6=")) for entry in client_filters):
            instances = _fetch(server, server_filters, all_projects, full=True)
        instances = [instance for instance in instances if matches(client_filters, instance)]
    if is_default and not _is_clustered(server, instances):
        columns = [column for column in columns if column.name != "LOCATION"]
    rows = [[column.render(instance) for column in columns] for instance in instances]
    table.sort_rows(rows)
    table.show(shown_format, [column.name for column in columns], rows, _raw(shown_format, instances))
    return 0


def _split_arguments(invocation: Invocation) -> tuple[str, list[str]]:
    """(Remote, filters): the first argument may be `[<remote>:][<name>]`."""
    remotes = invocation.session.remotes
    args = invocation.args
    if not args or "=" in args[0]:
        return remotes.default_remote, args
    if ":" not in args[0]:
        return remotes.default_remote, [*args, args[0]]
    remote, name = remotes.parse(args[0])
    return remote, args[1:] + ([name] if name else [])


def _column_text(invocation: Invocation, all_projects: bool) -> str:
    chosen = invocation.text("columns")
    if all_projects and chosen == DEFAULT_COLUMNS:
        chosen = DEFAULT_ALL_PROJECTS
    if not invocation.switch("fast"):
        return chosen
    if chosen not in (DEFAULT_COLUMNS, DEFAULT_ALL_PROJECTS):
        raise CorralError("Can't specify --fast with --columns")
    return "ensacPt" if all_projects else "nsacPt"


def _is_for_server(entry: str) -> bool:
    field, equals, value = entry.partition("=")
    return bool(equals) and field in _SERVER_FIELDS and "," not in value


def _is_clustered(server: Server, instances: list[dict[str, Any]]) -> bool:
    """Whether to show locations. An instance that is not in a cluster says so, which spares a question."""
    if instances:
        return any(instance.get("location") not in ("none", "", None) for instance in instances)
    return server.is_clustered


def _fetch(server: Server, filters: list[str], all_projects: bool, *, full: bool) -> list[dict[str, Any]]:
    query = {"recursion": "2" if full else "1"}
    if filters:
        query["filter"] = " and ".join(entry.replace("=", " eq ", 1) for entry in filters)
    if all_projects:
        query["all-projects"] = "true"
    return server.get("/instances", query) or []


def _raw(shown_format: str, instances: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if shown_format not in ("json", "yaml"):
        return []
    from corral.cli.records import INSTANCE_FULL, INSTANCE_OMITTED
    from corral.cli.session import order

    filled = [{"backups": None, "state": None, "snapshots": None, **instance} for instance in instances]
    return [order(instance, INSTANCE_FULL, INSTANCE_OMITTED) for instance in filled]


COMMAND = Command(
    "list [<remote>:] [<filter>...]",
    "List instances",
    run,
    (0, ANY_NUMBER_OF),
    aliases=("ls",),
    long="""List instances

Default column layout: ns46tS
Fast column layout: nsacPt

== Filters ==
A filter is one of:
  - a word: instances whose name starts with it, or matches it as a regular expression
  - a config key and a value, "user.role=web"; each part of the key may be shortened, "u.role=web", and the
    value may be a regular expression
  - one of the shorthands type, status, architecture, location, ipv4 and ipv6 with a value or several of them
    separated by commas, "type=container status=running,frozen"; ipv4 and ipv6 take an address or a CIDR

An instance is listed when all filters match it.

== Columns ==
The -c option takes columns for the table, compact and csv formats: shorthand characters, which may stand together,
and config keys, all separated by commas.

Column shorthand characters:
  4 - IPv4 address
  6 - IPv6 address
  a - Architecture
  b - Storage pool
  c - Creation date
  d - Description
  D - Disk usage
  e - Project name
  f - Base image fingerprint (short)
  F - Base image fingerprint (long)
  l - Last used date
  L - Location of the instance (e.g. its cluster member)
  m - Memory usage
  M - Memory usage (%)
  n - Name
  N - Number of processes
  p - PID of the instance's init process
  P - Profiles
  s - State
  S - Number of snapshots
  t - Type (persistent or ephemeral)
  u - CPU usage (in seconds)

A column of a key is "[config:|devices:]key[:name][:maxWidth]":
  key: the (expanded) config or device key, config unless said otherwise
  name: the column's heading, by default the key
  maxWidth: longer values are cut; -1 (the default) is unlimited, 0 is as wide as the heading""",
    examples="""{client} list -c nFs46,volatile.eth0.hwaddr:MAC,config:image.os,devices:eth0.parent:ETHP
  Instances with their base image, state, addresses, MAC address, system and the bridge of eth0.

{client} list -c ns,user.comment:comment
  Instances with their state and user comment.""",
    flags=(
        text("columns", "Columns", "c", DEFAULT_COLUMNS),
        FORMAT,
        switch("fast", "Fast mode (same as --columns=nsacPt)"),
        switch("all-projects", "Display instances from all projects"),
    ),
)
