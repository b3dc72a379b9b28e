"""Named locks: one holder at a time for a thing, by its name."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Hashable, Iterator

from corral.errors import Busy


class Locks:
    """Locks that exist while somebody holds or waits for them.

    A name is any hashable value, such as ("instance", 7) or ("image", fingerprint, pool).
    """

    def __init__(self) -> None:
        self._locks: dict[Hashable, asyncio.Lock] = {}
        self._users: dict[Hashable, int] = {}
        self._busy: dict[Hashable, str] = {}

    @contextlib.asynccontextmanager
    async def hold(self, *name: Hashable) -> AsyncIterator[None]:
        """Wait for the thing and hold it."""
        lock = self._locks.setdefault(name, asyncio.Lock())
        self._users[name] = self._users.get(name, 0) + 1
        try:
            async with lock:
                yield
        finally:
            self._users[name] -= 1
            if not self._users[name]:
                del self._users[name], self._locks[name]

    def is_held(self, *name: Hashable) -> bool:
        """Whether somebody holds the thing, so that another would wait."""
        return name in self._locks and self._locks[name].locked()

    @contextlib.contextmanager
    def claim(self, *name: Hashable, doing: str, message: str = "") -> Iterator[None]:
        """Hold the thing or raise Busy at once, saying what the present holder is doing."""
        if name in self._busy:
            raise Busy(message or f"{' '.join(map(str, name)).capitalize()} is busy: {self._busy[name]}")
        self._busy[name] = doing
        try:
            yield
        finally:
            del self._busy[name]

    def claimed(self, *name: Hashable) -> str | None:
        """What the present claimant is doing, or None."""
        return self._busy.get(name)
