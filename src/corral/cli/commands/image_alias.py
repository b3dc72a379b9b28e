"""`image alias`: names of images, and finding images by them."""

from __future__ import annotations

from corral.cli import table
from corral.cli.command import ANY_NUMBER_OF, FORMAT, Command, Invocation
from corral.cli.records import IMAGE_ALIAS
from corral.cli.session import order
from corral.client.server import ApiError, escape
from corral.errors import CorralError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from corral.client.server import Server


def dereference(server: Server, name: str, kind: str = "") -> str:
    """The fingerprint that an alias stands for, or the name itself; no name is the alias `default`."""
    name = name or "default"
    query = {"type": kind} if kind else {}
    try:
        return str(server.get(f"/images/aliases/{escape(name)}", query)["target"])
    except ApiError:
        return name


def ensure_aliases(server: Server, names: Sequence[str], fingerprint: str) -> None:
    """Point aliases to an image, also those that pointed elsewhere."""
    if not names:
        return
    existing = {entry["name"] for entry in server.get("/images/aliases", {"recursion": "1"}) or ()}
    for name in names:
        if name in existing:
            try:
                server.delete(f"/images/aliases/{escape(name)}")
            except CorralError as error:
                raise CorralError(f"Failed to remove alias {name}: {error}") from error
        try:
            server.post("/images/aliases", {"name": name, "target": fingerprint, "description": ""})
        except CorralError as error:
            raise CorralError(f"Failed to create alias {name}: {error}") from error


def create(invocation: Invocation) -> int:
    """Create an alias."""
    resource = invocation.session.resource(invocation.args[0], "Alias name missing")
    body = {"name": resource.name, "target": invocation.args[1], "description": ""}
    resource.server.post("/images/aliases", body)
    return 0


def delete(invocation: Invocation) -> int:
    """Delete an alias."""
    resource = invocation.session.resource(invocation.args[0], "Alias name missing")
    resource.server.delete(f"/images/aliases/{escape(resource.name)}")
    return 0


def list_aliases(invocation: Invocation) -> int:
    """List aliases; filters are parts of names or fingerprints."""
    remote, name = invocation.session.remotes.parse(invocation.arg(0))
    server = invocation.session.remotes.image_server(remote)
    filters = ([name] if name else []) + invocation.args[1:]
    aliases = server.get("/images/aliases", {"recursion": "1"}) or []
    rows = [
        [alias["name"], alias["target"][:12], (alias.get("type") or "container").upper(), alias["description"]]
        for alias in aliases
        if not filters or any(part in alias["name"] or part in alias["target"] for part in filters)
    ]
    table.sort_rows(rows)
    header = ["ALIAS", "FINGERPRINT", "TYPE", "DESCRIPTION"]
    table.show(invocation.text("format"), header, rows, [order(alias, IMAGE_ALIAS) for alias in aliases])
    return 0


def rename(invocation: Invocation) -> int:
    """Rename an alias."""
    resource = invocation.session.resource(invocation.args[0], "Alias name missing")
    resource.server.post(f"/images/aliases/{escape(resource.name)}", {"name": invocation.args[1]})
    return 0


COMMAND = Command(
    "alias",
    "Manage image aliases",
    commands=(
        Command("create [<remote>:]<alias> <fingerprint>", "Create aliases for existing images", create, (2, 2)),
        Command("delete [<remote>:]<alias>", "Delete image aliases", delete, (1, 1), aliases=("rm",)),
        Command(
            "list [<remote>:] [<filters>...]",
            "List image aliases",
            list_aliases,
            (0, ANY_NUMBER_OF),
            aliases=("ls",),
            flags=(FORMAT,),
            long="List image aliases\n\nFilters are parts of fingerprints or of alias names.",
        ),
        Command("rename [<remote>:]<alias> <new-name>", "Rename aliases", rename, (2, 2), aliases=("mv",)),
    ),
)
