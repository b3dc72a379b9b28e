"""Times of the API (RFC 3339 text) as users see them."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import datetime

_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]


def is_set(text: str | None) -> bool:
    """Whether a time is one: neither absent nor the epoch or before."""
    return bool(text) and text is not None and not text.startswith(("0001-01-01", "1970-01-01T00:00:00"))


def parse_time(text: str) -> datetime:
    """The moment of an RFC 3339 text."""
    from datetime import datetime

    moment, fraction, offset = _split(text)
    return datetime.fromisoformat(f"{moment}.{(fraction + '000000')[:6]}{offset}")


def _split(text: str) -> tuple[str, str, str]:
    """(Seconds, fraction, offset) of an RFC 3339 text."""
    offset = "+00:00" if text.endswith(("Z", "z")) else text[-6:]
    clock = text[:-1] if text.endswith(("Z", "z")) else text[:-6]
    moment, _, fraction = clock.partition(".")
    return moment, fraction, offset


def format_utc(text: str) -> str:
    """`2006/01/02 15:04 UTC`."""
    if text.endswith("Z"):
        return f"{text[0:4]}/{text[5:7]}/{text[8:10]} {text[11:16]} UTC"
    from datetime import UTC

    return parse_time(text).astimezone(UTC).strftime("%Y/%m/%d %H:%M UTC")


def format_local(text: str) -> str:
    """`2006/01/02 15:04 MST`, in the user's time zone."""
    return parse_time(text).astimezone().strftime("%Y/%m/%d %H:%M %Z")


def format_long_utc(text: str) -> str:
    """`Jan 2, 2006 at 3:04pm (UTC)`."""
    from datetime import UTC

    moment = parse_time(text).astimezone(UTC)
    hour = moment.hour % 12 or 12
    half = "pm" if moment.hour >= 12 else "am"
    month = _MONTHS[moment.month - 1]
    return f"{month} {moment.day}, {moment.year} at {hour}:{moment.minute:02d}{half} (UTC)"
