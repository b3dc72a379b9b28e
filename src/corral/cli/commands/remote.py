"""`remote`: the servers that the command line knows."""

from __future__ import annotations

import os

from corral.cli import output, table
from corral.cli.command import FORMAT, Command, Invocation, switch, text
from corral.client.remotes import SIMPLESTREAMS, Remote, Remotes
from corral.errors import CorralError


def _require(remotes: Remotes, name: str) -> Remote:
    remote = remotes.remotes.get(name)
    if remote is None:
        raise CorralError(f"Remote {name} doesn't exist")
    return remote


def _require_own(remotes: Remotes, name: str, change: str) -> Remote:
    """A remote that the user may change. Raises CorralError."""
    remote = _require(remotes, name)
    if remote.is_static:
        raise CorralError(f"Remote {name} is static and cannot be modified")
    if remote.is_global:
        raise CorralError(f"Remote {name} is global and cannot be {change}")
    return remote


def add(invocation: Invocation) -> int:
    """Add a remote."""
    from corral.cli.commands.remote_add import run

    return run(invocation)


def get_default(invocation: Invocation) -> int:
    """Print the default remote."""
    output.line(invocation.session.remotes.default_remote)
    return 0


def list_remotes(invocation: Invocation) -> int:
    """List the remotes."""
    remotes = invocation.session.remotes
    rows = []
    for name, remote in remotes.remotes.items():
        protocol = remote.protocol or "lxd"
        shown = f"{name} (current)" if name == remotes.default_remote else name
        flags = [_yes(remote.public), _yes(remote.is_static), _yes(remote.is_global)]
        rows.append([shown, remote.addr, protocol, _auth_type(remote, protocol), *flags])
    table.sort_rows(rows)
    header = ["NAME", "URL", "PROTOCOL", "AUTH TYPE", "PUBLIC", "STATIC", "GLOBAL"]
    raw = {
        name: {
            "Addr": remote.addr,
            "AuthType": remote.auth_type,
            "Domain": remote.domain,
            "Project": remote.project,
            "Protocol": remote.protocol,
            "Public": remote.public,
            "Global": remote.is_global,
            "Static": remote.is_static,
        }
        for name, remote in sorted(remotes.remotes.items())
    }
    if invocation.text("format") == "yaml":
        table.show("yaml", header, rows, {name: remotes.remotes[name].as_mapping() for name in raw})
    else:
        table.show(invocation.text("format"), header, rows, raw)
    return 0


def _yes(value: bool) -> str:
    return "YES" if value else "NO"


def _auth_type(remote: Remote, protocol: str) -> str:
    if remote.auth_type:
        return f"{remote.auth_type} ({remote.domain})" if remote.domain else remote.auth_type
    if remote.addr.startswith("unix:"):
        return "file access"
    return "none" if protocol == SIMPLESTREAMS else "tls"


def rename(invocation: Invocation) -> int:
    """Rename a remote."""
    remotes = invocation.session.remotes
    old, new = invocation.args
    remote = _require_own(remotes, old, "renamed")
    if new in remotes.remotes:
        raise CorralError(f"Remote {new} already exists")
    old_certificate = remotes.server_certificate_name(old)
    remotes.remotes[new] = remote
    del remotes.remotes[old]
    if os.path.exists(old_certificate):
        os.rename(old_certificate, remotes.server_certificate_name(new))
    if remotes.default_remote == old:
        remotes.default_remote = new
    remotes.save()
    return 0


def remove(invocation: Invocation) -> int:
    """Remove a remote."""
    remotes = invocation.session.remotes
    name = invocation.args[0]
    _require_own(remotes, name, "removed")
    if remotes.default_remote == name:
        raise CorralError("Can't remove the default remote")
    certificate = remotes.server_certificate_name(name)
    del remotes.remotes[name]
    if os.path.exists(certificate):
        os.unlink(certificate)
    remotes.save()
    return 0


def switch_to(invocation: Invocation) -> int:
    """Make a remote the default."""
    remotes = invocation.session.remotes
    _require(remotes, invocation.args[0])
    remotes.default_remote = invocation.args[0]
    remotes.save()
    return 0


def set_url(invocation: Invocation) -> int:
    """Change the URL of a remote."""
    remotes = invocation.session.remotes
    name, url = invocation.args
    _require_own(remotes, name, "modified").addr = url
    remotes.save()
    return 0


COMMAND = Command(
    "remote",
    "Manage the list of remote servers",
    commands=(
        Command(
            "add [<remote>] <IP|FQDN|URL|token>",
            "Add new remote servers",
            add,
            (1, 2),
            long="""Add new remote servers

A simplestreams server needs an HTTPS URL, which may hold a login:
  {client} remote add some-name https://LOGIN:PASSWORD@example.com/some/path --protocol=simplestreams""",
            flags=(
                switch("accept-certificate", "Accept certificate"),
                text("password", "Remote admin password"),
                text("protocol", "Server protocol (lxd or simplestreams)"),
                text("auth-type", "Server authentication type (tls or candid)"),
                switch("public", "Public image server"),
                text("domain", "Candid domain to use"),
                text("project", "Project to use for the remote"),
            ),
        ),
        Command("get-default", "Show the default remote", get_default),
        Command("list", "List the available remotes", list_remotes, aliases=("ls",), flags=(FORMAT,)),
        Command("rename <remote> <new-name>", "Rename remotes", rename, (2, 2), aliases=("mv",)),
        Command("remove <remote>", "Remove remotes", remove, (1, 1), aliases=("rm",)),
        Command("switch <remote>", "Switch the default remote", switch_to, (1, 1), aliases=("set-default",)),
        Command("set-url <remote> <URL>", "Set the URL for the remote", set_url, (2, 2)),
    ),
)
