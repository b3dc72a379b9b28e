"""Sizes, rates, durations and truth values as LXD writes them: parse and format, pure.

Source: the config reference of LXD 5.0 ("Units for storage and network limits", "Instance options").
"""

import calendar
import re
from datetime import datetime, timedelta

from corral.errors import InvalidRequest

_BYTE_SUFFIXES = {
    "": 1,
    "B": 1,
    " bytes": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "PB": 10**15,
    "EB": 10**18,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
    "PiB": 2**50,
    "EiB": 2**60,
}
_BIT_SUFFIXES = {
    "": 1,
    "bit": 1,
    "kbit": 10**3,
    "Mbit": 10**6,
    "Gbit": 10**9,
    "Tbit": 10**12,
    "Pbit": 10**15,
    "Ebit": 10**18,
    "Kibit": 2**10,
    "Mibit": 2**20,
    "Gibit": 2**30,
    "Tibit": 2**40,
    "Pibit": 2**50,
    "Eibit": 2**60,
}
_QUANTITY = re.compile(r"([0-9]+)( ?[A-Za-z]*)")

TRUE_WORDS = frozenset({"true", "1", "yes", "on"})
FALSE_WORDS = frozenset({"false", "0", "no", "off"})


def _parse_quantity(text: str, suffixes: dict[str, int], noun: str) -> int:
    if text == "":
        return 0
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise InvalidRequest(f"Invalid value: {text}")
    factor = suffixes.get(match[2])
    if factor is None:
        raise InvalidRequest(f"Invalid value: {text} ({match[2]!r} is no suffix of a {noun})")
    value = int(match[1]) * factor
    if value >= 2**63:
        raise InvalidRequest(f"Value is too large: {text}")
    return value


def parse_size(text: str) -> int:
    """Bytes in `10GiB`, `512MB`, `1024` or `` (0)."""
    return _parse_quantity(text, _BYTE_SUFFIXES, "size")


def parse_bit_rate(text: str) -> int:
    """Bits per second in `100Mbit`, `1Gbit` or ``."""
    return _parse_quantity(text, _BIT_SUFFIXES, "bit rate")


def format_size(size: int, precision: int = 2) -> str:
    """Bytes for people, in powers of 1000: `1.50GB`, `12B`."""
    if abs(size) < 1000:
        return f"{size}B"
    value = float(size)
    for unit in ("kB", "MB", "GB", "TB", "PB"):
        value /= 1000
        if abs(value) < 1000:
            return f"{value:.{precision}f}{unit}"
    return f"{value / 1000:.{precision}f}EB"


def format_size_iec(size: int, precision: int = 2) -> str:
    """Bytes for people, in powers of 1024: `1.50GiB`, `12B`."""
    if abs(size) < 1024:
        return f"{size}B"
    value = float(size)
    for unit in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        value /= 1024
        if abs(value) < 1024:
            return f"{value:.{precision}f}{unit}"
    return f"{value / 1024:.{precision}f}EiB"


def is_true(text: str | None) -> bool:
    """Whether a config value says yes; absent and empty say no."""
    return (text or "").lower() in TRUE_WORDS


def parse_boolean(text: str) -> bool:
    """A config value that must be a truth value."""
    word = text.lower()
    if word in TRUE_WORDS:
        return True
    if word in FALSE_WORDS or word == "":
        return False
    raise InvalidRequest(f'Invalid value for a boolean "{text}"')


def parse_id_ranges(text: str) -> list[int]:
    """Sorted members of a set such as `0-3,7` (CPUs, NUMA nodes)."""
    members: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise InvalidRequest(f"Invalid set of numbers {text!r}: give numbers and ranges, as in 0-3,7")
        low, high = int(first), int(last) if dash else int(first)
        if high < low or high - low > 65536:
            raise InvalidRequest(f"Invalid range {part!r} in {text!r}")
        members.update(range(low, high + 1))
    return sorted(members)


def format_id_ranges(members: list[int]) -> str:
    """The shortest text of a set of numbers: [0, 1, 2, 7] is `0-2,7`."""
    parts: list[str] = []
    run: list[int] = []
    for number in [*sorted(set(members)), None]:
        if run and number is not None and number == run[-1] + 1:
            run.append(number)
            continue
        if run:
            parts.append(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}")
        run = [number] if number is not None else []
    return ",".join(parts)


_EXPIRY_PART = re.compile(r"([0-9]{1,9})([SMHdwmy])")


def add_expiry(moment: datetime, text: str) -> datetime:
    """A moment some time later, given as `1M 2H 3d 4w 5m 6y` (minutes, hours, days, weeks, months, years).

    A month or year that lacks the day flows over into the next one, as in Go's AddDate.
    """
    amounts: dict[str, int] = {}
    for part in text.split():
        match = _EXPIRY_PART.fullmatch(part)
        if match is None or amounts.get(match[2]):
            raise InvalidRequest("Invalid expiry expression")
        amounts[match[2]] = int(match[1])
    months = moment.month - 1 + amounts.get("m", 0)
    try:
        year, month = moment.year + amounts.get("y", 0) + months // 12, months % 12 + 1
        last = calendar.monthrange(year, month)[1]
        overflow = max(0, moment.day - last)
        shifted = moment.replace(year=year, month=month, day=moment.day - overflow)
        return shifted + timedelta(
            days=overflow + amounts.get("d", 0) + 7 * amounts.get("w", 0),
            hours=amounts.get("H", 0),
            minutes=amounts.get("M", 0),
            seconds=amounts.get("S", 0),
        )
    except (OverflowError, ValueError) as error:
        raise InvalidRequest("Invalid expiry expression") from error
