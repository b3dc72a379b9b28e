"""The minutes in which scheduled work is done: each one once, whatever the machine's clock does. Pure."""

import math
from dataclasses import dataclass

CATCH_UP = 5
"""Minutes that may be done late: after a restart of the daemon, or when the machine was held up."""

SETBACK = 60
"""A clock that is set back by more minutes was wrong before: its time counts from now on."""


@dataclass(slots=True)
class MinuteClock:
    """`last` is the last minute that was done, since 1970; none before it is done again."""

    last: int

    def advance(self, now: float) -> list[int]:
        """The minutes that have come since the last call, at most the newest few."""
        present = math.floor(now / 60)
        if present <= self.last:
            if self.last - present > SETBACK:
                self.last = present
            return []
        due = range(max(self.last + 1, present - CATCH_UP + 1), present + 1)
        self.last = present
        return list(due)


def seconds_to_next(now: float) -> float:
    """How long it is to the beginning of the next minute."""
    return 60.0 - now % 60.0
