"""JSON in and out without loading the json package, which costs more time than a whole `list` takes.

The interpreter's own accelerators do the work; where they are missing the json package serves.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_WHITESPACE = " \t\n\r"


class _ScannerSettings:
    """What the accelerated scanner asks of its decoder."""

    strict = False
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float
    memo: dict[str, str] = {}


try:
    import _json

    _scan: Any = _json.make_scanner(_ScannerSettings())  # type: ignore[arg-type, unused-ignore]
    _make_encoder: Any = _json.make_encoder
    _quote: Any = _json.encode_basestring_ascii
except (ImportError, AttributeError):  # another implementation of Python
    _scan = _make_encoder = _quote = None


def decode(text: str) -> Any:
    """The value of a JSON text. Raises ValueError."""
    if _scan is None:
        import json

        return json.loads(text)
    start = 0
    while start < len(text) and text[start] in _WHITESPACE:
        start += 1
    try:
        value, end = _scan(text, start)
    except StopIteration as stop:
        raise ValueError(f"not JSON at character {stop.value}: {text[:60]!r}") from None
    if text[end:].strip(_WHITESPACE):
        raise ValueError(f"more than one JSON value: {text[end : end + 60]!r}")
    return value


def _refuse(value: object) -> object:
    raise TypeError(f"{type(value).__name__} has no JSON form")


def encode(value: Any, *, sort_keys: bool = False) -> str:
    """A value as compact JSON in ASCII."""
    if _make_encoder is None:
        import json

        return json.dumps(value, separators=(",", ":"), sort_keys=sort_keys)
    if isinstance(value, str):
        return str(_quote(value))
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    encoder = _make_encoder(None, _refuse, _quote, None, ":", ",", sort_keys, False, False)
    return "".join(encoder(value, 0))
