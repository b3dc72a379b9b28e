"""How snapshots are called and how long they are kept where nobody says so: their pattern and their expiry. Pure."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache

from jinja2 import TemplateError

from corral.errors import InvalidRequest
from corral.server.keys import KeyType
from corral.server.pongo2.engine import Bounds, render
from corral.units import add_expiry

DEFAULT_PATTERN = "snap%d"
_PATTERN_LIMIT = 1000
_NAME_LIMIT = 200
_BOUNDS = Bounds(iterations=1000, time_s=0.25)


def check_name(name: str) -> None:
    """Raise InvalidRequest for a name that no snapshot can have."""
    if not name or name in (".", "..") or len(name.encode("utf-8", "surrogatepass")) > _NAME_LIMIT:
        raise InvalidRequest(f"Invalid snapshot name {name!r}: give 1 to {_NAME_LIMIT} bytes")
    if re.search(r"[\x00-\x20\x7f/\s]", name) or not name.isprintable():
        raise InvalidRequest(f"Invalid snapshot name {name!r}: no slash, white space or control character may be in it")


def next_name(pattern: str, moment: datetime, present: Iterable[str]) -> str:
    """The name of a snapshot that is taken at a moment, by the pattern, apart from those that are there.

    `%d` counts on from the highest number; without it a taken name gets `-0`, `-1` and so on.
    """
    names = set(present)
    text = _render(pattern or DEFAULT_PATTERN, moment)
    if text.count("%d") > 1:
        raise InvalidRequest("Snapshot pattern may contain '%d' only once")
    if "%d" not in text and text in names:
        text += "-%d"
    if "%d" in text:
        head, tail = text.split("%d")
        counted = re.compile(re.escape(head) + r"([0-9]{1,9})" + re.escape(tail))
        numbers = [int(match[1]) for name in names if (match := counted.fullmatch(name))]
        text = f"{head}{max(numbers, default=-1) + 1}{tail}"
    check_name(text)
    return text


def _render(pattern: str, moment: datetime) -> str:
    if len(pattern) > _PATTERN_LIMIT:
        raise InvalidRequest(f"Snapshot pattern is longer than {_PATTERN_LIMIT} characters")
    if "{" not in pattern:
        return pattern
    try:
        return render(pattern, {"creation_date": moment}, {}, _BOUNDS)
    except (TemplateError, RecursionError, ArithmeticError, TypeError, ValueError) as error:
        raise InvalidRequest(f"Invalid snapshot pattern {pattern!r}: {error}") from error


def expiry_of(text: str | None, moment: datetime) -> str | None:
    """When a snapshot that is taken at a moment expires, as RFC 3339 text; None is never."""
    return add_expiry(moment, text).astimezone(UTC).isoformat().replace("+00:00", "Z") if text else None


@lru_cache(256)
def _pattern(text: str) -> str:
    next_name(text, datetime(2006, 1, 2, 15, 4, 5, tzinfo=UTC), ())
    return text


PATTERN: KeyType[str] = KeyType("template", _pattern)
