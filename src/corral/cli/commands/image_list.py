"""`image list`: images in columns of the user's choice."""

from __future__ import annotations

from corral.cli import table
from corral.cli.command import ANY_NUMBER_OF, FORMAT, Command, Invocation, text
from corral.cli.records import IMAGE
from corral.cli.session import order
from corral.client.server import ApiError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from corral.client.server import Server

    Image = dict[str, Any]

_DEFAULT = "lfpdatsu"


def _alias_names(image: Image) -> list[str]:
    return [alias["name"] for alias in image.get("aliases") or ()]


def _shortest_alias(image: Image) -> str:
    names = _alias_names(image)
    shortest = min(names, key=len) if names else ""
    return f"{shortest} ({len(names) - 1} more)" if len(names) > 1 else shortest


def _aliases(image: Image) -> str:
    return "\n".join(sorted(_alias_names(image)))


def _description(image: Image) -> str:
    return str((image.get("properties") or {}).get("description", ""))


def _uploaded(image: Image) -> str:
    from corral.cli.times import format_long_utc

    return format_long_utc(image["uploaded_at"])


_COLUMNS: dict[str, tuple[str, Callable[[Image], str]]] = {
    "l": ("ALIAS", _shortest_alias),
    "L": ("ALIASES", _aliases),
    "f": ("FINGERPRINT", lambda image: str(image["fingerprint"])[:12]),
    "F": ("FINGERPRINT", lambda image: str(image["fingerprint"])),
    "p": ("PUBLIC", lambda image: "yes" if image["public"] else "no"),
    "d": ("DESCRIPTION", _description),
    "a": ("ARCHITECTURE", lambda image: str(image["architecture"])),
    "s": ("SIZE", lambda image: f"{image['size'] / 1024 / 1024:.2f}MB"),
    "u": ("UPLOAD DATE", _uploaded),
    "t": ("TYPE", lambda image: str(image.get("type") or "container").upper()),
}


def run(invocation: Invocation) -> int:
    """List images."""
    remote, name = invocation.session.remotes.parse(invocation.arg(0))
    server = invocation.session.remotes.image_server(remote)
    filters = ([name] if name else []) + invocation.args[1:]
    columns = [_COLUMNS[letter] for letter in table.parse_columns(invocation.text("columns"), _COLUMNS)]
    images = [image for image in _fetch(server, filters) if _matches(filters, image)]
    rows = [[render(image) for _, render in columns] for image in images]
    table.sort_rows(rows)
    raw = [order(image, IMAGE, ("update_source",)) for image in images]
    table.show(invocation.text("format"), [title for title, _ in columns], rows, raw)
    return 0


def _fetch(server: Server, filters: list[str]) -> list[Image]:
    for_server = [
        entry.replace("=", " eq ", 1)
        for entry in filters
        if entry.partition("=")[0] in IMAGE and "=" in entry and "," not in entry
    ]
    if for_server:
        try:
            return server.get("/images", {"recursion": "1", "filter": " and ".join(for_server)}) or []
        except ApiError:
            pass  # An older server; everything is filtered here.
    return server.get("/images", {"recursion": "1"}) or []


def _matches(filters: list[str], image: Image) -> bool:
    return all(_matches_one(entry, image) for entry in filters)


def _matches_one(entry: str, image: Image) -> bool:
    from corral.cli.commands.list_filters import anchored, key_matches

    key, equals, value = entry.partition("=")
    if not equals:
        return entry in image["fingerprint"] or any(entry in name for name in _alias_names(image))
    if key in image and _as_text(image[key]) == value:
        return True
    pattern = anchored(value)
    for name, setting in (image.get("properties") or {}).items():
        if key_matches(key, name) and (pattern.search(setting) if pattern else value == setting):
            return True
    return False


def _as_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


COMMAND = Command(
    "list [<remote>:] [<filter>...]",
    "List images",
    run,
    (0, ANY_NUMBER_OF),
    aliases=("ls",),
    flags=(text("columns", "Columns", "c", _DEFAULT), FORMAT),
    long="""List images

A filter is <key>=<value> for a property, or a part of a fingerprint or of an alias.

The -c option takes columns for the table, compact and csv formats, which may be separated by commas.

Default column layout is: lfpdasu

Column shorthand chars:

    l - Shortest image alias (and optionally number of other aliases)
    L - Newline-separated list of all image aliases
    f - Fingerprint (short)
    F - Fingerprint (long)
    p - Whether image is public
    d - Description
    a - Architecture
    s - Size
    u - Upload date
    t - Type""",
)
