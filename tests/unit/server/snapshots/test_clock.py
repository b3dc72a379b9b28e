"""Each minute once, whatever the clock does."""

from corral.server.snapshots.clock import CATCH_UP, SETBACK, MinuteClock, seconds_to_next


def test_each_minute_comes_once() -> None:
    clock = MinuteClock(99)
    assert clock.advance(100 * 60) == [100]
    assert clock.advance(100 * 60 + 59.9) == []
    assert clock.advance(101 * 60 + 0.1) == [101]
    assert clock.advance(103 * 60) == [102, 103]


def test_a_long_sleep_is_not_made_up_for() -> None:
    clock = MinuteClock(100)
    assert clock.advance(1000 * 60) == list(range(1001 - CATCH_UP, 1001))
    assert clock.advance(1000 * 60) == []


def test_a_clock_that_is_set_back() -> None:
    clock = MinuteClock(100)
    assert clock.advance(98 * 60) == []
    assert clock.advance(100 * 60) == []
    assert clock.advance(101 * 60) == [101]
    # It was a day ahead: its minutes count from now on.
    clock = MinuteClock(100 + SETBACK + 1440)
    assert clock.advance(100 * 60) == []
    assert clock.advance(101 * 60) == [101]


def test_the_next_minute() -> None:
    assert seconds_to_next(120.0) == 60.0
    assert seconds_to_next(179.5) == 0.5
