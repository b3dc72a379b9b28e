"""The `filter=` language of collections: `status eq Running and config.limits.cpu ne 2`, pure.

Clauses are joined by `and`/`or` and evaluated from left to right without precedence, as LXD 5.0 does. A text value is
a regular expression, matched without regard to case, and as a whole unless it holds `^` or `$`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from corral.errors import InvalidRequest

MAX_LENGTH = 4096
"""Characters of a filter: regular expressions of clients are bounded."""


@dataclass(frozen=True, slots=True)
class Clause:
    """`field eq value`, negated or not, joined to the clauses before it."""

    joined_by_or: bool
    negated: bool
    field: str
    equals: bool
    value: str
    pattern: re.Pattern[str] | None


def _pattern(value: str) -> re.Pattern[str] | None:
    anchored = value if "^" in value or "$" in value else f"^{value}$"
    try:
        return re.compile(anchored, re.IGNORECASE)
    except re.error:
        return None


def _take_value(words: list[str]) -> str:
    value = words.pop(0)
    if not value.startswith('"'):
        return value
    value = value[1:]
    while not value.endswith('"'):
        if not words:
            raise InvalidRequest("Invalid filter: unterminated quote")
        value += " " + words.pop(0)
    return value[:-1]


def parse(text: str) -> list[Clause]:
    """The clauses of a filter; InvalidRequest says what is wrong with it."""
    if len(text) > MAX_LENGTH:
        raise InvalidRequest(f"Invalid filter: longer than {MAX_LENGTH} characters")
    words = text.split()
    clauses: list[Clause] = []
    joined_by_or = False
    while words:
        negated = words[0].lower() == "not"
        if negated:
            words.pop(0)
        if len(words) < 3:
            missing = ("incomplete not clause", "clause has no operator", "clause has no value")[len(words)]
            raise InvalidRequest(f"Invalid filter: {missing}")
        field, operator = words.pop(0), words.pop(0)
        value = _take_value(words)
        clauses.append(Clause(joined_by_or, negated, field, operator != "ne", value, _pattern(value)))
        if words:
            joiner = words.pop(0)
            if joiner not in ("and", "or"):
                raise InvalidRequest("Invalid filter: invalid clause composition")
            if not words:
                raise InvalidRequest("Invalid filter: unterminated compound clause")
            joined_by_or = joiner == "or"
    return clauses


def value_of(thing: Any, field: str) -> Any:
    """The value of a dotted field: `config.limits.cpu` is the key `limits.cpu` of `config`."""
    if isinstance(thing, Mapping):
        if field in thing:
            return thing[field]
        key, _, rest = field.partition(".")
        inner = thing.get(key)
        return value_of(inner, rest) if rest and inner is not None else ("" if _is_config(thing) else None)
    key, _, rest = field.partition(".")
    inner = getattr(thing, key, None)
    return value_of(inner, rest) if rest and inner is not None else inner


def _is_config(thing: Mapping[str, Any]) -> bool:
    return all(isinstance(value, str) for value in thing.values())


def _holds(clause: Clause, thing: Any) -> bool:
    value = value_of(thing, clause.field)
    if isinstance(value, str):
        pattern = clause.pattern
        matches = pattern.search(value) is not None if pattern else value.lower() == clause.value.lower()
    elif isinstance(value, bool):
        matches = clause.value.lower() == str(value).lower()
    else:
        matches = value is not None and str(value) == clause.value
    return (matches == clause.equals) != clause.negated


def matches(clauses: Sequence[Clause], thing: Any) -> bool:
    """Whether a wire object passes the filter."""
    result = True
    for clause in clauses:
        holds = _holds(clause, thing)
        result = (result or holds) if clause.joined_by_or else (result and holds)
    return result
