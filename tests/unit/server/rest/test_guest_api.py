"""The guest API's paths, and what each guest may have of the daemon."""

from collections.abc import Callable

import pytest

from corral.server.rest import guest_api
from corral.server.rest.guest_crowd import Allowance, Crowd


class Time:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("path", "argument"),
    [
        ("/", ""),
        ("/1.0", ""),
        ("/1.0/config", ""),
        ("/1.0/config/user.foo", "user.foo"),
        ("/1.0/config/user.a%20b%2Fc", "user.a b/c"),
        ("/1.0/config/..", ".."),
        ("/1.0/images/abc/export", "abc"),
        ("/1.0/", None),
        ("/1x0", None),
        ("/1.0/config/", None),
        ("/1.0/config/a/b", None),
        ("/1.0/images//export", None),
        ("", None),
    ],
)
def test_paths(path: str, argument: str | None) -> None:
    found = guest_api.find(path)
    assert (found[1] if found is not None else None) == argument


@pytest.mark.parametrize("path", ["/1.0/config/%", "/1.0/config/%zz", "/1.0/config/%f", "/1.0/config/%ff"])
def test_damaged_escapes(path: str) -> None:
    with pytest.raises(ValueError, match=r"escape|utf-8"):
        guest_api.find(path)


def test_allowance() -> None:
    clock = Time()
    allowance = Allowance(10.0, 2.0, clock)
    assert [allowance.take() for _ in range(4)] == pytest.approx([0, 0, 0.1, 0.2])
    assert not allowance.is_full()
    clock.now += 0.4
    assert allowance.is_full()
    clock.now += 100
    assert [allowance.take() for _ in range(3)] == pytest.approx([0, 0, 0.1])


class Ends:
    """What was closed."""

    def __init__(self) -> None:
        self.closed: list[str] = []

    def __call__(self, name: str) -> Callable[[], None]:
        return lambda: self.closed.append(name)


def test_one_guest_loses_its_longest_idle_connection() -> None:
    clock, ends = Time(), Ends()
    crowd = Crowd(total=100, most=2, clock=clock)
    admitted = crowd.admit(1, ends("first"))
    assert admitted is not None
    guest, first = admitted
    clock.now += 1
    admitted = crowd.admit(1, ends("second"))
    assert admitted is not None
    assert admitted[0] is guest
    second = admitted[1]
    clock.now += 1
    crowd.touch(first, is_busy=True)
    crowd.touch(first, is_busy=False)
    third = crowd.admit(1, ends("third"))
    assert third is not None
    assert ends.closed == ["second"]
    crowd.leave(guest, second)
    crowd.touch(first, is_busy=True)
    crowd.touch(third[1], is_busy=True)
    assert crowd.admit(1, ends("fourth")) is None
    assert crowd.admit(2, ends("other")) is not None
    assert (ends.closed, len(crowd)) == (["second"], 3)


def test_where_all_have_too_many_the_greediest_gives() -> None:
    ends = Ends()
    crowd = Crowd(total=4, most=50, clock=Time())
    for name in ("a", "b"):
        assert crowd.admit(1, ends(name)) is not None
    busy = crowd.admit(2, ends("c"))
    assert busy is not None
    crowd.touch(busy[1], is_busy=True)
    assert crowd.admit(3, ends("d")) is not None
    assert crowd.admit(4, ends("e")) is not None
    assert len(ends.closed) == 1
    assert ends.closed[0] in ("a", "b")
    assert len(crowd) == 4


def test_idle_connections_end() -> None:
    clock, ends = Time(), Ends()
    crowd = Crowd(total=100, clock=clock)
    assert crowd.admit(1, ends("a")) is not None
    admitted = crowd.admit(1, ends("b"))
    assert admitted is not None
    crowd.touch(admitted[1], is_busy=True)
    clock.now += 61
    crowd.dismiss_idle(60)
    assert (ends.closed, len(crowd)) == (["a"], 1)
    crowd.leave(*admitted)
    # What it owes is remembered as long as it owes.
    assert admitted[0].allowance.take() == 0
    crowd.dismiss_idle(60)
    again = crowd.admit(1, ends("c"))
    assert again is not None
    assert again[0] is admitted[0]
    crowd.leave(*again)
    clock.now += 10
    crowd.dismiss_idle(60)
    fresh = crowd.admit(1, ends("d"))
    assert fresh is not None
    assert fresh[0] is not admitted[0]


def test_floods_of_connections_are_turned_away() -> None:
    clock, ends = Time(), Ends()
    crowd = Crowd(total=10_000, most=5000, clock=clock)
    admitted = sum(crowd.admit(1, ends(str(number))) is not None for number in range(1000))
    assert admitted == 500
    assert crowd.admit(2, ends("other")) is not None
    clock.now += 1
    admitted = sum(crowd.admit(1, ends(str(number))) is not None for number in range(1000))
    assert admitted == 100
    assert ends.closed == []
