"""When snapshots are taken by themselves: aliases such as @daily, and cron expressions, several after each other. Pure.

Several are separated by a comma and a space, because a comma alone is part of a cron expression. An alias spreads the
snapshots over its span: each instance and volume has a minute (and an hour) of its own.
"""

import os
import zlib
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from corral.errors import InvalidRequest
from corral.server.keys import KeyType

_ALIASES = {
    "@hourly": "{minute} * * * *",
    "@daily": "{minute} {hour} * * *",
    "@midnight": "{minute} 0 * * *",
    "@weekly": "{minute} {hour} * * 0",
    "@monthly": "{minute} {hour} 1 * *",
    "@annually": "{minute} {hour} 1 1 *",
    "@yearly": "{minute} {hour} 1 1 *",
}
STARTUP, NEVER = "@startup", "@never"
_LENGTH_LIMIT = 1000
_FORM = "Schedule must be of the form: <minute> <hour> <day-of-month> <month> <day-of-week>"


def split(schedule: str) -> list[str]:
    """The parts of a schedule, in lower case. Aliases may also follow a comma alone."""
    parts: list[str] = []
    for part in schedule.lower().split(", "):
        words = [word.strip() for word in part.split(",")]
        # A question mark says what a star says.
        parts += words if all(word.startswith("@") for word in words) else [part.strip().replace("?", "*")]
    return parts


def check(schedule: str, more_aliases: Iterable[str] = ()) -> str:
    """The schedule as it is. Raises InvalidRequest where no snapshots could be taken by it."""
    if len(schedule) > _LENGTH_LIMIT:
        raise InvalidRequest(f"Schedule is longer than {_LENGTH_LIMIT} characters")
    aliases = {*_ALIASES, *more_aliases}
    for part in split(schedule):
        if part in aliases:
            continue
        if part.startswith("@"):
            raise InvalidRequest(f"{_FORM}, or one of {', '.join(sorted(aliases))}")
        if len(part.split(" ")) != 5:
            raise InvalidRequest(_FORM)
        try:
            next(CronSim(part, datetime(2024, 1, 1)))
        except (CronSimError, StopIteration, ValueError, AssertionError) as error:
            raise InvalidRequest(f"Error parsing schedule: {part!r}: {error or 'it never comes'}") from error
    return schedule


VOLUME_SCHEDULE: KeyType[str] = KeyType("cron expression", lambda text: check(text, (NEVER,)))
INSTANCE_SCHEDULE: KeyType[str] = KeyType("cron expression", lambda text: check(text, (STARTUP, NEVER)))


def takes_at_start(schedule: str) -> bool:
    """Whether a start of the instance takes a snapshot."""
    return STARTUP in split(schedule)


def is_due(schedule: str, subject: int, minute: datetime) -> bool:
    """Whether a schedule takes a snapshot in a minute; `subject` is the id of the instance or volume.

    The minute has a time zone. An hour that a change of the clocks repeats or leaves out counts once.
    """
    before = (minute.astimezone(UTC) - timedelta(minutes=1)).astimezone(minute.tzinfo)
    return any(_is_now(expression, before, minute) for expression in _expressions(schedule, subject))


def _expressions(schedule: str, subject: int) -> list[str]:
    seed = zlib.crc32(str(subject).encode())
    own = {"minute": seed % 60, "hour": seed // 60 % 24}
    parts = [part for part in split(schedule) if part not in (STARTUP, NEVER)]
    return [_ALIASES[part].format(**own) if part in _ALIASES else part for part in parts]


def _is_now(expression: str, before: datetime, minute: datetime) -> bool:
    try:
        # As moments: two times of one zone are equal when their clocks show the same.
        return next(CronSim(expression, before)).timestamp() == minute.timestamp()
    except (CronSimError, StopIteration, ValueError, AssertionError):
        # It was refused when it was set; one of an older program takes no snapshots.
        return False


def local_zone() -> tzinfo:
    """The time zone of this machine, with its changes of the clocks; UTC where it has none."""
    name = os.environ.get("TZ", "").removeprefix(":")
    try:
        if name and not name.startswith("/"):
            return ZoneInfo(name)
        with open(Path(name or "/etc/localtime"), "rb") as file:
            return ZoneInfo.from_file(file)
    except (OSError, ValueError):
        return UTC
