"""Waiting for a condition, with a deadline and a message that says what did not come."""

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = float(os.environ.get("CORRAL_TEST_PATIENCE", "1"))
"""How many times longer than given everything may take: more than 1 on an emulated machine."""


def until(probe: Callable[[], T], what: str, timeout_s: float = 20.0, interval_s: float = 0.02) -> T:
    """Call `probe` until it returns something true and return that; AssertionError naming `what` at the deadline."""
    deadline = time.monotonic() + timeout_s * PATIENCE
    while True:
        found = probe()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout_s * PATIENCE:g} s")
        time.sleep(interval_s)
