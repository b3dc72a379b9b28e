"""Config keys declared once: types, tables and typed reads.

A table drives validation, defaults, /1.0/metadata/configuration, documentation and completion. Stored configuration
stays `dict[str, str]`.
"""

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar, overload

from corral import architectures, units
from corral.errors import InvalidRequest
from corral.server.host.programs import compressors

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class KeyType(Generic[T]):
    """How a value is read. `parse` raises InvalidRequest or ValueError for a bad one."""

    name: str
    parse: Callable[[str], T]


def _integer(text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]+", text) or not -(2**63) <= int(text) < 2**63:
        raise InvalidRequest(f'Invalid value for an integer "{text}"')
    return int(text)


def _unsigned(text: str) -> int:
    value = _integer(text)
    if not text[0].isdigit():
        raise InvalidRequest(f'Invalid value for an unsigned integer "{text}"')
    return value


def _unsigned32(text: str) -> int:
    if not re.fullmatch(r"[0-9]+", text) or int(text) >= 1 << 32:
        raise InvalidRequest(f'Invalid value for uint32 "{text}": give a whole number from 0 to 4294967295')
    return int(text)


def _line(text: str) -> str:
    if any(character in text for character in "\n\r\0"):
        raise InvalidRequest("The value cannot contain line breaks")
    return text


STRING: KeyType[str] = KeyType("string", str)
BOOL: KeyType[bool] = KeyType("bool", units.parse_boolean)
INTEGER: KeyType[int] = KeyType("integer", _integer)
UNSIGNED: KeyType[int] = KeyType("integer", _unsigned)
UNSIGNED32: KeyType[int] = KeyType("integer", _unsigned32)
LINE: KeyType[str] = KeyType("text in one line", _line)
SIZE: KeyType[int] = KeyType("size", units.parse_size)
BIT_RATE: KeyType[int] = KeyType("bit rate", units.parse_bit_rate)
WORDS: KeyType[list[str]] = KeyType("list", lambda text: [word.strip() for word in text.split(",") if word.strip()])
IPV4: KeyType[ipaddress.IPv4Address] = KeyType("IPv4 address", ipaddress.IPv4Address)
IPV6: KeyType[ipaddress.IPv6Address] = KeyType("IPv6 address", ipaddress.IPv6Address)


def _compression(text: str) -> str:
    compressors.compose(text)
    return text


def _expiry(text: str) -> str:
    try:
        units.add_expiry(datetime.now(UTC), text)
    except InvalidRequest as error:
        raise InvalidRequest(f"{error} {text!r}: use numbers with M, H, d, w, m or y, as in 1w 2d") from error
    return text


def _architecture(text: str) -> str:
    known = sorted(architectures.NAMES.values())
    if text not in known:
        raise InvalidRequest(f'Invalid value "{text}" (not one of {", ".join(known)})')
    return text


COMPRESSION: KeyType[str] = KeyType("compression algorithm", _compression)
EXPIRY: KeyType[str] = KeyType("expiry", _expiry)
ARCHITECTURE: KeyType[str] = KeyType("architecture", _architecture)


def enum(*words: str) -> KeyType[str]:
    """One of some words."""

    def parse(text: str) -> str:
        if text not in words:
            raise InvalidRequest(f'Invalid value "{text}" (not one of {", ".join(words)})')
        return text

    return KeyType("one of " + ", ".join(words), parse)


def integer_between(low: int, high: int) -> KeyType[int]:
    """A whole number within bounds, both included."""

    def parse(text: str) -> int:
        value = _integer(text)
        if not low <= value <= high:
            raise InvalidRequest(f'Invalid value "{text}". Must be between {low} and {high}')
        return value

    return KeyType("integer", parse)


def matching(pattern: str, noun: str) -> KeyType[str]:
    """Text that matches a regular expression as a whole."""
    compiled = re.compile(pattern)

    def parse(text: str) -> str:
        if compiled.fullmatch(text) is None:
            raise InvalidRequest(f'Invalid {noun} "{text}"')
        return text

    return KeyType(noun, parse)


@dataclass(frozen=True, slots=True)
class Key(Generic[T]):
    """One config key, or a family where the name ends in `.*` or has `*` for one part (`limits.kernel.*`).

    `live` keys take effect on running things; `applies` limits a key to some kinds of thing (empty: all);
    a `secret` is never shown.
    """

    name: str
    type: KeyType[T]
    default: str | None = None
    live: bool = True
    doc: str = ""
    applies: frozenset[str] = frozenset()
    scope: str = "global"
    secret: bool = False

    def check(self, text: str, problem: str = "") -> None:
        """Raise InvalidRequest where the value is none of this key's; empty is always allowed and means unset.

        The message is `problem` with the reason after a colon.
        """
        if text == "":
            return
        try:
            self.type.parse(text)
        except (InvalidRequest, ValueError) as error:
            raise InvalidRequest(f"{problem or f'Invalid value for config key {self.name!r}'}: {error}") from error


class KeyTable:
    """The keys of one noun or driver. `free` prefixes (`user.`) take any name and value."""

    def __init__(self, *keys: Key[Any], free: Iterable[str] = ("user.",)) -> None:
        self._exact = {key.name: key for key in keys if "*" not in key.name}
        self._families = [(_family(key.name), key) for key in keys if "*" in key.name]
        self._free = tuple(free)

    def __iter__(self) -> Iterator[Key[Any]]:
        yield from self._exact.values()
        for _, key in self._families:
            yield key

    def __add__(self, other: "KeyTable") -> "KeyTable":
        return KeyTable(*self, *other, free=dict.fromkeys((*self._free, *other._free)))

    def find(self, name: str) -> Key[Any] | None:
        """The key that this name belongs to."""
        if name in self._exact:
            return self._exact[name]
        for pattern, key in self._families:
            if pattern.fullmatch(name):
                return key
        return None

    def is_free(self, name: str) -> bool:
        """Whether any value may stand under this name."""
        return name.startswith(self._free)

    def validate(self, config: Mapping[str, str], unknown: Callable[[str], str], wrong: Callable[[str], str]) -> None:
        """Check every name and value; raises InvalidRequest for the first that is wrong.

        The nouns have different words for that: `unknown` and `wrong` make the messages of a key's name; after the
        latter comes the reason.
        """
        for name, text in config.items():
            if self.is_free(name):
                continue
            key = self.find(name)
            if key is None:
                raise InvalidRequest(unknown(name))
            key.check(text, wrong(name))


def _family(name: str) -> re.Pattern[str]:
    if name.endswith(".*"):
        return re.compile(re.escape(name[:-1]).replace(r"\*", "[^.]+") + ".+")
    return re.compile(re.escape(name).replace(r"\*", "[^.]+"))


class Config(Mapping[str, str]):
    """Stored configuration with typed reads: `config[KEY]` is the parsed value or the key's parsed default."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = dict(values)

    @overload
    def __getitem__(self, key: str) -> str: ...
    @overload
    def __getitem__(self, key: Key[T]) -> T | None: ...
    def __getitem__(self, key: "str | Key[Any]") -> Any:
        if isinstance(key, str):
            return self._values[key]
        text = self._values.get(key.name) or key.default
        return key.type.parse(text) if text is not None and text != "" else None

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)
