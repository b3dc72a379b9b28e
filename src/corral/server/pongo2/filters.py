"""The filters of pongo2 that work on values alone; results are bounded texts and lists."""

import math
import re
from collections.abc import Callable
from datetime import datetime
from html import escape
from itertools import islice
from typing import Any
from urllib.parse import quote

from jinja2.exceptions import SecurityError

from corral.server.pongo2.go_time import format_go_time

TEXT_LIMIT = 4 * 1024 * 1024
LIST_LIMIT = 100_000


def short(text: str, more: int = 0) -> str:
    """The text, unless it and `more` characters are too many. Raises SecurityError."""
    if len(text) + more > TEXT_LIMIT:
        raise SecurityError(f"a text is longer than {TEXT_LIMIT} characters")
    return text


def _join(items: Any, separator: Any = "") -> str:
    texts, between = [str(item) for item in items], str(separator)
    short("", sum(map(len, texts)) + len(between) * len(texts))
    return between.join(texts)


def _few(items: list[Any]) -> list[Any]:
    if len(items) > LIST_LIMIT:
        raise SecurityError(f"a list has more than {LIST_LIMIT} entries")
    return items


def _add(value: Any, other: Any) -> Any:
    if isinstance(value, int | float) and isinstance(other, int | float):
        return value + other
    return short(str(value), len(str(other))) + str(other)


def _yes_no(value: Any, words: Any = "yes,no,maybe") -> str:
    choices = str(words).split(",")
    return choices[0] if value else choices[min(1, len(choices) - 1)]


def _integer(value: Any) -> int:
    try:
        return int(float(str(value)[:32]))
    except (ValueError, OverflowError):
        return 0


def _float(value: Any) -> float:
    try:
        number = float(str(value)[:64])
    except ValueError:
        return 0.0
    return number if math.isfinite(number) else 0.0


def _float_format(value: Any, digits: Any = -1) -> str:
    number, places = _float(value), max(-20, min(20, _integer(digits)))
    if places < 0 and number == int(number):
        return str(int(number))
    return f"{number:.{abs(places)}f}"


def _replace(value: Any, part: Any, other: str) -> str:
    text, wanted = str(value), str(part)
    return text.replace(wanted, other) if wanted else text


def _slice(value: Any, bounds: Any) -> Any:
    low, _, high = str(bounds).partition(":")
    sequence = value if isinstance(value, str | list | tuple) else str(value)
    return sequence[_integer(low) if low else None : _integer(high) if high else None]


def _pad(value: Any, width: Any, how: str) -> str:
    text, columns = str(value), _integer(width)
    short(text, max(0, columns))
    return f"{text:{how}{columns}}" if columns > 0 else text


def _plural(value: Any, endings: Any = "s") -> str:
    one, _, many = str(endings).rpartition(",")
    return one if _float(value) == 1 else many


def _date(value: Any, layout: Any = "") -> str:
    if not isinstance(value, datetime):
        raise ValueError("date works on times only")
    return format_go_time(value, short(str(layout)))


def _words(value: Any, count: Any) -> str:
    words, limit = str(value).split(), _integer(count)
    return " ".join(words) if len(words) <= limit else " ".join([*words[: max(0, limit)], "..."])


def _slug(value: Any) -> str:
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", str(value)).strip().lower())


FILTERS: dict[str, Callable[..., Any]] = {
    "add": _add,
    "addslashes": lambda value: re.sub(r"([\\\"'])", r"\\\1", str(value)),
    "capfirst": lambda value: str(value)[:1].upper() + str(value)[1:],
    "center": lambda value, width: _pad(value, width, "^"),
    "cut": lambda value, part: _replace(value, part, ""),
    "date": _date,
    "default": lambda value, other="": value or other,
    "default_if_none": lambda value, other="": other if value is None else value,
    "divisibleby": lambda value, number: _integer(number) != 0 and _integer(value) % _integer(number) == 0,
    "escape": lambda value: short(escape(str(value))),
    "first": lambda value: next(iter(value), ""),
    "float": _float,
    "floatformat": _float_format,
    "integer": _integer,
    "join": _join,
    "last": lambda value: list(islice(value, LIST_LIMIT))[-1] if value else "",
    "length": len,
    "length_is": lambda value, number: len(value) == _integer(number),
    "ljust": lambda value, width: _pad(value, width, "<"),
    "lower": lambda value: str(value).lower(),
    "make_list": lambda value: _few(list(short(str(value)[: LIST_LIMIT + 1]))),
    "pluralize": _plural,
    "reversed_items": lambda value: _few(list(islice(value, LIST_LIMIT + 1)))[::-1],
    "rjust": lambda value, width: _pad(value, width, ">"),
    "safe": lambda value: value,
    "slice": _slice,
    "slugify": _slug,
    "sorted_items": lambda value: sorted(_few(list(islice(value, LIST_LIMIT + 1)))),
    "split": lambda value, separator: _few(str(value).split(str(separator), LIST_LIMIT)),
    "striptags": lambda value: re.sub(r"<[^>]*>", "", str(value)),
    "time": _date,
    "title": lambda value: str(value).title(),
    "trim": lambda value: str(value).strip(),
    "truncatechars": lambda value, length: str(value)[: max(0, _integer(length))],
    "truncatewords": _words,
    "upper": lambda value: str(value).upper(),
    "urlencode": lambda value: short(quote(str(value), safe="")),
    "wordcount": lambda value: len(str(value).split()),
    "yesno": _yes_no,
}
"""By the names that templates call them by; the two `_items` stand for words of a loop."""
