"""From what a client sends to what is stored: validation and comparison of the server's configuration, pure."""

from collections.abc import Mapping
from typing import Any

from corral.errors import InvalidRequest
from corral.server.settings.keys import BOOL, TABLE

_GO_KINDS = {bool: "bool", int: "float64", float: "float64", dict: "map", list: "slice"}
"""How LXD's texts call the types of JSON."""


def shown(config: Mapping[str, str]) -> dict[str, Any]:
    """The configuration as clients see it: without defaults, and `true` in the place of a secret."""
    view: dict[str, Any] = {}
    for name, text in config.items():
        key = TABLE.find(name)
        if key is None or text != (key.default or ""):
            view[name] = True if key is not None and key.secret else text
    return view


def parse_sent(present: Mapping[str, str], sent: Mapping[str, Any]) -> dict[str, str]:
    """What a client sent as text: null means unset, and `true` for a secret that it stays as it is."""
    texts: dict[str, str] = {}
    problems: list[str] = []
    for name, value in sorted(sent.items()):
        key = TABLE.find(name)
        if key is not None and key.secret and value is True:
            texts[name] = present.get(name, "")
        elif value is None:
            texts[name] = ""
        elif isinstance(value, str):
            texts[name] = value
        else:
            problems.append(f"cannot set '{name}': invalid type {_GO_KINDS.get(type(value), type(value).__name__)}")
    _raise_first(problems)
    return texts


def plan(present: Mapping[str, str], wanted: Mapping[str, str]) -> dict[str, str]:
    """The keys that change so that exactly the wanted ones are set; an empty value unsets.

    Raises InvalidRequest in LXD's words for unknown keys and wrong values.
    """
    problems: list[str] = []
    changed: dict[str, str] = {}
    for name in sorted({*present, *wanted}):
        before, after = present.get(name, ""), wanted.get(name, "")
        if TABLE.is_free(name):
            if after != before:
                changed[name] = after
            continue
        key = TABLE.find(name)
        if key is None:
            problems.append(f"cannot set '{name}' to '{after}': unknown key")
            continue
        default = key.default or ""
        if after != "":
            try:
                parsed = key.type.parse(after)
            except InvalidRequest as error:
                problems.append(f"cannot set '{name}' to '{after}': {error}")
                continue
            if key.type is BOOL:
                after = "true" if parsed else "false"
                default = default or "false"
        if after == default:
            after = ""
        if after != before:
            changed[name] = after
    _raise_first(problems)
    return changed


def _raise_first(problems: list[str]) -> None:
    if len(problems) == 1:
        raise InvalidRequest(problems[0])
    if problems:
        raise InvalidRequest(f"{problems[0]} (and {len(problems) - 1} more errors)")
