"""How much of the daemon each guest may have: connections, requests at once, requests in a time. No HTTP here.

A guest that asks for too much waits, or loses the connections it left idle; others never notice.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

MOST_CONNECTIONS = 256
MOST_REQUESTS = 8
MOST_DOWNLOADS = 2
MOST_WATCHERS = 32
RATE_PER_S = 50.0
BURST = 200.0
ARRIVAL_RATE_PER_S = 100.0
ARRIVAL_BURST = 500.0
"""New connections in a time. What comes above that is turned away, which costs less than to serve it."""

Clock = Callable[[], float]


@dataclass(eq=False, slots=True)
class Connection:
    """One connection: how to end it, whether a request is being served on it, and when it was last used."""

    close: Callable[[], None]
    used_at: float
    is_busy: bool = False


class Allowance:
    """Requests in a time: a burst, and then so many per second."""

    def __init__(self, rate_per_s: float, burst: float, clock: Clock) -> None:
        self._rate, self._burst, self._clock = rate_per_s, burst, clock
        self._left, self._at = burst, clock()

    def take(self) -> float:
        """Take one request, and return the seconds until it may be served."""
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate) - 1
        self._at = now
        return max(0.0, -self._left / self._rate)

    def take_at_once(self) -> bool:
        """Take one that can be had now; False where there is none."""
        if self._left + (self._clock() - self._at) * self._rate < 1:
            return False
        self.take()
        return True

    def is_full(self) -> bool:
        """Whether nothing is owed any more."""
        return self._left + (self._clock() - self._at) * self._rate >= self._burst


@dataclass(eq=False)
class Guest:
    """What one guest has in use."""

    instance_id: int | None
    """None: callers that belong to no instance of ours."""
    allowance: Allowance
    arrivals: Allowance
    connections: set[Connection] = field(default_factory=set)
    requests: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MOST_REQUESTS))
    downloads: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MOST_DOWNLOADS))
    watchers: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MOST_WATCHERS))

    @property
    def owes_nothing(self) -> bool:
        """Whether its allowances are whole, so that a new start gives it no more."""
        return self.allowance.is_full() and self.arrivals.is_full()

    def longest_idle(self) -> Connection | None:
        """The connection without a request that was not used for the longest time."""
        idle = (one for one in self.connections if not one.is_busy)
        return min(idle, key=lambda one: one.used_at, default=None)


class Crowd:
    """All guests that have connections. `total` bounds them all, so that the daemon keeps descriptors for itself."""

    def __init__(self, total: int, most: int = MOST_CONNECTIONS, clock: Clock = time.monotonic) -> None:
        self._total, self._most, self._clock = total, min(most, max(1, total // 2)), clock
        self._guests: dict[int | None, Guest] = {}

    def __len__(self) -> int:
        return sum(len(guest.connections) for guest in self._guests.values())

    def admit(self, instance_id: int | None, close: Callable[[], None]) -> tuple[Guest, Connection] | None:
        """Take in a connection, for which another may have to go; None where no other can."""
        guest = self._guests.get(instance_id)
        if guest is None:
            guest = Guest(
                instance_id,
                Allowance(RATE_PER_S, BURST, self._clock),
                Allowance(ARRIVAL_RATE_PER_S, ARRIVAL_BURST, self._clock),
            )
        if not guest.arrivals.take_at_once():
            return None
        if len(guest.connections) >= self._most and not self._dismiss(guest):
            return None
        if len(self) >= self._total:
            largest = max(self._guests.values(), key=lambda one: len(one.connections))
            if not self._dismiss(largest):
                return None
        connection = Connection(close, self._clock())
        guest.connections.add(connection)
        self._guests[instance_id] = guest
        return guest, connection

    def _dismiss(self, guest: Guest) -> bool:
        idle = guest.longest_idle()
        if idle is not None:
            self.leave(guest, idle)
            idle.close()
        return idle is not None

    def leave(self, guest: Guest, connection: Connection) -> None:
        """A connection is gone."""
        guest.connections.discard(connection)

    def dismiss_idle(self, idle_s: float) -> None:
        """End the connections that were not used for a time, and forget the guests that have none."""
        before = self._clock() - idle_s
        for guest in list(self._guests.values()):
            for connection in list(guest.connections):
                if not connection.is_busy and connection.used_at < before:
                    self.leave(guest, connection)
                    connection.close()
            if not guest.connections and guest.owes_nothing:
                self._guests.pop(guest.instance_id, None)

    def touch(self, connection: Connection, *, is_busy: bool) -> None:
        """A request begins or ends on a connection."""
        connection.is_busy, connection.used_at = is_busy, self._clock()
