"""`alias`: the user's own commands."""

from __future__ import annotations

from corral.cli import table
from corral.cli.command import FORMAT, Command, Invocation
from corral.errors import CorralError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corral.client.remotes import Remotes


def _require(remotes: Remotes, name: str) -> str:
    if name not in remotes.aliases:
        raise CorralError(f"Alias {name} doesn't exist")
    return remotes.aliases[name]


def _require_free(remotes: Remotes, name: str) -> None:
    if name in remotes.aliases:
        raise CorralError(f"Alias {name} already exists")


def add(invocation: Invocation) -> int:
    """Add an alias."""
    remotes = invocation.session.remotes
    name, target = invocation.args
    _require_free(remotes, name)
    remotes.aliases[name] = target
    remotes.save()
    return 0


def list_aliases(invocation: Invocation) -> int:
    """List the aliases."""
    aliases = dict(sorted(invocation.session.remotes.aliases.items()))
    rows = [[name, target] for name, target in aliases.items()]
    table.sort_rows(rows)
    table.show(invocation.text("format"), ["ALIAS", "TARGET"], rows, aliases)
    return 0


def rename(invocation: Invocation) -> int:
    """Rename an alias."""
    remotes = invocation.session.remotes
    old, new = invocation.args
    target = _require(remotes, old)
    _require_free(remotes, new)
    del remotes.aliases[old]
    remotes.aliases[new] = target
    remotes.save()
    return 0


def remove(invocation: Invocation) -> int:
    """Remove an alias."""
    remotes = invocation.session.remotes
    _require(remotes, invocation.args[0])
    del remotes.aliases[invocation.args[0]]
    remotes.save()
    return 0


COMMAND = Command(
    "alias",
    "Manage command aliases",
    commands=(
        Command(
            "add <alias> <target>",
            "Add new aliases",
            add,
            (2, 2),
            examples='{client} alias add list "list -c ns46S"\n    Have "list" show fewer columns.',
        ),
        Command("list", "List aliases", list_aliases, aliases=("ls",), flags=(FORMAT,)),
        Command(
            "rename <old alias> <new alias>",
            "Rename aliases",
            rename,
            (2, 2),
            aliases=("mv",),
            examples='{client} alias rename list my-list\n    Rename the alias "list" to "my-list".',
        ),
        Command(
            "remove <alias>",
            "Remove aliases",
            remove,
            (1, 1),
            aliases=("rm",),
            examples='{client} alias remove my-list\n    Remove the alias "my-list".',
        ),
    ),
)
