"""Reading YAML that a user wrote: an editor's text, standard input, a preseed."""

from __future__ import annotations

from corral.errors import InvalidRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def parse_yaml(content: str | bytes) -> Any:
    """The value of a YAML text; None for an empty one. Raises InvalidRequest. Dates stay text."""
    import yaml

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Loader(loader):  # type: ignore[misc]
        """Without timestamps: the API takes them as text."""

    Loader.yaml_implicit_resolvers = {
        first: [entry for entry in entries if entry[0] != "tag:yaml.org,2002:timestamp"]
        for first, entries in loader.yaml_implicit_resolvers.items()
    }
    try:
        return yaml.load(content, Loader)
    except yaml.YAMLError as error:
        raise InvalidRequest(f"yaml: {' '.join(str(error).split())}") from error


def parse_mapping(content: str | bytes) -> dict[str, Any]:
    """The mapping that a YAML text must be; an empty text is an empty mapping. Raises InvalidRequest."""
    value = parse_yaml(content)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidRequest("yaml: expected a mapping of keys to values at the top")
    return value


def stringify(mapping: Any) -> dict[str, str]:
    """A config mapping with every value as the text the API takes: `true`, `5`, ``."""
    if mapping is None:
        return {}
    if not isinstance(mapping, dict):
        raise InvalidRequest("yaml: expected a mapping of keys to values")
    return {str(key): scalar_text(value) for key, value in mapping.items()}


def scalar_text(value: Any) -> str:
    """A YAML scalar as text."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list):
        raise InvalidRequest(f"yaml: expected a single value instead of {value!r}")
    return str(value)
