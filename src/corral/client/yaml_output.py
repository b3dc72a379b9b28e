"""YAML as Go's yaml.v2 writes it: block style, sequences not indented, map keys in its own order, lines of 80.

The answers of the API are JSON objects, some of which are maps (keys are sorted) and most are records (the order of
the fields stays).
"""

from __future__ import annotations

from functools import cmp_to_key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Fields that hold maps, with how many levels of them; and fields that hold lists.
MAPS = {
    "config": 1,
    "devices": 2,
    "expanded_config": 1,
    "expanded_devices": 2,
    "properties": 1,
    "templates": 1,
    "kernel_features": 1,
    "lxc_features": 1,
    "resources": 1,
    "metadata": 99,
    "disk": 1,
    "network": 1,
}
LISTS = frozenset(
    [
        "addresses",
        "aliases",
        "api_extensions",
        "auth_methods",
        "backups",
        "egress",
        "entries",
        "groups",
        "ingress",
        "locations",
        "members",
        "ports",
        "profiles",
        "projects",
        "roles",
        "snapshots",
        "used_by",
        "when",
    ]
)
_EVERYTHING = 99
_WIDTH = 80
_NULL = ("", "~", "null", "Null", "NULL")
_BOOLEANS = frozenset(
    word
    for base in ("y", "yes", "on", "true", "n", "no", "off", "false")
    for word in (base, base.capitalize(), base.upper())
)
_SPECIAL = frozenset((*_NULL, *_BOOLEANS, ".nan", ".NaN", ".NAN", ".inf", ".Inf", ".INF"))
_INDICATORS_FIRST = frozenset("#,[]{}&*!|>'\"%@`")
_DIGITS = frozenset("0123456789")


def render_yaml(value: Any, *, any_value: bool = False) -> str:
    """The YAML text of a JSON value. With `any_value` every object is a map and times are plain text."""
    levels = _EVERYTHING if any_value else 0
    lines: list[str] = []
    if isinstance(value, dict) and value:
        _mapping(value, 0, lines, levels)
    elif isinstance(value, list) and value:
        _sequence(value, 0, lines, levels)
    else:
        lines.append(_scalar(value, 0, 0, False))
    return "\n".join(lines) + "\n"


def _mapping(value: dict[str, Any], indent: int, lines: list[str], map_levels: int) -> None:
    """`map_levels` says for how many levels, from this one on, objects are maps and not records."""
    pad = " " * indent
    for key in sort_keys(value) if map_levels else value:
        child = value[key]
        head = f"{pad}{_key(key)}:"
        below = map_levels - 1 if map_levels else MAPS.get(key, 0)
        if isinstance(child, dict) and child:
            lines.append(head)
            _mapping(child, indent + 2, lines, below)
        elif isinstance(child, list) and child:
            lines.append(head)
            _sequence(child, indent, lines, below)
        elif child is None and not map_levels and (key in MAPS or key in LISTS):
            lines.append(f"{head} {'{}' if key in MAPS else '[]'}")
        else:
            is_time = not map_levels and (key.endswith("_at") or key == "timestamp")
            lines.append(f"{head} {_scalar(child, indent + 2, len(head) + 1, is_time)}")


def _sequence(value: list[Any], indent: int, lines: list[str], map_levels: int) -> None:
    pad = " " * indent
    for child in value:
        if isinstance(child, dict | list) and child:
            start = len(lines)
            if isinstance(child, dict):
                _mapping(child, indent + 2, lines, map_levels)
            else:
                _sequence(child, indent + 2, lines, map_levels)
            lines[start] = f"{pad}- {lines[start][indent + 2 :]}"
        else:
            lines.append(f"{pad}- {_scalar(child, indent + 2, indent + 2, False)}")


def sort_keys(mapping: dict[str, Any]) -> list[str]:
    """The keys in yaml.v2's order: letters after everything else, numbers by value."""
    return sorted(mapping, key=cmp_to_key(_compare_keys))


def _compare_keys(left: str, right: str) -> int:
    for index, (one, other) in enumerate(zip(left, right, strict=False)):
        if one == other:
            continue
        if one.isalpha() or other.isalpha():
            if one.isalpha() and other.isalpha():
                return -1 if one < other else 1
            return 1 if one.isalpha() else -1
        return _compare_numbers(left, right, index)
    return len(left) - len(right)


