"""Named locks."""

import asyncio

import pytest

from corral.errors import Busy
from corral.server.locks import Locks


async def test_hold_admits_one_at_a_time_and_forgets() -> None:
    locks, inside, most = Locks(), 0, 0

    async def work() -> None:
        nonlocal inside, most
        async with locks.hold("image", "abc"):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*(work() for _ in range(10)))
    assert most == 1
    assert not locks._locks
    assert not locks._users


async def test_different_names_do_not_wait() -> None:
    locks = Locks()
    async with locks.hold("a"), locks.hold("b"):
        pass


def test_claim_refuses_the_second() -> None:
    locks = Locks()
    with locks.claim("instance", 1, doing="start"):
        assert locks.claimed("instance", 1) == "start"
        with pytest.raises(Busy, match="start"), locks.claim("instance", 1, doing="stop"):
            raise AssertionError("not reached")
        with (
            pytest.raises(Busy, match="Come back later"),
            locks.claim("instance", 1, doing="stop", message="Come back later"),
        ):
            raise AssertionError("not reached")
    assert locks.claimed("instance", 1) is None
