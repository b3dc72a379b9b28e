"""Waiting for a condition, with a deadline and a message that says what did not come."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")

PATIENCE = float(os.environ.get("CORRAL_TEST_PATIENCE", "1"))
"""How many times longer than given everything may take: more than 1 on an emulated machine."""


@contextlib.contextmanager
def soon(what: str, limit_s: float = 20.0) -> Iterator[None]:
    """Fail where the block takes longer: what it does must not wait for what never ends.

    It takes milliseconds on a quiet machine; the limit is for one that is busy with other tests.
    """
    started = time.monotonic()
    yield
    spent_s = time.monotonic() - started
    assert spent_s < limit_s * PATIENCE, f"{what}: it took {spent_s:.1f} s"


def until(probe: Callable[[], T], what: str, timeout_s: float = 40.0, interval_s: float = 0.02) -> T:
    """Call `probe` until it returns something true and return that; AssertionError naming `what` at the deadline."""
    deadline = time.monotonic() + timeout_s * PATIENCE
    while True:
        found = probe()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout_s * PATIENCE:g} s")
        time.sleep(interval_s)