def _compare_numbers(left: str, right: str, index: int) -> int:
    prefix = ""
    if left[index] == "0" or right[index] == "0":
        before = index - 1
        while before >= 0 and left[before].isdigit():
            if left[before] != "0":
                prefix = "1"
                break
            before -= 1
    runs = []
    for text in (left, right):
        end = index
        while end < len(text) and text[end].isdigit():
            end += 1
        runs.append((int(prefix + text[index:end] or "0"), end))
    if runs[0] != runs[1]:
        return -1 if runs[0] < runs[1] else 1
    return -1 if left[index] < right[index] else 1


def _key(key: str) -> str:
    text = _scalar(key, 0, -10000, False)
    return text if "\n" not in text and len(text) <= 128 else f"? {text}\n"


def _scalar(value: Any, indent: int, column: int, is_time: bool) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, dict):
        return "{}"
    if isinstance(value, list):
        return "[]"
    return _string(str(value), indent, column, is_time)


def _float(value: float) -> str:
    if value == int(value) and abs(value) < 1e21:
        return str(int(value))
    text = repr(value)
    mantissa, exponent, power = text.partition("e")
    return f"{mantissa}e{power[0]}{power[1:]:0>2}" if exponent else text


def _string(text: str, indent: int, column: int, is_time: bool) -> str:
    if "\n" in text and column >= 0:
        if _literal_is_allowed(text):
            return _literal(text, indent)
        return _double_quoted(text, indent, column)
    if is_time or not _resolves_to_other(text):
        if _plain_is_allowed(text):
            return _fold(text, indent, column) if column + len(text) > _WIDTH else text
        if _single_is_allowed(text):
            return _single_quoted(text, indent, column)
    return _double_quoted(text, indent, column)


def _resolves_to_other(text: str) -> bool:
    """Whether a parser would read the bare word as something that is not text."""
    if text in _SPECIAL:
        return True
    first = text[0]
    if first not in _DIGITS and first not in "+-.":
        return False
    return _is_number(text) or _is_timestamp(text) or _is_base60(text)


def _is_number(text: str) -> bool:
    plain = text.replace("_", "")
    body = plain.lstrip("+-")
    if len(plain) - len(body) > 1 or not body:
        return False
    if body[:2].lower() in ("0x", "0b", "0o"):
        return body[2:] != "" and _is_integer(body)
    if body in (".inf", ".Inf", ".INF"):
        return True
    if body[0] not in _DIGITS and body[0] != ".":
        return False
    mantissa, _, exponent = body.replace("E", "e").partition("e")
    whole, _, fraction = mantissa.partition(".")
    if not (whole + fraction) or not set(whole + fraction) <= _DIGITS:
        return False
    digits = exponent[1:] if exponent[:1] in ("+", "-") else exponent
    return ("e" not in body.replace("E", "e")) or digits.isdecimal()


def _is_integer(body: str) -> bool:
    try:
        int(body, 0)
    except ValueError:
        return False
    return True


def _is_base60(text: str) -> bool:
    if ":" not in text:
        return False
    whole, *rest = text.lstrip("+-").replace("_", "").split(":")
    if not whole.isdecimal() or not rest:
        return False
    last, _, fraction = rest[-1].partition(".")
    groups = [*rest[:-1], last]
    return (not fraction or fraction.isdecimal()) and all(
        group.isdecimal() and len(group) <= 2 and int(group) < 60 for group in groups
    )


def _is_timestamp(text: str) -> bool:
    """A date, or a date and time, as yaml.v2 reads them: `2006-1-2`, with `T15:4:5` and perhaps more behind it."""
    if len(text) < 8 or not text[:4].isdecimal() or text[4] != "-":
        return False
    year, month, rest = text.split("-", 2) if text.count("-") >= 2 else ("", "", "")
    size = 2 if rest[:2].isdecimal() and len(rest) > 1 else 1
    day, clock = rest[:size], rest[size:]
    if not _is_date(year, month, day):
        return False
    return not clock or (clock[0] in "Tt " and _is_clock(clock[1:], has_zone=clock[0] != " "))


def _is_date(year: str, month: str, day: str) -> bool:
    import datetime

    if not (month.isdecimal() and day.isdecimal() and len(month) <= 2):
        return False
    try:
        datetime.date(int(year), int(month), int(day))
    except ValueError:
        return False
    return True


