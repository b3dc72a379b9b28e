"""Counts wrong passwords and tokens by the address they come from, so that nobody can try many."""

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable

from corral.errors import Forbidden

ALLOWED = 10
WINDOW_S = 60.0
MAX_ADDRESSES = 4096


class Guesses:
    """At most `ALLOWED` wrong answers an address in `WINDOW_S` seconds; the memory it takes is bounded."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._wrong: OrderedDict[str, list[float]] = OrderedDict()

    def check(self, address: str) -> None:
        """Raise Forbidden where an address has guessed too often."""
        address = _network_of(address)
        since = self._clock() - WINDOW_S
        recent = [moment for moment in self._wrong.get(address, []) if moment > since]
        if recent:
            self._wrong[address] = recent
        else:
            self._wrong.pop(address, None)
        if len(recent) >= ALLOWED:
            raise Forbidden("not authorized: too many wrong passwords or tokens, try again in a minute")

    def add(self, address: str) -> None:
        """Count a wrong answer."""
        address = _network_of(address)
        self._wrong.setdefault(address, []).append(self._clock())
        self._wrong.move_to_end(address)
        while len(self._wrong) > MAX_ADDRESSES:
            self._wrong.popitem(last=False)


def _network_of(address: str) -> str:
    """What one who guesses has of its own: an IPv4 address, but of IPv6 a whole /64."""
    try:
        ip = ipaddress.IPv6Address(address.strip("[]").partition("%")[0])
    except ValueError:
        return address
    return str(ipaddress.IPv6Network((int(ip) >> 64 << 64, 64)))
