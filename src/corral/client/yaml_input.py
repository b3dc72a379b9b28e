"""Reading YAML that a user wrote: an editor's text, standard input, a preseed.

Scalars stay the text that was written (`1.10`, `yes`, `0755`), since the API's config values are text; the few fields
that are truth values or numbers are converted by name.
"""

from __future__ import annotations

from corral.errors import InvalidRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_BOOLEANS = frozenset(
    ["ephemeral", "stateful", "public", "auto_update", "create_only", "restricted", "managed", "enabled"]
)
_NUMBERS = frozenset(["creation_date", "expiry_date", "size"])
_TRUE = frozenset(["y", "yes", "on", "true"])
_NULLS = ["~", "n", "N", ""]
_MAPS = frozenset(["config", "devices", "properties", "templates"])


def parse_yaml(content: str | bytes) -> Any:
    """The value of a YAML text with all scalars as text; None for an empty one. Raises InvalidRequest."""
    import re

    import yaml
    from yaml.constructor import BaseConstructor
    from yaml.resolver import BaseResolver

    parser: Any = getattr(yaml.cyaml, "CParser", None) if hasattr(yaml, "cyaml") else None
    if parser is None:
        loader: Any = yaml.BaseLoader
    else:

        class Loader(parser, BaseConstructor, BaseResolver):  # type: ignore[misc]
            """libyaml's parser; nothing is resolved but null."""

            def __init__(self, stream: Any) -> None:
                parser.__init__(self, stream)
                BaseConstructor.__init__(self)
                BaseResolver.__init__(self)

        loader = Loader
        null_tag = "tag:yaml.org,2002:null"
        loader.add_implicit_resolver(null_tag, re.compile("^(?:~|null|Null|NULL|)$"), _NULLS)
        loader.add_constructor(null_tag, lambda _loader, _node: None)
    try:
        return yaml.load(content, loader)
    except yaml.YAMLError as error:
        raise InvalidRequest(f"yaml: {' '.join(str(error).split())}") from error


def parse_mapping(content: str | bytes) -> dict[str, Any]:
    """The mapping that a YAML text must be; an empty text is an empty mapping. Raises InvalidRequest."""
    value = parse_yaml(content)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidRequest("yaml: expected a mapping of keys to values at the top")
    return {name: convert_field(name, field) for name, field in value.items()}


def parse_record(content: str | bytes, fields: tuple[str, ...]) -> dict[str, Any]:
    """The named fields of a YAML mapping as the API takes them; what is missing is empty. Raises InvalidRequest."""
    body = parse_mapping(content)
    record = {}
    for name in fields:
        if name in body and body[name] is not None:
            record[name] = body[name]
        elif name in _MAPS:
            record[name] = {}
        elif name in _BOOLEANS:
            record[name] = False
    return record


def convert_field(name: str, value: Any) -> Any:
    """A field as the API takes it: truth values and numbers by the field's name, text without nulls in maps."""
    if isinstance(value, dict):
        if name in ("config", "properties"):
            return stringify(value)
        if name == "devices":
            return {str(device): stringify(settings) for device, settings in value.items()}
        return {str(key): convert_field(str(key), child) for key, child in value.items()}
    if isinstance(value, list):
        return [convert_field("", child) for child in value]
    if name in _BOOLEANS and isinstance(value, str):
        return value.lower() in _TRUE
    if name in _NUMBERS and isinstance(value, str):
        try:
            return int(value or "0", 0)
        except ValueError:
            raise InvalidRequest(f"yaml: {name} must be a number instead of {value!r}") from None
    return value


def stringify(mapping: Any) -> dict[str, str]:
    """A config mapping with every value as text."""
    if mapping is None:
        return {}
    if not isinstance(mapping, dict):
        raise InvalidRequest("yaml: expected a mapping of keys to values")
    return {str(key): _scalar_text(value) for key, value in mapping.items()}


def _scalar_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict | list):
        raise InvalidRequest(f"yaml: expected a single value instead of {value!r}")
    return str(value)