def _is_clock(text: str, *, has_zone: bool) -> bool:
    """`15:4:5.999`, with `Z` or `+07:00` where a zone belongs."""
    if has_zone:
        if text.endswith("Z"):
            text = text[:-1]
        elif len(text) > 6 and text[-6] in "+-" and text[-3] == ":":
            text = text[:-6]
        else:
            return False
    whole, dot, fraction = text.partition(".")
    if dot and not fraction.isdecimal():
        return False
    fields = whole.split(":")
    limits = (24, 60, 60)
    return len(fields) == 3 and all(
        field.isdecimal() and len(field) <= 2 and int(field) < limit
        for field, limit in zip(fields, limits, strict=True)
    )


_BREAKS = ("\n", "\u0085", "\u2028", "\u2029")


def _printable(letter: str) -> bool:
    code = ord(letter)
    return (
        letter == "\n"
        or 0x20 <= code <= 0x7E
        or (0xA0 <= code <= 0xD7FF)
        or (0xE000 <= code <= 0xFFFD and code != 0xFEFF)
    )


def _all_printable(text: str) -> bool:
    return (text.isascii() and text.isprintable()) or all(_printable(letter) for letter in text)


def _plain_is_allowed(text: str) -> bool:
    if text[0] == " " or text[-1] == " " or text.startswith(("---", "...")):
        return False
    if text[0] in _INDICATORS_FIRST or not _single_is_allowed(text):
        return False
    if text[0] in "?-:" and (len(text) == 1 or text[1] in " \t"):
        return False
    return ": " not in text and " #" not in text and text[-1] != ":" and "\t" not in text


def _single_is_allowed(text: str) -> bool:
    return _all_printable(text) and not any(letter in text for letter in _BREAKS)


def _literal_is_allowed(text: str) -> bool:
    """Block text cannot hold what is not printable, nor a space before a line's end."""
    return _all_printable(text.replace("\t", " ")) and "\t" not in text and " \n" not in text and text[-1] != " "


def _literal(text: str, indent: int) -> str:
    hint = "2" if text[0] in " \n" else ""
    chomp = "" if text.endswith("\n") else "-"
    if text.endswith("\n\n") or text == "\n":
        chomp = "+"
    pad = " " * max(indent, 2)
    body = text[:-1] if text.endswith("\n") else text
    return f"|{hint}{chomp}\n" + "\n".join(pad + line if line else "" for line in body.split("\n"))


def _fold(text: str, indent: int, column: int) -> str:
    """Break a line at single spaces once it is longer than the width."""
    if column + len(text) <= _WIDTH or " " not in text:
        return text
    lines = []
    start = 0
    for index, letter in enumerate(text):
        lonely = letter == " " and 0 < index < len(text) - 1 and text[index + 1] != " " and text[index - 1] != " "
        if lonely and column + index - start > _WIDTH:
            lines.append(text[start:index])
            start = index + 1
            column = indent
    lines.append(text[start:])
    return ("\n" + " " * indent).join(lines)


def _single_quoted(text: str, indent: int, column: int) -> str:
    """As `_fold`, in single quotes, which are doubled inside."""
    pieces = ["'"]
    column += 1
    for index, letter in enumerate(text):
        lonely = letter == " " and 0 < index < len(text) - 1 and text[index + 1] != " " and text[index - 1] != " "
        if lonely and column > _WIDTH:
            pieces.append("\n" + " " * indent)
            column = indent
            continue
        pieces.append("''" if letter == "'" else letter)
        column += len(pieces[-1])
    return "".join(pieces) + "'"


_ESCAPES = {
    "\0": "0",
    "\a": "a",
    "\b": "b",
    "\t": "t",
    "\n": "n",
    "\v": "v",
    "\f": "f",
    "\r": "r",
    "\x1b": "e",
    '"': '"',
    "\\": "\\",
    "\u0085": "N",
    "\u00a0": "_",
    "\u2028": "L",
    "\u2029": "P",
}


def _double_quoted(text: str, indent: int, column: int) -> str:
    parts = ['"']
    column += 1
    for index, letter in enumerate(text):
        if letter in _ESCAPES:
            piece = "\\" + _ESCAPES[letter]
        elif _printable(letter):
            piece = letter
        else:
            piece = _numeric_escape(ord(letter))
        if letter == " " and 0 < index < len(text) - 1 and column > _WIDTH:
            piece = "\n" + " " * indent + ("\\" if text[index + 1] == " " else "")
            column = indent
        else:
            column += len(piece)
        parts.append(piece)
    return "".join(parts) + '"'


def _numeric_escape(code: int) -> str:
    if code <= 0xFF:
        return f"\\x{code:02X}"
    return f"\\u{code:04X}" if code <= 0xFFFF else f"\\U{code:08X}"
