"""Times by Go's layouts, which show how the moment of 2 January 2006, 15:04:05 is to be written."""

import re
from collections.abc import Callable
from datetime import datetime

_CHUNK = re.compile(
    r"January|Jan(?![a-z])|Monday|Mon(?![a-z])|MST|2006|06|002|01|02|03|04|05|__2|_2(?!006)|15|1|2|3|4|5|PM|pm"
    r"|[-Z]07:00|[-Z]0700|[-Z]07|[.,](?:0+|9+)(?![0-9])"
)

_MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

_WRITERS: dict[str, Callable[[datetime], str]] = {
    "January": lambda moment: _MONTHS[moment.month - 1],
    "Jan": lambda moment: _MONTHS[moment.month - 1][:3],
    "Monday": lambda moment: _DAYS[moment.weekday()],
    "Mon": lambda moment: _DAYS[moment.weekday()][:3],
    "MST": lambda moment: moment.tzname() or "UTC",
    "2006": lambda moment: f"{moment.year:04d}",
    "06": lambda moment: f"{moment.year % 100:02d}",
    "002": lambda moment: f"{moment.timetuple().tm_yday:03d}",
    "__2": lambda moment: f"{moment.timetuple().tm_yday:3d}",
    "01": lambda moment: f"{moment.month:02d}",
    "1": lambda moment: str(moment.month),
    "02": lambda moment: f"{moment.day:02d}",
    "_2": lambda moment: f"{moment.day:2d}",
    "2": lambda moment: str(moment.day),
    "15": lambda moment: f"{moment.hour:02d}",
    "03": lambda moment: f"{moment.hour % 12 or 12:02d}",
    "3": lambda moment: str(moment.hour % 12 or 12),
    "04": lambda moment: f"{moment.minute:02d}",
    "4": lambda moment: str(moment.minute),
    "05": lambda moment: f"{moment.second:02d}",
    "5": lambda moment: str(moment.second),
    "PM": lambda moment: "PM" if moment.hour >= 12 else "AM",
    "pm": lambda moment: "pm" if moment.hour >= 12 else "am",
}


def format_go_time(moment: datetime, layout: str) -> str:
    """The moment as the layout shows it; what is no part of a time stays as it is."""
    return _CHUNK.sub(lambda chunk: _write(moment, chunk[0]), layout)


def _write(moment: datetime, chunk: str) -> str:
    if chunk in _WRITERS:
        return _WRITERS[chunk](moment)
    if chunk[0] in "-Z":
        return _offset(moment, chunk)
    digits = f"{moment.microsecond:06d}000"[: len(chunk) - 1]
    if chunk[1] == "9":
        digits = digits.rstrip("0")
    return chunk[0] + digits if digits else ""


def _offset(moment: datetime, chunk: str) -> str:
    span = moment.utcoffset()
    minutes = int(span.total_seconds()) // 60 if span is not None else 0
    if chunk[0] == "Z" and minutes == 0:
        return "Z"
    sign, hours = "-" if minutes < 0 else "+", abs(minutes) // 60
    rest = {"07:00": f":{abs(minutes) % 60:02d}", "0700": f"{abs(minutes) % 60:02d}", "07": ""}[chunk[1:]]
    return f"{sign}{hours:02d}{rest}"
